//! Leases while they are held, and how they are lost.

use super::super::{Answer, End, Event};
use super::bench::{Bench, CHANCE, TTL, grant, ms, with_tokens};
use crate::claim::{Acquired, Contended, Extension, LostReason, Renewed};
use crate::terms::{Terms, valid_until};

fn remaining(b: &Bench) -> core::time::Duration {
    let granted = b.last_grant();
    b.key.remaining(granted.lease, granted.token, b.now)
}

fn fault(b: &Bench) -> Option<End> {
    let granted = b.last_grant();
    let fault = b.key.fault(granted.lease, granted.token, b.now);
    fault.map(|(end, _)| end)
}

#[test]
fn a_lease_is_passed_on_to_the_next_in_line() {
    let mut b = Bench::held();
    b.joins();
    let first = b.last_grant();
    let told = b.ends();
    assert_eq!(told, ["changed", "tell 2: granted w1, 101", "released"]);
    assert!(b.is_held());
    // Whoever had it before does not have it any more.
    assert!(!b.key.is_held_by(first.lease, first.token, b.now));
    // To end it twice ends nothing of the next holder.
    assert_eq!(b.on(Event::Ended(first.lease, first.token)), ["released"]);
    assert!(b.is_held());
}

#[test]
fn a_lease_is_passed_on_within_its_budget_only() {
    let mut b = Bench::held();
    b.rules.local_passes = 1;
    b.joins();
    b.joins();
    b.ends();
    assert_eq!(b.ends(), ["#3 release w1 then w3 (waits)", "changed"]);

    let mut b = Bench::held();
    b.joins();
    b.pass(TTL / 10);
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
}

#[test]
fn a_lease_is_passed_on_twice_for_each_who_waited_when_its_first_holder_ended() {
    let mut b = Bench::held();
    b.joins();
    b.joins();
    for waiting in 2..6 {
        assert_eq!(
            b.ends()[1],
            format!("tell {waiting}: granted w1, 10{}", waiting - 1)
        );
        // Whoever comes later is served, and adds nothing.
        b.joins();
        b.takes(waiting);
    }
    assert_eq!(b.ends()[0], "#3 release w1 then w6 (waits)");
}

#[test]
fn a_lease_is_passed_on_for_ten_round_trips_where_nobody_waits_in_the_store() {
    for contended in [Contended::No, Contended::Yes, Contended::NotTold] {
        let mut b = Bench::new();
        b.joins();
        b.pass(ms(10));
        let mut grant = grant(&b.claim(1), 100);
        grant.contended = contended;
        b.answered(1, Answer::Acquired(Acquired::Granted(grant)));
        b.takes(1);
        for waiter in 2..5 {
            b.joins();
            let told = b.ends();
            if contended != Contended::No && waiter == 4 {
                assert_eq!(told[0], "#3 release w1 then w4 (waits)");
                break;
            }
            assert_eq!(
                told[1],
                format!("tell {waiter}: granted w1, {}", 99 + waiter)
            );
            b.takes(waiter);
        }
        if contended == Contended::No {
            b.pass(ms(100));
            b.joins();
            assert_eq!(b.ends()[0], "#3 release w1 then w5 (waits)");
        }
    }
}

#[test]
fn a_lease_is_not_passed_on_to_one_who_wants_another() {
    let mut b = Bench::held();
    b.joins_with(Terms::new(TTL));
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
}

#[test]
fn a_lease_of_which_little_is_left_is_not_passed_on() {
    let mut b = Bench::queued();
    b.joins();
    b.rules.local_share = 1.0;
    b.handed_over("w1", 100, ms(0));
    b.takes(1);
    b.pass(ms(500));
    let told = b.ends();
    assert_eq!(told, ["#3 release w1 then w2 (waits)", "changed"]);

    // Nothing would be added to one that is not renewed.
    let mut b = Bench::new();
    b.rules.local_share = 1.0;
    b.joins_with(Terms::new(TTL));
    b.granted(1, 100);
    b.joins_with(Terms::new(TTL));
    b.pass(TTL / 10);
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
}

#[test]
fn a_lease_of_which_enough_is_left_is_passed_on() {
    // Half of the grace.
    let mut b = Bench::queued();
    b.joins();
    b.rules.local_share = 1.0;
    b.handed_over("w1", 100, ms(0));
    b.pass(ms(488));
    let told = b.ends();
    assert_eq!(told, ["changed", "tell 2: granted w1, 101", "released"]);

    // Nine tenths of the ttl, if nothing will be added.
    let mut b = Bench::new();
    b.rules.local_share = 1.0;
    b.joins_with(Terms::new(TTL));
    b.granted(1, 100);
    b.joins_with(Terms::new(TTL));
    b.pass(ms(2_698));
    let told = b.ends();
    assert_eq!(told, ["changed", "tell 2: granted w1, 101", "released"]);
}

