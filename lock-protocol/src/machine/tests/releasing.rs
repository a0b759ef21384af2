//! Leases that their holders have given up.

use super::super::{Answer, Event};
use super::bench::{Bench, TTL, grant, ms};
use crate::claim::{Acquired, Holder, Released, Renewed};

fn next_granted(b: &Bench, number: u64, first: u64) -> Option<Acquired> {
    Some(Acquired::Granted(grant(&b.claim(number), first)))
}

#[test]
fn a_holder_that_ends_its_lease_is_told_when_the_store_has() {
    let mut b = Bench::held();
    assert_eq!(b.ends(), ["#3 release w1", "changed"]);
    assert!(!b.is_held());
    assert_eq!(b.wants_time_in(), None);
    assert_eq!(b.released(3, None), ["released"]);
    assert!(b.key.is_gone());
}

#[test]
fn the_next_claim_goes_with_the_release() {
    let mut b = Bench::held();
    b.rules.local_passes = 0;
    b.joins();
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
    assert_eq!(b.claim(3).number, 3);
    assert!(b.key.expects("w2"));
}

#[test]
fn the_next_claim_may_be_granted_with_the_release() {
    let mut b = Bench::releasing();
    let next = next_granted(&b, 3, 200);
    let told = b.released(3, next);
    assert_eq!(told, ["released", "tell 2: granted w2, 200"]);
    assert!(b.is_held());
}

#[test]
fn the_next_claim_may_be_queued_with_the_release() {
    let mut b = Bench::releasing();
    let next = Acquired::Queued(Holder::of_ours(ms(700)));
    assert_eq!(b.released(3, Some(next)), ["released"]);
    let pause = b.wants_time_in().expect("it looks");
    assert!((ms(702)..ms(705)).contains(&pause), "{pause:?}");
    assert_eq!(b.handed_over("w2", 300, ms(0)), ["tell 2: granted w2, 300"]);
}

#[test]
fn whoever_joins_behind_a_release_is_asked_for_after_it() {
    let mut b = Bench::held();
    b.ends();
    assert!(b.joins().is_empty());
    assert_eq!(b.released(3, None), ["released", "#4 acquire w2 (waits)"]);
}

#[test]
fn one_who_does_not_wait_joins_behind_a_release() {
    let mut b = Bench::held();
    b.ends();
    assert!(b.tries().is_empty());
    assert_eq!(b.released(3, None), ["released", "#4 acquire w2"]);
}

#[test]
fn a_release_of_a_lease_that_was_not_held_is_told_as_a_loss() {
    let mut b = Bench::releasing();
    b.pass(ms(3));
    let told = b.answered(3, Answer::Released(Released::NotHeld));
    // The next claim was not looked at.
    assert_eq!(
        told,
        ["ended: Lost(NotHeld) after 3ms", "#4 acquire w2 (waits)"]
    );

    let mut b = Bench::held();
    b.ends();
    b.answered(3, Answer::Released(Released::NotHeld));
    assert!(b.key.is_gone());
}

#[test]
fn a_release_that_an_earlier_one_did_is_done() {
    let mut b = Bench::releasing();
    assert!(b.not_known(3).is_empty());
    assert_eq!(b.in_time(), ["#4 release w1 then w2 (waits)"]);
    let told = b.answered(4, Answer::Released(Released::NotHeld));
    assert_eq!(told, ["released", "#5 acquire w2 (waits)"]);
}

#[test]
fn news_of_the_next_claim_end_a_release() {
    let mut b = Bench::releasing();
    let told = b.handed_over("w2", 200, ms(0));
    assert_eq!(told, ["released", "tell 2: granted w2, 200"]);
    // The answer comes, too.
    let next = Acquired::Queued(Holder::of_ours(ms(700)));
    assert!(b.released(3, Some(next)).is_empty());
    assert!(b.is_held());
}

