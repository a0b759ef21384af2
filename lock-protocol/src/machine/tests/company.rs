//! Leases that go together.

use alloc::vec::Vec;
use core::time::Duration;

use super::super::{Event, WaiterId};
use super::bench::{Bench, TTL, ms};
use crate::claim::{Acquired, Contended, Grant, Holder};
use crate::machine::Answer;
use crate::mode::Mode;
use crate::terms::Terms;
use crate::token::FencingToken;

const PERMITS: Mode = Mode::Permits { take: 1, of: 3 };

fn terms(mode: Mode) -> Terms {
    Terms {
        renew: Some(TTL / 3),
        mode,
        ..Terms::new(TTL)
    }
}

fn shard(except: u64) -> Mode {
    Mode::Shard {
        of: 4,
        prefer: 0,
        except,
    }
}

/// The store grants the claim of a question, and says whether others wait.
fn granted(
    b: &mut Bench,
    number: u64,
    token: u64,
    contended: Contended,
) -> Vec<alloc::string::String> {
    let mut grant: Grant = super::bench::grant(&b.claim(number), token);
    grant.contended = contended;
    b.answered(number, Answer::Acquired(Acquired::Granted(grant)))
}

#[test]
fn a_claim_is_pursued_beside_a_lease_that_goes_together_with_it() {
    let mut b = Bench::new();
    assert_eq!(b.joins_with(terms(PERMITS)), ["#1 acquire w1 (waits)"]);
    b.granted(1, 100);
    assert_eq!(b.joins_with(terms(PERMITS))[0], "#3 acquire w2 (waits)");
    assert_eq!(b.claim(3).mode, PERMITS);
    b.granted(3, 200);
    assert_eq!(b.key.look().held, 2);
    assert_eq!(b.key.holders(), 2);
}

#[test]
fn kinds_know_nothing_of_each_other() {
    let mut b = Bench::held();
    assert_eq!(b.joins_with(terms(Mode::Shared)), ["#3 acquire w2 (waits)"]);
    b.queued_behind(3, Holder::of_ours(TTL));
    // The lease of the plain lock is not passed on to a reader.
    assert_eq!(b.ends(), ["#4 release w1", "changed"]);
    let news = b.handed_over("w2", 300, ms(1));
    assert!(
        news.iter().any(|word| word == "tell 2: granted w2, 300"),
        "{news:?}"
    );
}

#[test]
fn all_readers_in_line_share_a_lease_and_the_last_ends_it() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    b.joins_with(terms(Mode::Shared));
    b.joins_with(terms(Mode::Shared));
    assert_eq!(b.claim(1).tokens, 1);
    let told = b.granted(1, 100);
    let grants = told.iter().filter(|word| word.contains("granted w1, 100"));
    assert_eq!(grants.count(), 3, "{told:?}");
    for id in 1..=3 {
        b.takes(id);
    }
    assert_eq!(b.ends(), ["released"]);
    assert_eq!(b.ends(), ["released"]);
    assert_eq!(b.ends()[0], "#3 release w1");
    let release = b.question(3).0.verb;
    assert_eq!(release.kind(), Mode::Shared.kind());
}

#[test]
fn readers_join_for_a_while_if_nobody_waited() {
    for (contended, share) in [
        (Contended::No, true),
        (Contended::Yes, false),
        (Contended::NotTold, false),
    ] {
        let mut b = Bench::new();
        b.joins_with(terms(Mode::Shared));
        granted(&mut b, 1, 100, contended);
        b.pass(ms(900));
        let joined = b.joins_with(terms(Mode::Shared));
        let is_told = joined == ["tell 2: granted w1, 100"];
        assert_eq!(is_told, share, "{contended:?}: {joined:?}");
    }
}

#[test]
fn readers_that_come_later_are_asked_for_anew() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    granted(&mut b, 1, 100, Contended::No);
    b.takes(1);
    b.pass(ms(1_000));
    let joined = b.joins_with(terms(Mode::Shared));
    assert_eq!(joined, ["#3 acquire w2 (waits)"]);
    granted(&mut b, 3, 100, Contended::No);
    assert_eq!(b.key.look().held, 2);
}

#[test]
fn a_reader_with_terms_of_its_own_does_not_join() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    granted(&mut b, 1, 100, Contended::No);
    let limited = Terms {
        max_hold: Some(ms(50)),
        ..terms(Mode::Shared)
    };
    assert_eq!(b.joins_with(limited), ["#3 acquire w2 (waits)"]);
    granted(&mut b, 3, 100, Contended::No);
    b.takes(2);
    // Its limit is its own.
    b.after(ms(50));
    assert_eq!((b.key.look().held, b.key.look().ended), (1, 1));
}