#[test]
fn a_holder_that_passed_its_lease_on_has_given_it_up_whatever_becomes_of_it() {
    let mut b = Bench::held();
    let first = b.last_grant();
    b.joins();
    b.ends();
    b.takes(2);
    b.after(remaining(&b));
    assert_eq!(fault(&b), Some(End::Lost(LostReason::Expired)));
    let fault = b.key.fault(first.lease, first.token, b.now);
    let fault = fault.map(|(end, _)| end);
    assert_eq!(fault, Some(End::Lost(LostReason::NotHeld)));
}

#[test]
fn a_lease_is_passed_over_those_whose_wait_is_over() {
    let mut b = Bench::held();
    b.rules.local_share = 1.0;
    b.joins();
    b.pass(ms(5_000));
    b.joins();
    let told = b.ends();
    assert_eq!(
        told,
        [
            "tell 2: timed out",
            "changed",
            "tell 3: granted w1, 101",
            "released"
        ]
    );
}

#[test]
fn a_lease_is_renewed_on_the_grid_until_its_holder_ends_it() {
    let mut b = Bench::held();
    let pause = b.wants_time_in().expect("it is renewed");
    assert!((ms(7_500)..=ms(10_000)).contains(&pause), "{pause:?}");
    assert_eq!(b.in_time(), ["renew w1"]);
    // While a renewal is under way, no other is sent: all that may happen is its end.
    assert_eq!(
        b.now + b.wants_time_in().expect("its end"),
        b.now + remaining(&b)
    );
    b.pass(ms(5));
    assert!(b.renewed(ms(5), Some(Renewed::held())).is_empty());
    assert_eq!(b.now + remaining(&b), valid_until(b.now - ms(5), TTL));
    assert_eq!(b.in_time(), ["renew w1"]);
}

#[test]
fn a_lease_that_is_not_renewed_ends_with_its_ttl() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.granted(1, 100);
    b.takes(1);
    assert_eq!(b.wants_time_in(), Some(ms(493)));
    assert_eq!(b.in_time(), ["changed"]);
}

#[test]
fn a_renewal_that_is_late_or_short_shortens_nothing() {
    let mut b = Bench::held();
    let before = remaining(&b);
    let short = Extension {
        valid_for: Some(ms(50)),
        ..Extension::default()
    };
    b.renewed(ms(0), Some(Renewed::Held(short)));
    assert_eq!(remaining(&b), before);
}

#[test]
fn a_renewal_that_is_not_answered_is_repeated_soon() {
    let mut b = Bench::held();
    b.in_time();
    assert!(b.renewed(ms(100), None).is_empty());
    let pause = b.wants_time_in().expect("it is renewed");
    assert!((ms(500)..=ms(1_000)).contains(&pause), "{pause:?}");
    assert_eq!(b.in_time(), ["renew w1"]);
}

#[test]
fn tokens_are_reserved_anew_when_all_have_been_given() {
    let mut b = Bench::held();
    b.rules.local_share = 1.0;
    for _ in 0..7 {
        b.joins();
    }
    for _ in 0..7 {
        b.ends();
    }
    b.takes(8);
    assert_eq!(b.last_grant().token.as_u64(), 107);
    let left = b.wants_time_in().expect("it is renewed");
    b.pass(left - ms(1_000));
    b.joins();
    b.joins();
    // Twice for each who waits.
    assert_eq!(b.in_time(), ["renew w1, 4 tokens"]);
    b.renewed(ms(0), with_tokens(500));
    assert_eq!(b.ends()[1], "tell 9: granted w1, 500");
}

#[test]
fn a_lease_that_the_store_calls_lost_is_lost() {
    let mut b = Bench::held();
    b.joins();
    b.in_time();
    let told = b.renewed(ms(1), Some(Renewed::lost()));
    // The next in line asks for a claim of its own.
    assert_eq!(told, ["changed", "#3 acquire w2 (waits)"]);
    assert_eq!(fault(&b), Some(End::Lost(LostReason::NotHeld)));
    // A renewal that was answered before, and comes later, revives nothing.
    assert!(b.renewed(ms(2), Some(Renewed::held())).is_empty());
    assert!(!b.is_held());
}

#[test]
fn an_answer_to_a_renewal_of_a_lease_that_is_over_is_nothing_to_the_next() {
    let mut b = Bench::held();
    let first = b.last_grant().lease;
    b.ends();
    b.joins();
    b.released(3, None);
    b.granted(4, 200);
    let told = b.on(Event::Renewed {
        lease: first,
        sent_at: b.now,
        answer: Some(Renewed::lost()),
        chance: CHANCE,
    });
    assert!(told.is_empty());
    assert!(b.is_held());
}

#[test]
fn a_lease_whose_time_is_over_is_lost() {
    let mut b = Bench::held();
    b.joins();
    let told = b.after(remaining(&b));
    assert_eq!(told, ["changed", "#3 acquire w2 (waits)"]);
    assert_eq!(fault(&b), Some(End::Lost(LostReason::Expired)));
    // Nor does an answer that comes with the end.
    assert!(b.renewed(ms(1), Some(Renewed::held())).is_empty());
    assert!(!b.is_held());
}