#[test]
fn a_release_that_is_not_answered_is_repeated_for_the_ttl() {
    let mut b = Bench::held();
    b.ends();
    assert!(b.not_known(3).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(100)));
    assert_eq!(b.in_time(), ["#4 release w1"]);
    assert_eq!(b.question(4).0.failures, 1);
    b.pass(ms(1_000));
    // Its holder is kept no longer than a question takes.
    assert_eq!(b.not_known(4), ["release failed"]);
    assert_eq!(b.in_time(), ["#5 release w1"]);
    b.pass(TTL);
    assert!(b.not_known(5).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn a_release_that_is_answered_after_its_holder_was_told_is_not_told_again() {
    let mut b = Bench::held();
    b.ends();
    b.pass(ms(1_000));
    assert_eq!(b.not_known(3), ["release failed"]);
    b.in_time();
    assert!(b.released(4, None).is_empty());
    assert!(b.key.is_gone());
}

#[test]
fn a_release_that_was_cut_off_is_repeated_at_once() {
    let mut b = Bench::held();
    b.ends();
    assert_eq!(b.answered(3, Answer::CutOff), ["#4 release w1"]);
    assert_eq!(b.released(4, None), ["released"]);
}

#[test]
fn a_release_that_is_refused_is_told_to_its_holder_and_those_behind() {
    let mut b = Bench::releasing();
    let told = b.refused(3);
    assert_eq!(told, ["tell 2: refused", "release failed", "#4 abandon w2"]);
}

#[test]
fn a_release_whose_asker_may_be_stuck_is_asked_a_second_time_for_those_behind() {
    let mut b = Bench::releasing();
    assert_eq!(b.wants_time_in(), Some(ms(500)));
    assert_eq!(b.in_time(), ["#4 release w1 then w2 (waits)"]);
    assert_eq!(b.wants_time_in(), Some(ms(1_100)));
    // Nobody behind it, nobody is kept by it.
    let mut b = Bench::held();
    b.ends();
    assert_eq!(b.wants_time_in(), None);
}

#[test]
fn a_release_that_nobody_answers_fails_for_those_behind() {
    let mut b = Bench::releasing();
    b.in_time();
    assert!(b.after(ms(1_099)).is_empty());
    let told = b.after(ms(1));
    assert_eq!(told, ["release failed"]);
    assert_eq!(b.in_time(), ["#5 release w1 then w2 (waits)"]);
}

#[test]
fn two_answers_to_a_release_are_one_in_any_order() {
    // As the store did them.
    let mut b = Bench::releasing();
    b.in_time();
    let next = next_granted(&b, 3, 200);
    let told = b.released(3, next);
    assert_eq!(told, ["released", "tell 2: granted w2, 200"]);
    assert!(
        b.answered(4, Answer::Released(Released::NotHeld))
            .is_empty()
    );
    assert!(b.is_held());

    // The other way round: the claim is asked for, and is not taken twice.
    let mut b = Bench::releasing();
    b.in_time();
    let told = b.answered(4, Answer::Released(Released::NotHeld));
    assert_eq!(told, ["released", "#5 acquire w2 (waits)"]);
    let next = next_granted(&b, 3, 200);
    assert_eq!(b.released(3, next), ["tell 2: granted w2, 200"]);
    assert!(b.granted(5, 200).is_empty());
    assert!(b.is_held());
}

#[test]
fn an_answer_to_any_question_about_a_release_ends_it() {
    // The first is heard last, by a future that was kept and not polled.
    let mut b = Bench::releasing();
    b.in_time();
    b.not_known(4);
    b.in_time();
    b.not_known(5);
    let told = b.released(3, None);
    assert_eq!(told, ["released", "#6 acquire w2 (waits)"]);
}

#[test]
fn what_a_release_brought_for_a_claim_that_is_over_is_given_back() {
    let mut b = Bench::releasing();
    let claim = b.claim(3);
    b.leaves(2);
    b.handed_over("w2", 200, ms(0));
    assert!(!b.key.is_held());
    b.answered(4, Answer::Abandoned);
    let next = Acquired::Queued(Holder::of_ours(ms(700)));
    assert_eq!(b.released(3, Some(next)), ["#5 abandon w2"]);
    assert_eq!(b.claim(5).owner, claim.owner);
}

#[test]
fn an_answer_to_a_release_is_not_taken_for_that_to_another_claim() {
    let mut b = Bench::releasing();
    // The store did the release with the third question, and its answer is late.
    b.not_known(3);
    b.in_time();
    b.not_known(4);
    b.in_time();
    let next = next_granted(&b, 3, 200);
    let told = b.released(3, next);
    assert_eq!(told, ["released", "tell 2: granted w2, 200"]);
    b.takes(2);
    b.joins();
    assert_eq!(b.ends(), ["#7 release w2 then w3 (waits)", "changed"]);
    // The last question about the first lease is answered with what became of the second claim.
    let stale = Acquired::Queued(Holder::of_ours(ms(700)));
    assert!(b.released(5, Some(stale)).is_empty());
    let next = next_granted(&b, 7, 300);
    assert_eq!(b.released(7, next), ["released", "tell 3: granted w3, 300"]);
}

#[test]
fn a_lease_whose_claim_is_in_doubt_is_withdrawn_after_its_release() {
    // The first question was not answered, and may be on its way still.
    let mut b = Bench::new();
    b.joins();
    b.not_known(1);
    b.in_time();
    b.granted(2, 100);
    b.takes(1);
    assert_eq!(b.ends(), ["#4 release w1", "changed"]);
    assert_eq!(b.released(4, None), ["released", "#5 abandon w1"]);
    assert!(b.claim(5).in_doubt);
    b.answered(5, Answer::Abandoned);
    assert!(b.key.is_gone());
}

#[test]
fn a_lease_that_was_handed_over_while_a_question_was_under_way_is_in_doubt() {
    let mut b = Bench::queued();
    b.on(Event::AskAll);
    b.in_time();
    b.handed_over("w1", 100, ms(0));
    b.takes(1);
    b.ends();
    assert_eq!(b.released(4, None), ["released", "#5 abandon w1"]);
}

#[test]
fn a_lease_in_doubt_is_withdrawn_when_news_end_its_release() {
    let mut b = Bench::new();
    b.rules.local_passes = 0;
    b.joins();
    b.answered(1, Answer::CutOff);
    b.granted(2, 100);
    b.joins();
    b.ends();
    let told = b.handed_over("w2", 200, ms(0));
    assert_eq!(
        told,
        ["released", "#5 abandon w1", "tell 2: granted w2, 200"]
    );
    // The release was not answered, but of the next claim no question is under way.
    b.takes(2);
    b.answered(5, Answer::Abandoned);
    assert_eq!(b.ends(), ["#7 release w2", "changed"]);
    assert_eq!(b.released(7, None), ["released"]);
}

#[test]
fn a_lost_lease_in_doubt_is_withdrawn_instead_of_released() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    b.granted(2, 100);
    b.takes(1);
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    assert_eq!(b.ends()[1], "#4 abandon w1");
}

