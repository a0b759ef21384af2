//! Every link of the documents leads somewhere: to a file, a heading, or a test.

use std::collections::HashSet;
use std::path::Path;

use super::catalogue::{read, root};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "DESIGN.md",
    "RELIABILITY.md",
    "CONTRIBUTING.md",
    "tests/README.md",
];

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
        // A test is linked to by its name.
        there.contains(&format!("fn {anchor}(")) || there.contains(&format!("fn {anchor}<"))
    } else {
        anchors(&there).contains(anchor)
    };
    (!is_there).then(|| format!("{path}: {target}: there is no {anchor}"))
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
    for path in DOCUMENTS {
        let text = read(path);
        assert_eq!(broken(path, &text), Vec::<String>::new());
    }
    // The control: these do not.
    for target in [
        "nowhere.md",
        "#nowhere",
        "DESIGN.md#nowhere",
        "tests/lock/main.rs#nowhere",
    ] {
        assert_eq!(
            broken("README.md", &format!("[a]({target})")).len(),
            1,
            "{target}"
        );
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

/// Whether the sentence has a link to a test.
fn is_linked(sentence: &str) -> bool {
    let mut targets = targets(sentence).into_iter();
    targets.any(|target| target.contains(".rs#"))
}

#[test]
fn every_sentence_that_the_readme_promises_links_to_its_test() {
    let readme = read("README.md");
    let sentences = promised(&readme);
    assert!(sentences.len() > 6, "{sentences:#?}");
    for sentence in sentences {
        assert!(is_linked(&sentence), "{sentence}");
    }
    // The control.
    let unlinked = readme.replacen(
        "\n- While the store",
        "\n- It is quick.\n- While the store",
        1,
    );
    let mut sentences = promised(&unlinked).into_iter();
    assert!(!sentences.all(|sentence| is_linked(&sentence)));
}
