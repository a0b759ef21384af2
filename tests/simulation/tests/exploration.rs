//! Every state within a bound, in each of which every promise must hold.
//!
//! There must be as many as the bound is worth, lest a change makes it small without anybody
//! noticing. A larger bound by hand: see `README.md`.

use lock_protocol::Mode;
use lock_simulation::Wish;
use lock_simulation::explore::Bound;
use stateright::{Checker, Model};

fn holds(callers: &[usize], faults: u8, passes: u32, at_least: usize) {
    let bound = Bound {
        passes,
        ..Bound::new(callers, faults)
    };
    bound_holds(&format!("{callers:?}"), bound, at_least);
}

/// Processes of callers with these wishes.
fn together_hold(wishes: &[&[Wish]], faults: u8, at_least: usize) {
    let callers = wishes.iter().map(|wishes| wishes.to_vec()).collect();
    bound_holds(&format!("{wishes:?}"), Bound::of(callers, faults), at_least);
}

fn bound_holds(what: &str, bound: Bound, at_least: usize) {
    let (faults, passes) = (bound.faults, bound.passes);
    let checker = bound.clone().checker().threads(2).spawn_dfs().join();
    if let Some(broken) = bound.broken(checker.discoveries()) {
        panic!("{broken}");
    }
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{what}, {faults} faults, {passes} passes: {states} states");
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

const fn wish(mode: Mode) -> Wish {
    Wish { mode, keeps: false }
}

const WRITER: Wish = wish(Mode::Exclusive);
const READER: Wish = wish(Mode::Shared);

const fn permits(take: u8) -> Wish {
    wish(Mode::Permits { take, of: 2 })
}

const SHARD: Wish = wish(Mode::Shard {
    of: 2,
    prefer: 0,
    except: 0,
});

#[test]
fn two_readers_and_a_writer_keep_every_promise_through_a_fault() {
    together_hold(&[&[READER, WRITER], &[READER]], 1, 636_000);
}

#[test]
fn three_claims_of_two_permits_keep_every_promise_through_a_fault() {
    together_hold(&[&[permits(1), permits(1)], &[permits(2)]], 1, 830_000);
}

#[test]
fn three_claims_of_two_shards_keep_every_promise_through_a_fault() {
    together_hold(&[&[SHARD, SHARD], &[SHARD]], 1, 1_600_000);
}

#[test]
fn a_permit_that_is_kept_keeps_every_promise_through_a_fault() {
    let kept = Wish {
        keeps: true,
        ..permits(2)
    };
    together_hold(&[&[kept], &[permits(1)]], 1, 14_000);
}
