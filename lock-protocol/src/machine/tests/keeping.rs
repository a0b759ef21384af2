//! Holds that begin later, and keys that are kept.

use core::time::Duration;

use super::super::{Answer, Event, Verb, Waiter};
use super::bench::{Bench, TTL, grant, ms};
use crate::claim::{Acquired, Renewed};
use crate::terms::{Terms, covering};

const LEAST: Duration = Duration::from_secs(60);

fn terms() -> Terms {
    Terms {
        renew: Some(TTL / 10),
        min_hold: Some(LEAST),
        ..Terms::new(TTL)
    }
}

/// A machine whose only waiter has the lock, and wants to keep the key.
fn keeping() -> Bench {
    let mut b = Bench::new();
    b.joins_with(terms());
    b.granted(1, 100);
    b.takes(1);
    b
}

fn keep(b: &mut Bench, begins: bool) -> bool {
    let held = b.last_grant();
    let covers = b.key.covers(held.lease, held.token, LEAST, b.now);
    let event = Event::Keep {
        lease: held.lease,
        token: held.token,
        least: LEAST,
        begins,
    };
    assert!(b.on(event).is_empty());
    covers
}

/// The ttl of the renewal that is due.
fn renewal(b: &mut Bench) -> Duration {
    let lease = b.last_grant().lease;
    let renewal = b.key.renewal(&b.rules, lease, b.now);
    renewal.expect("it is held").0.ttl
}

/// What the holder asks of the store when it ends its hold: the rest, and whether another claim
/// goes along.
fn ends(b: &mut Bench) -> (Option<Duration>, bool) {
    b.ends();
    asked(b, 3)
}

fn asked(b: &Bench, number: u64) -> (Option<Duration>, bool) {
    let (ask, _) = b.question(number);
    let Verb::Release(release) = ask.verb else {
        panic!("{number} is no release");
    };
    (release.keep, release.next.is_some())
}

#[test]
fn the_first_lease_and_every_renewal_cover_the_minimum() {
    let mut b = keeping();
    // A tenth of it, but no more than the time of a command, for the answer.
    let first = b.claim(1).ttl;
    assert_eq!(first, covering(LEAST + b.rules.command_timeout));
    assert!(keep(&mut b, true));
    let mut last = first;
    for _ in 0..20 {
        b.pass(ms(1_000));
        let asked = renewal(&mut b);
        assert!(asked <= last, "{asked:?} after {last:?}");
        b.renewed(ms(0), Some(Renewed::held().of(asked)));
        last = asked;
    }
    // What it counts on is never more than the store has.
    assert!(last >= LEAST - ms(20_000));
}

#[test]
fn a_lease_that_is_too_short_is_extended_before_the_hold_begins() {
    let mut b = keeping();
    b.pass(ms(3_000));
    assert!(!keep(&mut b, true));
    let asked = renewal(&mut b);
    assert!(asked >= LEAST + b.rules.command_timeout, "{asked:?}");
    b.renewed(ms(900), Some(Renewed::held().of(asked)));
    assert!(keep(&mut b, true));
    assert_eq!(ends(&mut b).0, Some(covering(LEAST)));
}

#[test]
fn a_hold_that_has_not_begun_keeps_nothing() {
    let mut b = keeping();
    assert!(keep(&mut b, false));
    assert_eq!(ends(&mut b), (None, false));
}

#[test]
fn a_hold_that_ends_early_asks_for_the_rest_and_for_nobody() {
    let mut b = keeping();
    assert!(keep(&mut b, true));
    b.joins_with(terms());
    b.pass(ms(20_000));
    assert_eq!(ends(&mut b), (Some(covering(LEAST - ms(20_000))), false));
    // Asked again, it asks for what is left then.
    b.not_known(3);
    b.in_time();
    let (keep, _) = asked(&b, 4);
    assert!(keep.is_some_and(|keep| keep < covering(LEAST - ms(20_000))));
}

#[test]
fn whoever_waits_is_asked_for_after_the_release_that_keeps() {
    let mut b = keeping();
    assert!(keep(&mut b, true));
    b.joins_with(terms());
    assert_eq!(b.ends(), ["#3 release w1", "changed"]);
    assert_eq!(b.released(3, None), ["released", "#4 acquire w2 (waits)"]);
}

#[test]
fn a_hold_that_ends_late_is_given_away_as_any_other() {
    let mut b = keeping();
    assert!(keep(&mut b, true));
    b.pass(LEAST / 2);
    let more = renewal(&mut b);
    b.renewed(ms(0), Some(Renewed::held().of(more)));
    b.pass(LEAST / 2);
    b.joins_with(terms());
    assert_eq!(ends(&mut b), (None, true));
}