#[test]
fn an_event_that_comes_after_the_end_of_a_lease_finds_it_lost() {
    let mut b = Bench::held();
    b.pass(remaining(&b));
    let sent_at = b.now - ms(1);
    let told = b.on(Event::Renewed {
        lease: b.last_grant().lease,
        sent_at,
        answer: Some(Renewed::held()),
        chance: CHANCE,
    });
    assert_eq!(told, ["changed"]);
    assert!(!b.is_held());
}

#[test]
fn a_hold_ends_at_its_limit() {
    let mut b = Bench::new();
    let terms = Terms {
        renew: Some(TTL / 3),
        max_hold: Some(ms(1_000)),
        ..Terms::new(TTL)
    };
    b.joins_with(terms);
    b.granted(1, 100);
    b.takes(1);
    assert_eq!(b.wants_time_in(), Some(ms(1_000)));
    assert_eq!(b.in_time(), ["changed"]);
    assert_eq!(fault(&b), Some(End::MaxHold(ms(1_000))));
    // The store does not know yet.
    assert_eq!(b.ends(), ["ended: MaxHold(1s) after 1s", "#3 release w1"]);
    assert!(b.key.is_gone());
}

#[test]
fn a_hold_that_was_told_late_is_limited_from_then_on() {
    let mut b = Bench::held();
    let terms = Terms {
        renew: Some(TTL / 3),
        max_hold: Some(ms(1_000)),
        ..Terms::new(TTL)
    };
    b.rules.local_share = 1.0;
    let mut b2 = Bench::new();
    b2.rules = b.rules;
    b2.joins_with(terms);
    b2.granted(1, 100);
    b2.joins_with(terms);
    b2.pass(ms(900));
    b2.ends();
    b2.takes(2);
    assert_eq!(b2.wants_time_in(), Some(ms(1_000)));
}

#[test]
fn a_lease_that_has_ended_is_released_once() {
    let mut b = Bench::held();
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    let told = b.ends();
    assert!(told[0].starts_with("ended: Lost(NotHeld)"), "{told:?}");
    assert_eq!(told[1..], ["#3 release w1"]);
    assert!(b.not_known(3).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn a_lock_that_nobody_takes_by_its_deadline_is_taken_back() {
    let mut b = Bench::new();
    b.joins();
    b.granted(1, 100);
    assert_eq!(b.wants_time_in(), Some(ms(5_000)));
    let told = b.in_time();
    assert_eq!(
        told,
        ["take back from 1: timed out", "#3 release w1", "changed"]
    );
    assert_eq!(b.released(3, None), ["released"]);
    assert!(b.key.is_gone());
}

#[test]
fn a_lock_that_is_taken_back_goes_to_the_next_in_line() {
    let mut b = Bench::new();
    b.rules.local_share = 1.0;
    b.joins();
    b.granted(1, 100);
    b.pass(ms(4_000));
    b.joins();
    let told = b.in_time();
    assert_eq!(
        told,
        [
            "take back from 1: timed out",
            "changed",
            "tell 2: granted w1, 101",
            "released"
        ]
    );
    // It comes too late.
    assert!(b.takes(1).is_empty());
    assert!(b.leaves(1).is_empty());
    assert!(b.is_held());
}

#[test]
fn a_lock_that_another_takes_is_not_taken() {
    let mut b = Bench::new();
    b.joins();
    b.granted(1, 100);
    b.takes(2);
    assert!(b.leaves(2).is_empty());
    assert_eq!(b.in_time()[0], "take back from 1: timed out");
}

#[test]
fn a_lock_that_is_taken_is_kept() {
    let mut b = Bench::held();
    assert!(b.after(ms(5_000)).is_empty());
    assert!(b.is_held());
}

#[test]
fn a_lock_whose_waiter_leaves_is_given_back() {
    let mut b = Bench::new();
    b.joins();
    b.granted(1, 100);
    assert_eq!(b.leaves(1), ["#3 release w1", "changed",]);
}

#[test]
fn a_lock_whose_waiter_leaves_goes_to_the_next_in_line() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    b.granted(1, 100);
    let told = b.leaves(1);
    assert_eq!(told, ["changed", "tell 2: granted w1, 101", "released"]);
}

#[test]
fn a_lost_lock_that_nobody_took_is_taken_back_by_its_deadline() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.granted(1, 100);
    assert_eq!(b.in_time(), ["changed"]);
    assert_eq!(b.wants_time_in(), Some(ms(5_000 - 493)));
    let told = b.in_time();
    assert_eq!(told[0], "take back from 1: timed out");
    assert!(b.key.is_gone());
}

#[test]
fn a_holder_may_have_its_lease_renewed_ahead_of_time() {
    let mut b = Bench::held();
    let lease = b.last_grant().lease;
    let (renewal, patience) = b.key.renewal(&b.rules, lease, b.now).expect("it is held");
    assert_eq!((renewal.owner.as_str(), renewal.tokens), ("w1", 0));
    assert_eq!(patience, b.rules.command_timeout);
    b.ends();
    assert!(b.key.renewal(&b.rules, lease, b.now).is_none());
}
