//! The soak itself: a short run is clean, and a run without one of the protections is not.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

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

    /// It failed, and for this reason.
    fn assert_caught(&self, figure: Option<&str>, text: &str) {
        assert!(!self.passed, "nothing was noticed:\n{}", self.output);
        assert!(self.output.contains(text), "{}", self.output);
        if let Some(figure) = figure {
            assert!(self.count(figure) > 0, "{figure}\n{}", self.output);
        }
    }
}

#[test]
fn a_short_run_with_faults_of_many_kinds_is_clean() {
    let run = run(20.0, &["--seed", "20261121"]);
    assert!(run.passed, "{}", run.output);
    assert!(run.count("acquisitions") > 500, "{}", run.output);
    assert!(run.count("queue_orders") > 5, "{}", run.output);
    assert!(run.count("leases_lost") > 0, "{}", run.output);
    assert!(run.count("stale_writes_refused") > 0, "{}", run.output);
    let kinds = run.figures["fault_kinds"].as_object().unwrap();
    assert!(kinds.len() >= 12, "{}", run.output);
}

#[test]
fn a_second_holder_is_noticed() {
    let run = run(6.0, &["--sabotage", "double-grant", "--processes", "4"]);
    run.assert_caught(Some("overlapping_leases"), "C5 DisjointLeases");
}

#[test]
fn a_token_that_falls_is_noticed() {
    let run = run(6.0, &["--sabotage", "low-fence"]);
    run.assert_caught(None, "C2 RealTimeOrder");
}

#[test]
fn a_waiter_that_is_overtaken_is_noticed() {
    // Of two processes one holds, so that nobody waits but the other.
    let run = run(6.0, &["--sabotage", "overtake", "--processes", "4"]);
    run.assert_caught(Some("overtaken_waiters"), "C9 QueueOrder");
}

#[test]
fn a_key_that_stays_is_noticed() {
    let run = run(6.0, &["--sabotage", "leak-key"]);
    run.assert_caught(Some("leaked_keys"), "never expires");
}

#[test]
fn a_call_that_hangs_is_noticed() {
    let run = run(4.0, &["--sabotage", "hang"]);
    run.assert_caught(Some("stuck_waiters"), "an acquire never returned");
}

#[test]
fn a_resource_without_a_fence_is_noticed() {
    // It takes a holder that writes after its lease and after the next one has written.
    let many = ["--processes", "4", "--tasks", "16"];
    let run = run(20.0, &[&["--sabotage", "no-fence"], &many[..]].concat());
    run.assert_caught(Some("stale_writes"), "which was granted later");
}
