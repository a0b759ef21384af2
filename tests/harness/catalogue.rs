//! RELIABILITY.md and the tests agree: each row of the fault catalogue is a module with a title, no
//! test is named that is not there, and rows are in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The sources below a folder of the workspace, and what they hold.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The module of a row, such as `w04_late_answers`, as what the catalogue calls the row: `W4`.
fn row_of(module: &str) -> Option<String> {
    let letters = module.get(..1)?;
    let (number, title) = module.get(1..)?.split_once('_')?;
    let is_title = title.starts_with(|first: char| first.is_ascii_lowercase());
    let number: u32 = number.parse().ok()?;
    is_title.then(|| format!("{}{number}", letters.to_uppercase()))
}

/// The names of the tests of a source, also of those that a macro makes of a list of cases.
pub(crate) fn tests_of(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    let mut is_list = false;
    for line in text.lines().map(str::trim) {
        let name = |line: &str| {
            line.split(['(', '<', ':', ',', ';'])
                .next()
                .unwrap()
                .to_owned()
        };
        let is_macro = ["cases!", "on_each_store!"]
            .iter()
            .any(|list| line.starts_with(list));
        is_list = (is_list || is_macro) && line != "}";
        is_test |= line.starts_with("#[tokio::test") || line == "#[test]";
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(function) = function.strip_prefix("fn ") {
            if std::mem::take(&mut is_test) {
                names.insert(name(function));
            }
        } else if is_list && !is_macro {
            names.insert(name(line));
        }
    }
    names
}

/// The rows of the catalogue: the tests, or whole modules, that each names.
fn rows(catalogue: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rows = BTreeMap::<String, BTreeSet<String>>::new();
    for line in catalogue.lines().filter_map(|line| line.strip_prefix("| ")) {
        let Some((row, rest)) = line.split_once(" |") else {
            continue;
        };
        let names = rest.split('`').skip(1).step_by(2).map(str::to_owned);
        rows.entry(row.to_owned()).or_default().extend(names);
    }
    rows
}

/// The tables that say for each failure which tests there are, without rows that have a name.
const TABLES_OF_TESTS: &[&str] = &[
    "### Jobs, leaders and several keys",
    "### Readers, permits and shards",
];

/// Whether the name in the catalogue is that of a test, with its modules or without.
fn is_test_name(name: &str) -> bool {
    let test = name.rsplit("::").next().unwrap();
    test.matches('_').count() > 2 && !name.contains(['.', '/', ' ', '='])
}

/// The tests in [`TABLES_OF_TESTS`] that are named without the module that they are in.
fn without_module(catalogue: &str) -> Vec<String> {
    let mut found = Vec::new();
    for heading in TABLES_OF_TESTS {
        let (_, table) = catalogue.split_once(heading).unwrap();
        let table = table.split("\n### ").next().unwrap();
        let names = table.split('`').skip(1).step_by(2);
        let bare = names.filter(|name| is_test_name(name) && !name.contains("::"));
        found.extend(bare.map(|name| format!("{heading}: {name} has no module")));
    }
    found
}

/// The rows that stand behind one with a larger number, or with the same.
fn out_of_order(catalogue: &str) -> Vec<String> {
    let mut last = BTreeMap::<&str, u32>::new();
    let mut found = Vec::new();
    for line in catalogue.lines().filter_map(|line| line.strip_prefix("| ")) {
        let row = line.split(" |").next().unwrap();
        let Some((letter, number)) = row.split_at_checked(1) else {
            continue;
        };
        let Ok(number) = number.parse() else {
            continue;
        };
        let before = last.insert(letter, number);
        if before.is_some_and(|before| before >= number) {
            found.push(format!("row {row} is out of order"));
        }
    }
    found
}

/// What the catalogue says and the tree has not, and the other way round.
///
/// `modules` are those of rows, with their tests; `tests` are the names of all, alone, with their
/// file, and with their file and its folder.
fn differences(
    reliability: &str,
    modules: &BTreeMap<String, BTreeSet<String>>,
    tests: &BTreeSet<String>,
) -> Vec<String> {
    let (_, catalogue) = reliability.split_once("## Fault catalogue").unwrap();
    let (catalogue, _) = catalogue.split_once("\n## ").unwrap();
    let rows = rows(catalogue);
    let mut found = [without_module(catalogue), out_of_order(catalogue)].concat();
    for (module, tests) in modules {
        // A module of several rows stands in the first.
        let row = row_of(module).unwrap();
        let Some(named) = rows.get(&row) else {
            found.push(format!("{module} has no row {row}"));
            continue;
        };
        for test in tests {
            let path = format!("{module}::{test}");
            if !named.contains(&path) && !named.contains(module) {
                found.push(format!("row {row} does not name {path}"));
            }
        }
    }
    for name in reliability.split('`').skip(1).step_by(2) {
        let is_there = match name.split_once("::") {
            Some((module, test)) if row_of(module).is_some() => modules
                .get(module)
                .is_some_and(|tests| tests.contains(test)),
            None if row_of(name).is_some() => modules.contains_key(name),
            _ => !is_test_name(name) || tests.contains(name),
        };
        if !is_there {
            found.push(format!("RELIABILITY.md names {name}, which is not there"));
        }
    }
    found
}