#[test]
fn a_claim_that_went_with_a_release_is_not_asked_for_when_nobody_waits_any_more() {
    let mut b = Bench::releasing();
    b.in_time();
    b.on(Event::ShutDown);
    // Nobody answers.
    let asked = b.in_time();
    assert_eq!(asked, ["release failed", "#5 abandon w2"]);
}

#[test]
fn a_release_is_not_asked_again_before_its_time() {
    let mut b = Bench::held();
    b.ends();
    // Nobody waits for it but who asks.
    assert!(b.after(ms(500)).is_empty());
    assert!(b.after(ms(1_100)).is_empty());
    b.not_known(3);
    assert!(b.after(ms(99)).is_empty());
    assert_eq!(b.after(ms(1)), ["#4 release w1"]);

    let mut b = Bench::releasing();
    assert!(b.after(ms(499)).is_empty());
    assert_eq!(b.after(ms(1)), ["#4 release w1 then w2 (waits)"]);
}

#[test]
fn a_release_is_not_asked_again_when_its_ttl_is_over() {
    let mut b = Bench::held();
    b.ends();
    b.pass(TTL);
    assert_eq!(b.not_known(3), ["release failed"]);
    assert!(b.key.is_gone());
}

#[test]
fn a_release_that_was_asked_twice_does_not_fail_with_the_first_question() {
    let mut b = Bench::releasing();
    b.in_time();
    assert!(b.not_known(3).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(1_100)));
    let next = next_granted(&b, 4, 200);
    let told = b.released(4, next);
    assert_eq!(told, ["released", "tell 2: granted w2, 200"]);
}
