//! Claims for which nobody waits any more.

use super::super::{Answer, Event};
use super::bench::{Bench, TTL, ms};
use crate::claim::{Holder, Renewed};

#[test]
fn a_claim_is_withdrawn_when_the_last_waiter_leaves_whatever_has_become_of_it() {
    let mut asking = Bench::new();
    asking.joins();
    let mut pausing = Bench::new();
    pausing.joins();
    pausing.not_known(1);
    for mut b in [asking, Bench::queued(), pausing] {
        assert_eq!(b.leaves(1), ["#2 abandon w1"]);
        assert!(!b.key.expects("w1"));
        assert!(!b.key.is_gone());
        // Whoever asks waits for the answer by itself.
        assert_eq!(b.wants_time_in(), None);
        assert!(b.answered(2, Answer::Abandoned).is_empty());
        assert!(b.key.is_gone());
    }
}

#[test]
fn a_claim_stays_as_long_as_one_waits() {
    let mut b = Bench::queued();
    b.joins();
    assert!(b.leaves(1).is_empty());
    assert!(b.key.expects("w1"));
    assert_eq!(b.leaves(2), ["#2 abandon w1"]);
}

#[test]
fn a_withdrawal_that_is_not_answered_is_repeated_for_the_ttl() {
    let mut b = Bench::queued();
    b.leaves(1);
    assert!(b.not_known(2).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(100)));
    assert_eq!(b.in_time(), ["#3 abandon w1"]);
    assert_eq!(b.question(3).0.failures, 1);
    b.pass(TTL);
    assert!(b.not_known(3).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn a_withdrawal_that_was_cut_off_is_repeated_at_once() {
    let mut b = Bench::queued();
    b.leaves(1);
    assert_eq!(b.answered(2, Answer::CutOff), ["#3 abandon w1"]);
    b.answered(3, Answer::Abandoned);
    assert!(b.key.is_gone());
}

#[test]
fn a_withdrawal_that_was_cut_off_is_repeated_in_a_shutdown_as_well() {
    let mut b = Bench::queued();
    assert_eq!(
        b.on(Event::ShutDown),
        ["tell 1: shut down", "#2 abandon w1"]
    );
    // Its pump went with the future of a caller; nothing is wrong with the store.
    assert_eq!(b.answered(2, Answer::CutOff), ["#3 abandon w1"]);
}

#[test]
fn a_withdrawal_that_is_refused_is_not_repeated() {
    let mut b = Bench::queued();
    b.leaves(1);
    assert!(b.refused(2).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn whoever_comes_during_a_withdrawal_is_asked_for_behind_it() {
    let mut b = Bench::queued();
    b.leaves(1);
    assert!(b.tries().is_empty());
    assert_eq!(b.answered(2, Answer::Abandoned), ["#3 acquire w2"]);
}

#[test]
fn a_withdrawal_that_fails_keeps_nobody_waiting() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.joins();
    assert_eq!(b.not_known(2), ["#3 acquire w2 (waits)"]);
    assert_eq!(b.in_time(), ["#4 abandon w1"]);
    // The new claim has another owner, so a withdrawal that is late harms nobody.
    b.granted(3, 100);
    b.answered(4, Answer::Abandoned);
    assert!(b.is_held());
}

#[test]
fn a_withdrawal_whose_asker_may_be_stuck_is_asked_a_second_time_for_those_behind() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.joins();
    assert_eq!(b.wants_time_in(), Some(ms(500)));
    assert_eq!(b.in_time(), ["#3 abandon w1"]);
    // Nobody answers: then whoever waits is not kept by it.
    let asked = b.in_time();
    assert_eq!(asked, ["#4 abandon w1", "#5 acquire w2 (waits)"]);
}

#[test]
fn an_answer_to_any_question_about_a_withdrawal_ends_it() {
    let mut b = Bench::queued();
    b.leaves(1);
    for number in 2..4 {
        b.not_known(number);
        b.in_time();
    }
    assert!(b.answered(2, Answer::Abandoned).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn two_answers_to_a_withdrawal_are_one() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.joins();
    b.in_time();
    let asked = b.answered(2, Answer::Abandoned);
    assert_eq!(asked, ["#4 acquire w2 (waits)"]);
    assert!(b.answered(3, Answer::Abandoned).is_empty());
}

#[test]
fn a_grant_to_a_claim_that_is_being_withdrawn_is_left_to_the_withdrawal() {
    let mut b = Bench::new();
    b.joins();
    b.leaves(1);
    assert!(b.granted(1, 100).is_empty());
    assert!(!b.key.is_held());
    // After the withdrawal it is not.
    b.answered(2, Answer::Abandoned);
    assert_eq!(b.granted(1, 100), ["#3 abandon w1"]);
}

#[test]
fn a_claim_that_went_with_a_release_is_withdrawn_after_it() {
    let mut b = Bench::releasing();
    assert!(b.leaves(2).is_empty());
    assert_eq!(b.released(3, None), ["released", "#4 abandon w2"]);
}

#[test]
fn a_claim_is_in_doubt_if_a_question_of_it_was_not_answered() {
    let mut b = Bench::queued();
    b.leaves(1);
    assert!(!b.claim(2).in_doubt);

    let mut b = Bench::new();
    b.joins();
    b.leaves(1);
    assert!(b.claim(2).in_doubt);

    let mut b = Bench::new();
    b.joins();
    b.not_known(1);
    b.in_time();
    b.queued_behind(2, Holder::of_ours(TTL));
    b.leaves(1);
    assert!(b.claim(3).in_doubt);
}

#[test]
fn a_claim_is_withdrawn_once() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    b.granted(2, 100);
    b.takes(1);
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    // A late answer is given back, and then the holder ends its lease.
    assert_eq!(b.granted(1, 100), ["#4 abandon w1"]);
    assert_eq!(b.ends().len(), 1);
    b.answered(4, Answer::Abandoned);
    assert!(b.key.is_gone());
}

#[test]
fn a_withdrawal_is_not_asked_again_before_its_time() {
    let mut b = Bench::queued();
    b.leaves(1);
    // Nobody waits for it but who asks.
    assert!(b.after(ms(500)).is_empty());
    assert!(b.after(ms(1_100)).is_empty());
    b.not_known(2);
    assert!(b.after(ms(99)).is_empty());
    assert_eq!(b.after(ms(1)), ["#3 abandon w1"]);

    let mut b = Bench::queued();
    b.leaves(1);
    b.joins();
    assert!(b.after(ms(499)).is_empty());
    assert_eq!(b.after(ms(1)), ["#3 abandon w1"]);
    assert!(b.after(ms(1_099)).is_empty());
    let asked = b.after(ms(1));
    assert_eq!(asked, ["#4 abandon w1", "#5 acquire w2 (waits)"]);
}

#[test]
fn a_withdrawal_is_not_asked_again_when_its_ttl_is_over() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.pass(TTL);
    assert!(b.not_known(2).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn a_withdrawal_that_was_asked_twice_does_not_fail_with_the_first_question() {
    let mut b = Bench::queued();
    b.leaves(1);
    b.joins();
    b.in_time();
    assert!(b.not_known(2).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(1_100)));
    assert_eq!(b.answered(3, Answer::Abandoned), ["#4 acquire w2 (waits)"]);
}
