//! Every state within a bound, in each of which every promise must hold.
//!
//! There must be as many as the bound is worth, lest a change makes it small without anybody
//! noticing. A larger bound by hand: see `README.md`.

use lock_simulation::explore::Bound;
use stateright::{Checker, Model};

fn holds(callers: &[usize], faults: u8, passes: u32, at_least: usize) {
    let bound = Bound {
        passes,
        ..Bound::new(callers, faults)
    };
    let checker = bound.clone().checker().threads(2).spawn_dfs().join();
    if let Some(broken) = bound.broken(checker.discoveries()) {
        panic!("{broken}");
    }
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{callers:?}, {faults} faults, {passes} passes: {states} states");
    assert!(states >= at_least, "only {states} states");
}

#[test]
fn two_processes_keep_every_promise_through_two_faults() {
    holds(&[1, 1], 2, 1, 776_000);
}

#[test]
fn three_processes_keep_every_promise_through_a_fault() {
    holds(&[1, 1, 1], 1, 1, 543_000);
}

#[test]
fn a_process_of_three_callers_keeps_every_promise_whatever_its_budget() {
    for passes in 0..=2 {
        holds(&[3, 1], 1, passes, 1_250_000);
    }
}