/// The modules of rows with their tests, and the names of all tests.
fn tree() -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) {
    let mut modules = BTreeMap::<String, BTreeSet<String>>::new();
    let mut all = BTreeSet::new();
    for folder in [
        "tests",
        "lock-runtime",
        "lock-protocol",
        "lock-conformance",
        "lock-consul",
        "lock-etcd",
        "lock-store",
    ] {
        for (path, text) in sources(folder) {
            let mut tests = tests_of(&text);
            let file = path.file_stem().unwrap().to_str().unwrap();
            let folder = path.parent().unwrap().file_name().unwrap();
            let folder = folder.to_str().unwrap();
            for test in &tests {
                all.insert(format!("{file}::{test}"));
                all.insert(format!("{folder}::{file}::{test}"));
            }
            if path.starts_with(root().join("tests/faults")) || row_of(file).is_some() {
                // A file is a row, or has modules that are rows.
                if row_of(file).is_some() {
                    modules
                        .entry(file.to_owned())
                        .or_default()
                        .extend(tests.clone());
                }
            }
            for part in text.split("\nmod ").skip(1) {
                let name = part.split([' ', ';']).next().unwrap();
                let end = part.find("\n}").unwrap_or(part.len());
                if row_of(name).is_some() && part[name.len()..].starts_with(" {") {
                    modules
                        .entry(name.to_owned())
                        .or_default()
                        .extend(tests_of(&part[..end]));
                }
            }
            // Promises of the conformance suite are functions that it mounts as tests.
            let promises = text
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn "));
            tests.extend(promises.map(|line| line.split(['(', '<']).next().unwrap().to_owned()));
            all.extend(tests);
        }
    }
    (modules, all)
}

#[test]
fn the_catalogue_and_the_tests_have_the_same_rows() {
    let (modules, tests) = tree();
    let found = differences(&read("RELIABILITY.md"), &modules, &tests);
    assert!(found.is_empty(), "{found:#?}");
}

/// The control: each way in which they can part is seen.
#[test]
fn a_row_and_a_test_that_are_missing_are_seen() {
    let text = read("RELIABILITY.md");
    let (modules, tests) = tree();
    let (row, path) = (
        "| W6 |",
        "w06_killed_in_the_queue::a_queued_process_that_crashed_costs_nothing",
    );
    assert!(text.contains(row) && text.contains(path));

    let without_row = text.replace(row, "| |");
    assert!(!differences(&without_row, &modules, &tests).is_empty());
    let without_name = text.replace(path, "");
    assert!(!differences(&without_name, &modules, &tests).is_empty());

    let (module, test) = path.split_once("::").unwrap();
    let mut fewer = modules.clone();
    fewer.get_mut(module).unwrap().remove(test);
    assert!(!differences(&text, &fewer, &tests).is_empty());
    fewer.remove(module);
    assert!(!differences(&text, &fewer, &tests).is_empty());
    let none = BTreeSet::new();
    assert!(!differences(&text, &modules, &none).is_empty());

    // So are a test of a table that is in another file, or in no file, and a row out of order.
    let path = "`shapes::shards::the_fencing_tokens_of_a_shard_grow`";
    assert!(text.contains(path));
    for wrong in [
        "`shapes::nested::the_fencing_tokens_of_a_shard_grow`",
        "`the_fencing_tokens_of_a_shard_grow`",
    ] {
        let elsewhere = text.replace(path, wrong);
        assert_eq!(
            differences(&elsewhere, &modules, &tests).len(),
            1,
            "{wrong}"
        );
    }
    let (_, behind) = text.split_once("\n| E15 |").unwrap();
    let row = format!("\n| E15 |{}", behind.split('\n').next().unwrap());
    let twice = text.replace(&row, &row.repeat(2));
    assert_eq!(differences(&twice, &modules, &tests).len(), 1);
}
