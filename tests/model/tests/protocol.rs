//! The protocol keeps its promises in every state within the bound.
//!
//! A larger bound by hand: see `README.md`.

use lock_model::Protocol;
use stateright::{Checker, Model};

/// Visits every state; there must be as many as the bound is worth, lest a change makes the model small without anybody noticing.
fn holds(protocol: Protocol, at_least: usize) {
    let bound = format!("{protocol:?}");
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{bound}: {states} states");
    assert!(states >= at_least, "only {states} states");
}

#[test]
fn two_clients_keep_every_promise_through_three_faults() {
    holds(Protocol::new(2, 3), 550_000);
}

#[test]
fn three_clients_keep_every_promise_through_two_faults() {
    holds(Protocol::new(3, 2), 1_360_000);
}

#[test]
fn a_process_of_three_callers_keeps_every_promise_whatever_its_budget() {
    for passes in 0..=2 {
        let protocol = Protocol {
            callers: vec![3, 2],
            passes,
            ..Protocol::new(2, 2)
        };
        holds(protocol, 50_000);
    }
}