#[test]
fn a_hold_that_max_hold_ends_keeps_the_rest() {
    let mut b = Bench::new();
    b.joins_with(Terms {
        max_hold: Some(LEAST / 2),
        ..terms()
    });
    b.granted(1, 100);
    b.takes(1);
    assert!(keep(&mut b, true));
    b.after(LEAST / 2);
    assert!(!b.is_held());
    assert_eq!(ends(&mut b).0, Some(covering(LEAST / 2)));
}

/// A machine that keeps the key, with a question of its claim still on its way.
fn keeping_in_doubt() -> Bench {
    let mut b = Bench::new();
    b.joins_with(terms());
    b.not_known(1);
    b.after(ms(100));
    b.granted(2, 100);
    b.takes(1);
    assert!(keep(&mut b, true));
    b
}

#[test]
fn a_release_that_is_refused_withdraws_no_claim_whose_key_is_to_stay_taken() {
    let mut b = keeping_in_doubt();
    b.ends();
    let told = b.refused(4);
    assert_eq!(told, ["release failed"]);
    // It is when that is over, and only then.
    assert_eq!(b.wants_time_in(), Some(LEAST));
    assert_eq!(b.in_time(), ["#5 abandon w1"]);
    b.answered(5, Answer::Abandoned);
    assert!(b.key.is_gone());
    // The control: one that ended late is withdrawn, since its question may come yet.
    let mut b = keeping_in_doubt();
    b.pass(LEAST / 2);
    let more = renewal(&mut b);
    b.renewed(ms(0), Some(Renewed::held().of(more)));
    b.pass(LEAST / 2);
    b.ends();
    let told = b.refused(4);
    assert!(told.contains(&"#5 abandon w1".to_owned()), "{told:?}");
}

#[test]
fn a_late_answer_frees_no_key_whose_release_was_refused_before_its_minimum_was_over() {
    let mut b = keeping_in_doubt();
    b.ends();
    b.refused(4);
    b.pass(LEAST / 2);
    assert_eq!(b.granted(1, 100), [""; 0]);
    assert_eq!(b.wants_time_in(), Some(LEAST / 2));
    // The control: when the minimum is over, it is not kept any longer.
    assert_eq!(b.in_time(), ["#5 abandon w1"]);
}

#[test]
fn a_key_that_is_to_stay_taken_keeps_no_shutdown_and_is_not_freed_by_it() {
    let mut b = keeping_in_doubt();
    b.ends();
    b.refused(4);
    assert!(!b.key.is_quiet());
    assert_eq!(b.on(Event::ShutDown), [""; 0]);
    assert!(b.key.is_quiet());
    assert_eq!(b.granted(1, 100), [""; 0]);
}

#[test]
fn a_hold_that_begins_later_has_its_limit_from_there() {
    let mut b = Bench::new();
    let waiter = Waiter {
        begins: false,
        terms: Terms {
            max_hold: Some(ms(500)),
            ..Terms::new(TTL)
        },
        ..b.waiter()
    };
    b.on(Event::Joined(waiter));
    b.granted(1, 100);
    b.takes(1);
    b.after(ms(2_000));
    assert!(b.is_held());
    let held = b.last_grant();
    b.on(Event::Began(held.lease, held.token));
    b.after(ms(499));
    assert!(b.is_held());
    b.after(ms(1));
    assert!(!b.is_held());
}

/// A machine whose only waiter does not wait, and whose question goes with those of other keys.
fn together() -> Bench {
    let mut b = Bench::new();
    b.tries();
    b
}

fn not_taken(b: &mut Bench) -> Vec<String> {
    let owner = b.claim(1).owner;
    b.on(Event::NotTaken(super::super::WaiterId(1), &owner))
}

#[test]
fn a_question_that_went_with_others_in_vain_leaves_nothing() {
    let mut b = together();
    assert_eq!(not_taken(&mut b), [""; 0]);
    assert!(b.key.is_gone());
}

#[test]
fn whoever_came_meanwhile_is_asked_for_by_itself() {
    let mut b = together();
    b.joins();
    assert_eq!(not_taken(&mut b), ["#2 acquire w1 (waits)"]);
    let told = b.granted(2, 100);
    assert!(told[0].starts_with("tell 2: granted"), "{told:?}");
}

#[test]
fn a_grant_for_another_minimum_is_asked_for_again() {
    let mut b = Bench::new();
    b.joins();
    b.leaves(1);
    b.joins_with(terms());
    let given = Acquired::Granted(grant(&b.claim(1), 100));
    let told = b.answered(1, Answer::Acquired(given));
    assert!(
        !told.iter().any(|told| told.contains("granted")),
        "{told:?}"
    );
}
