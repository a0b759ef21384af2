//! What the compiler says about a wrong use of the attribute: one mistake a file, named after the
//! rule.
//!
//! The compiler's own part of a message differs between its versions, so the messages are compared
//! on one of them only. To write them anew:
//! `TRYBUILD=overwrite cargo +1.95.0 test -p lock-attribute-tests --test ui`, and read what changed
//! as a user would.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The compiler whose words the `.stderr` files hold.
const PINNED: &str = "rustc 1.95.0 ";

/// The files with several mistakes, and how many.
const SEVERAL: [(&str, usize); 1] = [("all_mistakes_at_once", 5)];

/// What only generated code names.
const GENERATED: [&str; 10] = [
    "__private",
    "__spec",
    "__slot",
    "__body",
    "__key",
    "__ret",
    "__error",
    "__duration",
    "__arg",
    "__future",
];

#[test]
fn each_mistake_has_its_message() {
    let found = compiler();
    if !found.starts_with(PINNED) {
        let message = format!("the messages are those of {PINNED}, this is {found}");
        assert!(env::var_os("CI").is_none(), "{message}");
        eprintln!("skipped: {message}");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn a_mistake_is_one_error_in_the_users_words() {
    let messages = messages();
    assert!(messages.len() >= 60, "{}", messages.len());
    for file in messages {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let message = fs::read_to_string(&file).unwrap();
        let errors = message.lines().filter(|line| line.starts_with("error"));
        let several = SEVERAL.iter().find(|(several, _)| *several == name);
        let expected = several.map_or(1, |(_, count)| *count);
        assert_eq!(errors.count(), expected, "{name}:\n{message}");
        // `$RUST` depends on whether the sources of the standard library are installed.
        for foreign in GENERATED.iter().chain(&["warning:", "$RUST"]) {
            assert!(
                !message.contains(foreign),
                "{name} shows {foreign}:\n{message}"
            );
        }
    }
}

#[test]
fn every_case_has_its_message() {
    let cases = files("tests/ui/fail", "rs");
    let messages = messages();
    let of = |file: &PathBuf| file.file_stem().unwrap().to_owned();
    let cases: Vec<_> = cases.iter().map(of).collect();
    let messages: Vec<_> = messages.iter().map(of).collect();
    assert_eq!(cases, messages);
}

fn messages() -> Vec<PathBuf> {
    files("tests/ui/fail", "stderr")
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
