//! A crate outside of the project mounts the conformance suite as the README of the suite says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lock_conformance::saboteurs::Sabotage;

macro_rules! names {
    ({} $($promise:ident)+) => {
        const PROMISES: &[&str] = &[$(stringify!($promise)),+];
    };
}

lock_conformance::for_each_promise! { names, {} }

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The tests of the crate, built once.
fn tests() -> &'static Path {
    static TESTS: OnceLock<PathBuf> = OnceLock::new();
    TESTS.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["test", "--locked", "--lib", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .arg("--target-dir")
            .arg(project().join("target/outside"))
            .current_dir(project().join("tests/outside-conformance"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let messages = String::from_utf8(output.stdout).unwrap();
        let executable = messages.lines().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).unwrap();
            Some(PathBuf::from(message["executable"].as_str()?))
        });
        executable.unwrap()
    })
}

/// What the tests print of which `names` are given, with `sabotage` in front of the store.
fn run(sabotage: Sabotage, names: &[String]) -> String {
    let output = Command::new(tests())
        .args(["--exact", "--test-threads=2"])
        .args(names)
        .env("SABOTAGE", sabotage.to_string())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn has_line(output: &str, line: &str) -> bool {
    output.lines().any(|other| other == line)
}

#[test]
fn the_crate_has_the_ten_lines_of_the_readme() {
    let readme = include_str!("../../lock-conformance/README.md");
    let (_, code) = readme.split_once("```rust,ignore\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    assert_eq!(code.lines().count(), 10);
    // Its time is tokio's.
    let code = code.replace("#[tokio::test]", "#[tokio::test(start_paused = true)]");
    let file = project().join("tests/outside-conformance/src/conformance.rs");
    assert!(std::fs::read_to_string(file).unwrap().ends_with(&code));
}

#[test]
fn a_crate_outside_of_the_project_passes_the_suite_and_its_controls() {
    let promises = PROMISES.iter().flat_map(|promise| {
        ["conformance", "conformance::controls", "sabotaged"]
            .map(|module| format!("{module}::{promise}"))
    });
    let names: Vec<String> = promises.collect();
    let output = run(Sabotage::Sound, &names);
    for name in names {
        assert!(
            has_line(&output, &format!("test {name} ... ok")),
            "{output}"
        );
    }
}

#[test]
fn each_saboteur_fails_there_by_name() {
    for sabotage in Sabotage::ALL {
        let promises = sabotage.promises();
        let names: Vec<String> = promises
            .map(|promise| format!("sabotaged::{promise}"))
            .collect();
        if *sabotage == Sabotage::Sound {
            assert!(names.is_empty());
            continue;
        }
        let output = run(*sabotage, &names);
        let broken = sabotage
            .promises()
            .filter(|promise| has_line(&output, &format!("test sabotaged::{promise} ... FAILED")));
        assert_eq!(broken.count(), names.len(), "{sabotage}: {output}");
    }
}
