//! Who waits, and what becomes of it.

use super::super::{Answer, Event};
use super::bench::{Bench, TTL, ms};
use crate::claim::Holder;
use crate::machine::Waiter;
use crate::terms::Terms;

#[test]
fn a_wait_that_is_used_up_ends_with_what_is_known() {
    let mut b = Bench::new();
    b.joins();
    assert_eq!(b.gives_up(1), ["tell 1: no answer", "#2 abandon w1"]);

    let mut b = Bench::queued();
    assert_eq!(b.gives_up(1), ["tell 1: timed out", "#2 abandon w1"]);

    let mut b = Bench::new();
    b.joins();
    b.not_known(1);
    assert_eq!(b.gives_up(1), ["tell 1: failed", "#2 abandon w1"]);
}

#[test]
fn a_wait_behind_a_holder_of_the_process_ends_in_time() {
    let mut b = Bench::held();
    assert!(b.joins().is_empty());
    assert_eq!(b.gives_up(2), ["tell 2: timed out"]);
    assert!(b.is_held());
}

#[test]
fn one_who_does_not_wait_is_told_that_its_own_process_has_the_lock() {
    let mut b = Bench::held();
    let told = b.tries();
    assert!(told[0].starts_with("tell 2: taken for 29."), "{told:?}");
}

#[test]
fn one_who_comes_after_a_waiter_gave_up_is_not_told_what_that_one_heard() {
    let mut b = Bench::queued();
    b.gives_up(1);
    assert!(b.tries().is_empty());
}

#[test]
fn what_a_waiter_heard_is_forgotten_with_its_claim() {
    let mut b = Bench::queued();
    b.gives_up(1);
    b.answered(2, Answer::Abandoned);
    assert_eq!(b.joins(), ["#3 acquire w2 (waits)"]);
    assert!(b.tries().is_empty());
    assert_eq!(b.gives_up(2), ["tell 2: no answer"]);
}

#[test]
fn what_is_known_of_a_release_is_kept_as_long_as_a_claim_goes_with_it() {
    let mut b = Bench::releasing();
    b.leaves(2);
    assert!(b.tries().is_empty());
    assert_eq!(b.gives_up(3), ["tell 3: taken"]);
    b.joins();
    assert_eq!(b.gives_up(4), ["tell 4: timed out"]);
    b.not_known(3);
    b.joins();
    assert_eq!(b.gives_up(5), ["tell 5: failed"]);
}

#[test]
fn one_who_gives_up_as_it_is_granted_the_lock_has_it() {
    let mut b = Bench::new();
    b.joins();
    b.granted(1, 100);
    assert!(b.gives_up(1).is_empty());
    assert!(b.is_held());
}

#[test]
fn waiters_whose_wait_is_over_are_passed_over() {
    let mut b = Bench::queued();
    let late = Waiter {
        deadline: b.now + TTL,
        ..b.waiter()
    };
    b.on(Event::Joined(late));
    b.pass(ms(5_000));
    let told = b.handed_over("w1", 100, ms(0));
    assert_eq!(told, ["tell 1: timed out", "tell 2: granted w1, 100"]);
}

#[test]
fn a_grant_for_nobody_is_withdrawn() {
    let mut b = Bench::queued();
    b.pass(ms(5_000));
    let told = b.handed_over("w1", 100, ms(0));
    assert_eq!(told, ["tell 1: timed out", "#2 abandon w1"]);
    assert!(!b.key.is_held());
}

#[test]
fn a_shutdown_is_told_to_everybody_who_waits() {
    let mut b = Bench::held();
    b.joins();
    b.joins();
    let told = b.on(Event::ShutDown);
    assert_eq!(told, ["tell 2: shut down", "tell 3: shut down"]);
    assert!(b.is_held());
    assert_eq!(b.joins(), ["tell 4: shut down"]);
    assert_eq!(b.ends(), ["#3 release w1", "changed"]);
}

#[test]
fn a_shutdown_does_not_wait_for_a_store_that_is_away() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.not_known(2);
    // What is under way is asked once more.
    assert_eq!(b.on(Event::ShutDown), ["#3 abandon w1"]);
    assert!(b.not_known(3).is_empty());
    assert!(b.key.is_gone());

    let mut b = Bench::held();
    b.ends();
    b.not_known(3);
    assert_eq!(b.on(Event::ShutDown), ["#4 release w1"]);
    assert_eq!(b.not_known(4), ["release failed"]);
    assert!(b.key.is_gone());
}

#[test]
fn a_shutdown_asks_a_second_time_for_what_may_be_stuck() {
    let mut b = Bench::held();
    b.ends();
    b.on(Event::ShutDown);
    assert_eq!(b.wants_time_in(), Some(ms(500)));
    assert_eq!(b.in_time(), ["#4 release w1"]);
}

#[test]
fn a_machine_is_gone_when_nobody_holds_waits_or_asks() {
    let mut b = Bench::new();
    assert!(b.key.is_gone());
    b.joins();
    assert!(!b.key.is_gone());
    b.queued_behind(1, Holder::of_ours(TTL));
    b.handed_over("w1", 100, ms(0));
    b.takes(1);
    assert!(!b.key.is_gone());
    assert_eq!(b.ends(), ["#3 release w1", "changed"]);
    assert!(!b.key.is_gone());
    assert_eq!(b.released(3, None), ["released"]);
    assert!(b.key.is_gone());
    assert_eq!(b.key.last_number(), 3);
    assert_eq!(b.wants_time_in(), None);
}

#[test]
fn a_lost_lease_keeps_a_machine_but_is_quiet() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.granted(1, 100);
    b.takes(1);
    b.in_time();
    assert!(b.key.is_quiet() && !b.key.is_gone() && !b.key.is_held());
    assert_eq!(b.wants_time_in(), None);
}