#[test]
fn a_reader_that_does_not_take_its_share_leaves_it_to_the_others() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    b.joins_with(terms(Mode::Shared));
    b.granted(1, 100);
    b.takes(1);
    let taken_back = b.after(ms(5_000));
    assert!(
        taken_back
            .iter()
            .any(|word| word.starts_with("take back from 2")),
        "{taken_back:?}"
    );
    assert_eq!(b.key.holders(), 1);
    assert!(b.is_held());
    assert_eq!(b.ends()[0], "#3 release w1");
}

#[test]
fn a_share_that_is_lost_is_lost_for_all() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    b.joins_with(terms(Mode::Shared));
    b.granted(1, 100);
    b.takes(1);
    b.takes(2);
    b.pass(TTL);
    let first = b.ends();
    assert!(
        first.iter().any(|word| word.starts_with("ended: Lost")),
        "{first:?}"
    );
    let second = b.ends();
    assert!(
        second.iter().any(|word| word.starts_with("ended: Lost")),
        "{second:?}"
    );
    assert!(
        second.iter().any(|word| word.contains("release w1")),
        "{second:?}"
    );
}

#[test]
fn a_permit_is_passed_on_within_its_process() {
    let mut b = Bench::new();
    b.joins_with(terms(PERMITS));
    b.granted(1, 100);
    b.takes(1);
    b.joins_with(terms(PERMITS));
    b.queued_behind(3, Holder::of_ours(TTL));
    let told = b.ends();
    assert!(
        told.iter().any(|word| word == "tell 2: granted w1, 101"),
        "{told:?}"
    );
    // Nobody is left for whom the claim was made.
    assert!(told.iter().any(|word| word == "#4 abandon w2"), "{told:?}");
}

#[test]
fn a_claim_that_its_head_has_left_is_made_anew_for_the_next() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Permits { take: 3, of: 4 }));
    b.joins_with(terms(Mode::Permits { take: 1, of: 4 }));
    b.queued_behind(1, Holder::of_ours(TTL));
    assert_eq!(b.on(Event::Left(WaiterId(1))), ["#2 abandon w1"]);
    assert_eq!(b.answered(2, Answer::Abandoned), ["#3 acquire w2 (waits)"]);
    assert_eq!(b.claim(3).mode, Mode::Permits { take: 1, of: 4 });
}

#[test]
fn a_shard_goes_to_whom_it_suits_and_is_liked_best_next_time() {
    let mut b = Bench::new();
    b.joins_with(terms(shard(0)));
    let mut grant = super::bench::grant(&b.claim(1), 100);
    grant.shard = 2;
    b.answered(1, Answer::Acquired(Acquired::Granted(grant)));
    b.takes(1);
    assert_eq!(b.last_grant().shard, 2);
    // One that will not have it is not passed it.
    b.joins_with(terms(shard(0b100)));
    assert!(matches!(b.claim(3).mode, Mode::Shard { prefer: 2, .. }));
    b.queued_behind(3, Holder::of_ours(TTL));
    assert_eq!(b.ends()[0], "#4 release w1");
    assert_eq!(b.key.last_shard(), Some(2));
}

#[test]
fn a_store_that_ignores_modes_leaves_it_to_the_engine_to_number_shards() {
    let mut b = Bench::new();
    b.rules.modes = false;
    b.key.prefer_shard(3);
    b.joins_with(terms(shard(0)));
    b.granted(1, 100);
    assert_eq!(b.last_grant().shard, 3);
    b.takes(1);
    b.ends();
    let mut b = Bench::new();
    b.rules.modes = false;
    b.key.prefer_shard(0);
    b.joins_with(terms(shard(0b0011)));
    b.granted(1, 100);
    assert_eq!(b.last_grant().shard, 2);
}

#[test]
fn one_who_tries_is_not_told_that_its_own_process_has_a_permit() {
    let mut b = Bench::new();
    b.joins_with(terms(PERMITS));
    b.granted(1, 100);
    let mut waiter = b.waiter();
    waiter.terms = terms(PERMITS);
    waiter.once = true;
    assert_eq!(b.on(Event::Joined(waiter)), ["#3 acquire w2"]);
    assert_eq!(b.taken(3)[0], "tell 2: taken for 30s");
}

#[test]
fn a_late_answer_of_a_kind_that_is_gone_is_given_back() {
    let mut b = Bench::new();
    b.joins_with(terms(Mode::Shared));
    b.on(Event::Left(WaiterId(1)));
    b.answered(2, Answer::Abandoned);
    assert!(b.key.is_gone());
    assert_eq!(b.granted(1, 100), ["#3 abandon w1"]);
    assert_eq!(b.claim(3).mode, Mode::Shared);
    b.answered(3, Answer::Abandoned);
    assert!(b.key.is_gone());
    let (lease, token) = (super::super::LeaseId(9), FencingToken::new(1));
    assert_eq!(b.key.remaining(lease, token, b.now), Duration::ZERO);
}
