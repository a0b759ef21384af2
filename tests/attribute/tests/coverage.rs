//! Which lines of annotated functions the compiler counts under `-C instrument-coverage`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The lines that the compiler counts in the example `covered`, read from its MIR.
fn counted() -> BTreeSet<usize> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mir = directory.join("covered.mir");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["rustc", "--quiet", "--example", "covered", "--"])
        .args(["-C", "instrument-coverage", "--emit"])
        .arg(format!("mir={}", mir.display()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mir = fs::read_to_string(mir).unwrap();
    let regions = mir.lines().filter_map(|line| {
        // `coverage Code { bcb: bcb1 } => …/covered.rs:11:16: 11:21 (#0);`
        let (_, place) = line
            .trim()
            .strip_prefix("coverage ")?
            .split_once("covered.rs:")?;
        let (from, to) = place.split_once(": ")?;
        let line = |place: &str| place.split(':').next()?.parse::<usize>().ok();
        Some(line(from)?..=line(to)?)
    });
    regions.flatten().collect()
}

#[test]
fn every_line_of_an_annotated_function_is_counted() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/covered.rs");
    let source = fs::read_to_string(source).unwrap();
    let counted = counted();
    let missing: Vec<_> = (1..)
        .zip(source.lines())
        .filter(|(at, line)| line.contains("// counted") && !counted.contains(at))
        .collect();
    assert!(missing.is_empty(), "not counted: {missing:?}");
    // Those of `main`, which has no lock, are counted; comments are not.
    assert!(counted.len() >= 20, "{counted:?}");
    assert!(!counted.contains(&1));
}
