//! The soak itself: a short run is clean, and a run without one of the protections is not.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// How many runs follow one another until chance has shown what a test asks for.
const MOST_RUNS: u64 = 6;

struct Run {
    passed: bool,
    output: String,
    figures: Value,
}

/// Runs for so many seconds, with 2 processes of 8 tasks.
fn run(seconds: f64, arguments: &[&str]) -> Run {
    let minutes = (seconds / 60.0).to_string();
    let logs = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lock-soak"))
        .args(["--minutes", &minutes, "--processes", "2", "--tasks", "8"])
        .args(["--logs", logs.path().to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default();
    let figures = serde_json::from_str(last).unwrap_or_else(|_| panic!("{text}\n{errors}"));
    Run {
        passed: output.status.success(),
        figures,
        output: format!("{text}\n{errors}"),
    }
}

impl Run {
    fn count(&self, name: &str) -> u64 {
        self.figures[name].as_u64().unwrap()
    }
}

/// Runs with one seed after another until a run without a protection fails, and for this reason.
fn assert_noticed(seconds: f64, arguments: &[&str], figure: Option<&str>, text: &str) {
    // Whether the protection is needed within one run is chance.
    let mut runs = (1..=MOST_RUNS).map(|seed| {
        run(
            seconds,
            &[arguments, &["--seed", &seed.to_string()]].concat(),
        )
    });
    let Some(caught) = runs.find(|run| !run.passed) else {
        panic!("nothing was noticed in {MOST_RUNS} runs with {arguments:?}");
    };
    assert!(caught.output.contains(text), "{}", caught.output);
    if let Some(figure) = figure {
        assert!(caught.count(figure) > 0, "{figure}\n{}", caught.output);
    }
}

#[test]
fn a_short_run_with_faults_of_many_kinds_is_clean() {
    let (mut acquisitions, mut orders, mut lost, mut refused) = (0, 0, 0, 0);
    let (mut kept, mut shapes) = (0, BTreeSet::new());
    // Whether a holder that is stopped comes back to write is chance: seeds follow until it did.
    for seed in 20261121..20261121 + MOST_RUNS {
        let run = run(20.0, &["--seed", &seed.to_string()]);
        assert!(run.passed, "{}", run.output);
        let kinds = run.figures["fault_kinds"].as_object().unwrap();
        assert!(kinds.len() >= 12, "{}", run.output);
        acquisitions += run.count("acquisitions");
        orders += run.count("queue_orders");
        lost += run.count("leases_lost");
        refused += run.count("stale_writes_refused");
        let of_run = run.figures["shapes"].as_object().unwrap();
        shapes.extend(of_run.keys().cloned());
        kept += run.count("minimum_holds");
        if acquisitions > 500
            && orders > 5
            && lost > 0
            && refused > 0
            && kept > 10
            && shapes.len() == 8
        {
            return;
        }
    }
    panic!(
        "{MOST_RUNS} runs were clean, but of {acquisitions} acquisitions {orders} had another \
         before them, {lost} were lost and {refused} of their writes refused; {kept} keys were kept, by {shapes:?}"
    );
}

const REDLOCK: [&str; 2] = ["--topology", "redlock"];

/// Five servers that are killed, stopped, cut off and emptied, and of which some have a clock that
/// is moved.
#[test]
fn a_short_run_on_a_majority_of_servers_is_clean() {
    let run = run(20.0, &[&REDLOCK[..], &["--seed", "20261127"]].concat());
    assert!(run.passed, "{}", run.output);
    let kinds = run.figures["fault_kinds"].as_object().unwrap();
    assert!(kinds.len() >= 6, "{}", run.output);
    assert!(run.count("acquisitions") > 50, "{}", run.output);
}

#[test]
fn a_second_holder_on_a_majority_of_servers_is_noticed() {
    let many = ["--sabotage", "double-grant", "--processes", "4"];
    let many = [&REDLOCK[..], &many].concat();
    assert_noticed(6.0, &many, Some("overlapping_leases"), "C5 DisjointLeases");
}

#[test]
fn a_second_holder_is_noticed() {
    let many = ["--sabotage", "double-grant", "--processes", "4"];
    assert_noticed(6.0, &many, Some("overlapping_leases"), "C5 DisjointLeases");
}

#[test]
fn a_token_that_falls_is_noticed() {
    assert_noticed(6.0, &["--sabotage", "low-fence"], None, "C2 RealTimeOrder");
}

#[test]
fn a_waiter_that_is_overtaken_is_noticed() {
    // Of two processes one holds, so that nobody waits but the other.
    let many = ["--sabotage", "overtake", "--processes", "4"];
    assert_noticed(6.0, &many, Some("overtaken_waiters"), "C9 QueueOrder");
}

#[test]
fn a_key_that_stays_is_noticed() {
    let leak = ["--sabotage", "leak-key"];
    assert_noticed(6.0, &leak, Some("leaked_keys"), "never expires");
}

#[test]
fn a_call_that_hangs_is_noticed() {
    let hang = ["--sabotage", "hang"];
    assert_noticed(
        4.0,
        &hang,
        Some("stuck_waiters"),
        "an acquire never returned",
    );
}

#[test]
fn a_key_that_does_not_stay_taken_is_noticed() {
    // It takes one that wants the key while it is to stay taken.
    let many = ["--sabotage", "short-keep", "--tasks", "16"];
    let figure = Some("minimum_holds_broken");
    assert_noticed(10.0, &many, figure, "C11 MinimumHold");
}

#[test]
fn a_permit_too_many_is_noticed() {
    let many = ["--sabotage", "permit-too-many", "--tasks", "16"];
    let figure = Some("overlapping_leases");
    assert_noticed(6.0, &many, figure, "permits were taken at once");
}

#[test]
fn a_reader_beside_a_writer_is_noticed() {
    let many = ["--sabotage", "reader-beside-writer", "--tasks", "16"];
    assert_noticed(6.0, &many, Some("overlapping_leases"), "C5 DisjointLeases");
}

#[test]
fn a_shard_that_two_have_is_noticed() {
    let many = ["--sabotage", "shard-twice", "--tasks", "16"];
    assert_noticed(6.0, &many, Some("overlapping_leases"), "C5 DisjointLeases");
}

#[test]
fn a_resource_without_a_fence_is_noticed() {
    // It takes a holder that writes after its lease and after the next one has written.
    let many = [
        "--sabotage",
        "no-fence",
        "--processes",
        "4",
        "--tasks",
        "16",
    ];
    assert_noticed(20.0, &many, Some("stale_writes"), "which was granted later");
}
