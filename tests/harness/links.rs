//! Every link of the documents leads somewhere: to a file, a heading, or a test.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::catalogue::{read, root, tests_of};

/// The documents of the repository, as paths within it. What is built or fetched is none.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !["target", "node_modules", ".git"].contains(&name) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the links of a document lead.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let links = prose.split("](").skip(1);
    let links = links.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    links.collect()
}

/// The anchors of the headings, as forges make them.
fn anchors(text: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    for heading in prose(text).lines().filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim();
        let letters = heading.chars().filter_map(|letter| match letter {
            ' ' => Some('-'),
            letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
            _ => None,
        });
        anchors.insert(letters.collect::<String>().to_lowercase());
    }
    anchors
}

/// What is wrong with a link of the document at `path`, if anything is.
fn wrong(path: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let place = Path::new(path).parent().unwrap().join(file);
    if !file.is_empty() && !root().join(&place).exists() {
        return Some(format!("{path}: {target}: there is no {}", place.display()));
    }
    let there = match file {
        "" => text.to_owned(),
        _ if anchor.is_empty() => return None,
        _ => read(place.to_str().unwrap()),
    };
    let is_there = if file.ends_with(".rs") {
        // A test is linked to by its name. A function that is none shows nothing.
        tests_of(&there).contains(anchor)
    } else {
        anchors(&there).contains(anchor)
    };
    let what = if file.ends_with(".rs") {
        "test"
    } else {
        "heading"
    };
    (!is_there).then(|| format!("{path}: {target}: there is no {what} {anchor}"))
}

fn broken(path: &str, text: &str) -> Vec<String> {
    let targets = targets(text);
    targets
        .iter()
        .filter_map(|target| wrong(path, text, target))
        .collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = documents();
    // Those of the packages and of the forge are among them.
    for path in [
        "README.md",
        "lock-etcd/README.md",
        ".github/pull_request_template.md",
    ] {
        assert!(documents.iter().any(|found| found == path), "{documents:?}");
    }
    let broken_links = documents.iter().flat_map(|path| broken(path, &read(path)));
    assert_eq!(broken_links.collect::<Vec<_>>(), Vec::<String>::new());
    // The control: these do not. `process` is a function, and no test.
    for (path, target) in [
        ("README.md", "nowhere.md"),
        ("README.md", "#nowhere"),
        ("README.md", "DESIGN.md#nowhere"),
        ("README.md", "tests/lock/main.rs#nowhere"),
        ("README.md", "tests/redis/queueing.rs#process"),
        ("tests/README.md", "RELIABILITY.md"),
        ("lock-etcd/README.md", "../lock-etcd/nowhere.md"),
    ] {
        let link = format!("[a]({target})");
        assert_eq!(broken(path, &link).len(), 1, "{path}: {target}");
    }
}

/// What the README promises, sentence by sentence.
fn promised(readme: &str) -> Vec<String> {
    let (_, rest) = readme.split_once("**Promised**").unwrap();
    let (promised, _) = rest.split_once("\n\n**Not promised").unwrap();
    let items = promised.split("\n- ").skip(1);
    let words = |item: &str| item.split_whitespace().collect::<Vec<_>>().join(" ");
    items.map(words).collect()
}

/// Whether the promise has a link to a test that is there.
fn is_linked(promise: &str) -> bool {
    let targets = targets(promise).into_iter();
    let mut tests = targets.filter(|target| target.contains(".rs#"));
    tests.any(|target| wrong("README.md", promise, &target).is_none())
}

#[test]
fn every_sentence_that_the_readme_promises_links_to_its_test() {
    let readme = read("README.md");
    let sentences = promised(&readme);
    assert!(sentences.len() > 6, "{sentences:#?}");
    for sentence in sentences {
        assert!(is_linked(&sentence), "{sentence}");
    }
    // The control: a promise without a link, and one that is linked to a function that is no test.
    for promise in [
        "It is quick.",
        "It is quick ([test](tests/redis/queueing.rs#process)).",
    ] {
        let first = "\n- While the store";
        let unlinked = readme.replacen(first, &format!("\n- {promise}{first}"), 1);
        let mut sentences = promised(&unlinked).into_iter();
        assert!(!sentences.all(|sentence| is_linked(&sentence)), "{promise}");
    }
}
