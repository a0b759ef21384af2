//! From the first question to the grant.

use super::super::{Answer, Pursued, Waiter};
use super::bench::{Bench, TTL, block, grant, ms};
use crate::claim::{Acquired, Grant, Holder};
use crate::machine::Event;
use crate::mode::Kind;
use crate::terms::{Terms, valid_until};
use crate::token::OwnerToken;

#[test]
fn a_waiter_that_joins_is_asked_for() {
    let mut b = Bench::new();
    assert_eq!(b.joins(), ["#1 acquire w1 (waits)"]);
    // Whoever asks waits for the answer by itself.
    assert_eq!(b.wants_time_in(), None);
    // One claim is made for all.
    assert!(b.joins().is_empty());
    assert!(b.key.expects("w1") && !b.key.expects("w2"));
}

#[test]
fn an_owner_token_is_wanted_if_the_next_event_may_make_a_claim() {
    let mut b = Bench::new();
    assert!(b.wants_owner(true) && !b.wants_owner(false));
    b.key
        .provide_owner(Kind::Exclusive, OwnerToken::new("spare"));
    assert!(!b.wants_owner(true) && !b.wants_owner(false));
    let waiter = nameless(&mut b);
    let asked = b.on(Event::Joined(waiter));
    assert_eq!(asked, ["#1 acquire spare (waits)"]);
    // One claim is made for all.
    assert!(!b.wants_owner(true) && !b.wants_owner(false));
    b.granted(1, 100);
    assert!(!b.wants_owner(false));
    let waiter = nameless(&mut b);
    b.on(Event::Joined(waiter));
    // The holder may end its lease.
    assert!(b.wants_owner(true) && b.wants_owner(false));
    b.key
        .provide_owner(Kind::Exclusive, OwnerToken::new("another"));
    b.rules.local_passes = 0;
    let told = b.ends();
    assert_eq!(told, ["#3 release spare then another (waits)", "changed"]);
}

fn nameless(b: &mut Bench) -> Waiter {
    Waiter {
        owner: None,
        ..b.waiter()
    }
}

#[test]
fn nothing_is_asked_before_its_time() {
    let mut b = Bench::queued();
    assert!(b.after(b.rules.heartbeat - ms(1)).is_empty());
    assert_eq!(b.after(ms(1)), ["#2 acquire w1 (waits)"]);
    b.not_known(2);
    assert!(b.after(ms(99)).is_empty());
    assert_eq!(b.after(ms(1)), ["#3 acquire w1 (waits)"]);
    // Whoever asks waits for the answer by itself.
    assert!(b.after(ms(400)).is_empty());
    b.joins();
    assert!(b.after(ms(99)).is_empty());
    assert_eq!(b.after(ms(1)), ["#4 acquire w1 (waits)"]);
}

#[test]
fn one_who_asks_for_nobody_else_is_not_helped() {
    let mut b = Bench::new();
    b.joins();
    assert!(b.after(ms(500)).is_empty());
    assert!(b.after(ms(5_000)).is_empty());
}

#[test]
fn a_second_question_comes_earlier_if_the_grace_is_short() {
    let mut b = Bench::new();
    b.rules.grace = ms(200);
    b.joins();
    b.joins();
    assert_eq!(b.wants_time_in(), Some(ms(100)));
}

#[test]
fn a_claim_asks_for_what_the_head_and_the_rules_say() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    let claim = b.claim(1);
    assert_eq!(
        (claim.ttl, claim.grace, claim.tokens),
        (ms(500), ms(500), 8)
    );
    assert_eq!((claim.heartbeat, claim.number), (b.rules.heartbeat, 1));
}

#[test]
fn a_grant_is_told_to_the_head_of_the_line() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    b.pass(ms(10));
    assert_eq!(b.granted(1, 100), ["tell 1: granted w1, 100"]);
    let granted = b.last_grant();
    let left = b.key.remaining(granted.lease, granted.token, b.now);
    // It is counted from before the question.
    assert_eq!(b.now + left, valid_until(b.now - ms(10), TTL));
    assert!(b.key.expects("w1") && b.key.is_held());
}

#[test]
fn a_grant_that_lacks_a_little_of_its_ttl_is_renewed_as_any_other() {
    let granted_for = |terms: Option<Terms>, left| {
        let mut b = Bench::new();
        match terms {
            Some(terms) => b.joins_with(terms),
            None => b.joins(),
        };
        let mut grant = grant(&b.claim(1), 100);
        grant.valid_for = left;
        b.answered(1, Answer::Acquired(Acquired::Granted(grant)));
        b.takes(1);
        b.wants_time_in().expect("it is extended")
    };
    let little = TTL - TTL / 64;
    assert!((ms(7_500)..=ms(10_000)).contains(&granted_for(None, little)));
    // One that is never renewed is left alone until it ends.
    let never = Some(Terms::new(TTL));
    assert!(granted_for(never, little) > little - little / 50);
    // One that lacks more is extended by half, whoever else renews it.
    let more = TTL - TTL / 8;
    assert_eq!(granted_for(None, more), more / 2);
    assert_eq!(granted_for(never, more), more / 2);
}

#[test]
fn a_grant_of_another_ttl_than_the_head_wants_is_asked_for_again() {
    let mut b = Bench::new();
    b.joins();
    b.joins_with(Terms::new(ms(500)));
    b.leaves(1);
    assert_eq!(b.granted(1, 100), ["#2 acquire w1 (waits)"]);
    // The grace is a part of the place in the queue of Redis, and stays.
    let (first, again) = (b.claim(1), b.claim(2));
    assert_eq!((again.ttl, again.grace), (ms(500), first.grace));
    assert_eq!(b.granted(2, 100), ["tell 2: granted w1, 100"]);
}

#[test]
fn nobody_relies_on_more_than_was_asked_for_because_an_answer_is_late() {
    let mut b = Bench::new();
    b.joins();
    b.joins_with(Terms::new(ms(800)));
    let again = b.wants_time_in().expect("another waits");
    assert_eq!(b.after(again), ["#2 acquire w1 (waits)"]);
    b.leaves(1);
    assert_eq!(b.granted(2, 100), ["#3 acquire w1 (waits)"]);
    // The answer to the first question, which wanted more.
    assert_eq!(b.granted(1, 100), ["tell 2: granted w1, 100"]);
    let granted = b.last_grant();
    assert!(b.key.remaining(granted.lease, granted.token, b.now) <= ms(800));
}

#[test]
fn a_grant_that_comes_after_its_lease_is_asked_for_again() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.pass(ms(500));
    assert_eq!(b.granted(1, 100), ["#2 acquire w1 (waits)"]);
    b.pass(ms(400));
    assert_eq!(b.granted(2, 100), ["tell 1: granted w1, 100"]);
}

#[test]
fn a_grant_that_comes_with_the_end_of_its_lease_is_asked_for_again() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.pass(ms(493));
    assert_eq!(b.granted(1, 100), ["#2 acquire w1 (waits)"]);
    b.pass(ms(492));
    assert_eq!(b.granted(2, 100), ["tell 1: granted w1, 100"]);
}

#[test]
fn those_who_do_not_wait_are_told_when_the_claim_is_queued() {
    let mut b = Bench::new();
    b.joins();
    b.tries();
    let told = b.queued_behind(1, Holder::of_ours(ms(700)));
    assert_eq!(told, ["tell 2: taken for 700ms"]);
    // A newcomer is told without a question.
    b.pass(ms(100));
    assert_eq!(b.tries(), ["tell 3: taken for 600ms"]);
}

#[test]
fn a_claim_that_is_queued_asks_when_the_lease_before_has_ended_or_at_its_heartbeat() {
    let mut b = Bench::new();
    b.joins();
    b.queued_behind(1, Holder::of_ours(ms(700)));
    let pause = b.wants_time_in().expect("it looks");
    assert!((ms(702)..ms(705)).contains(&pause), "{pause:?}");
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
    b.queued_behind(2, Holder::of_ours(TTL));
    assert_eq!(b.wants_time_in(), Some(b.rules.heartbeat));
    assert_eq!(b.in_time(), ["#3 acquire w1 (waits)"]);
}

#[test]
fn a_holder_that_frees_its_lock_without_a_word_is_looked_at_ever_more_seldom() {
    let mut b = Bench::new();
    b.joins();
    let mut number = 1;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        b.queued_behind(number, Holder::foreign(None));
        pauses.push(b.wants_time_in().expect("it looks"));
        number += 1;
        assert_eq!(b.in_time(), [format!("#{number} acquire w1 (waits)")]);
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!((ms(25)..=ms(50)).contains(&pauses[0]), "{pauses:?}");
    assert!((ms(500)..=ms(1000)).contains(&pauses[7]), "{pauses:?}");
}

#[test]
fn a_claim_that_did_not_wait_is_asked_for_again_as_one_that_waits() {
    let mut b = Bench::new();
    assert_eq!(b.tries(), ["#1 acquire w1"]);
    b.joins();
    let told = b.taken(1);
    assert_eq!(told, ["tell 1: taken for 30s", "#2 acquire w1 (waits)"]);
}

#[test]
fn a_claim_that_does_not_wait_leaves_nothing_behind() {
    let mut b = Bench::new();
    b.tries();
    assert_eq!(b.taken(1), ["tell 1: taken for 30s"]);
    assert!(b.key.is_gone());
}

#[test]
fn a_claim_that_does_not_wait_is_withdrawn_if_an_earlier_question_may_be_on_its_way() {
    let mut b = Bench::new();
    b.tries();
    assert_eq!(b.answered(1, Answer::CutOff), ["#2 acquire w1"]);
    assert_eq!(b.taken(2), ["tell 1: taken for 30s", "#3 abandon w1"]);
}

#[test]
fn a_store_without_a_queue_is_asked_again_and_again() {
    let mut b = Bench::new();
    b.joins();
    let holder = Holder::of_ours(ms(50));
    let answer = Acquired::Taken(holder);
    assert!(b.answered(1, Answer::Acquired(answer)).is_empty());
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
}

#[test]
fn a_question_that_is_not_answered_is_repeated_after_a_pause() {
    let mut b = Bench::new();
    b.joins();
    b.tries();
    assert_eq!(b.not_known(1), ["tell 2: failed"]);
    assert_eq!(b.wants_time_in(), Some(ms(100)));
    // Who comes only to try has the answer: that there is none.
    assert_eq!(b.tries(), ["tell 3: failed"]);
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
    assert_eq!(b.question(2).0.failures, 1);
    // Whoever is late is told why.
    assert_eq!(b.gives_up(1), ["tell 1: failed", "#3 abandon w1"]);
}

#[test]
fn a_refusal_for_good_is_told_to_everybody() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    let told = b.refused(1);
    assert_eq!(
        told,
        ["tell 1: refused", "tell 2: refused", "#2 abandon w1"]
    );
    // Whoever comes after it has an answer of its own.
    b.answered(2, Answer::Abandoned);
    assert_eq!(b.tries(), ["#3 acquire w3"]);
}

#[test]
fn a_question_that_was_cut_off_is_repeated_at_once() {
    let mut b = Bench::new();
    b.joins();
    let asked = b.answered(1, Answer::CutOff);
    assert_eq!(asked, ["#2 acquire w1 (waits)"]);
    assert_eq!(b.question(2).0.failures, 0);
    // What the store made of the first counts as well.
    assert_eq!(b.granted(1, 100), ["tell 1: granted w1, 100"]);
    assert!(b.granted(2, 100).is_empty());
    assert!(b.is_held());
}

#[test]
fn a_question_whose_asker_may_be_stuck_is_asked_a_second_time_for_those_behind() {
    let mut b = Bench::new();
    b.joins();
    b.pass(ms(400));
    assert_eq!(b.wants_time_in(), None);
    b.joins();
    assert_eq!(b.wants_time_in(), Some(ms(100)));
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
    // The first to be answered counts; the other failing does not.
    assert!(b.not_known(1).is_empty());
    assert_eq!(b.granted(2, 100), ["tell 1: granted w1, 100"]);
}

#[test]
fn a_grant_to_the_first_of_two_questions_is_as_good() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    b.in_time();
    assert_eq!(b.granted(1, 100), ["tell 1: granted w1, 100"]);
    // The store granted the same claim once more.
    assert!(b.granted(2, 100).is_empty());
    assert!(b.is_held());
}

#[test]
fn a_question_that_nobody_answers_fails_for_those_behind() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
    assert_eq!(b.wants_time_in(), Some(ms(1100)));
    assert!(b.after(ms(1099)).is_empty());
    assert_eq!(b.key.look().pursuit, Some(Pursued::Asking));
    let mut asked = b.after(ms(1));
    asked.extend(b.after(ms(0)));
    assert_eq!(asked, ["#3 acquire w1 (waits)"]);
    assert_eq!(b.tries(), ["tell 3: failed"]);
    assert_eq!(b.granted(2, 100), ["tell 1: granted w1, 100"]);
}

#[test]
fn a_hand_over_is_told_to_the_head_of_the_line() {
    let mut b = Bench::queued();
    b.pass(ms(50));
    assert_eq!(
        b.handed_over("w1", 100, ms(20)),
        ["tell 1: granted w1, 100"]
    );
    let granted = b.last_grant();
    let left = b.key.remaining(granted.lease, granted.token, b.now);
    // It lives for its grace, from before the hand-over, and is renewed in time.
    assert_eq!(b.now + left, valid_until(b.now - ms(20), b.rules.grace));
    assert_eq!(b.wants_time_in(), Some(ms(480)));
    assert_eq!(b.in_time(), ["renew w1"]);
}

#[test]
fn a_hand_over_with_others_behind_is_extended_at_once() {
    let mut b = Bench::queued();
    b.joins();
    b.handed_over("w1", 100, ms(0));
    assert_eq!(b.wants_time_in(), Some(ms(0)));
    assert_eq!(b.in_time(), ["renew w1"]);
    // Unless it is not passed on to them.
    let mut b = Bench::queued();
    b.rules.local_passes = 0;
    b.joins();
    b.handed_over("w1", 100, ms(0));
    assert_eq!(b.wants_time_in(), Some(ms(500)));
}

#[test]
fn a_hand_over_of_a_lease_that_is_not_renewed_is_extended_once() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(500)));
    b.queued_behind(1, Holder::of_ours(TTL));
    b.handed_over("w1", 100, ms(0));
    b.takes(1);
    assert_eq!(b.wants_time_in(), Some(ms(250)));
    assert_eq!(b.in_time(), ["renew w1"]);
}

#[test]
fn a_hand_over_of_a_whole_lease_is_renewed_as_any_other() {
    let mut b = Bench::new();
    b.joins_with(Terms {
        renew: Some(ms(400)),
        ..Terms::new(ms(500))
    });
    b.queued_behind(1, Holder::of_ours(TTL));
    b.handed_over("w1", 100, ms(0));
    assert_eq!(b.wants_time_in(), Some(ms(384)));
}

#[test]
fn a_hand_over_is_no_older_than_its_claim() {
    let mut b = Bench::queued();
    b.pass(ms(50));
    b.handed_over("w1", 100, ms(300));
    let granted = b.last_grant();
    let left = b.key.remaining(granted.lease, granted.token, b.now);
    assert_eq!(b.now + left, valid_until(b.now - ms(50), b.rules.grace));
}

#[test]
fn a_hand_over_of_which_little_is_left_is_confirmed_first() {
    let mut b = Bench::queued();
    b.pass(ms(2000));
    assert_eq!(b.handed_over("w1", 100, ms(600)), ["#2 acquire w1 (waits)"]);
    assert!(!b.key.is_held());
    assert_eq!(b.granted(2, 100), ["tell 1: granted w1, 100"]);
    // Little is half of what it had.
    let mut b = Bench::queued();
    b.pass(ms(2000));
    assert_eq!(b.handed_over("w1", 100, ms(488)), ["#2 acquire w1 (waits)"]);
    let mut b = Bench::queued();
    b.pass(ms(2000));
    let told = b.handed_over("w1", 100, ms(487));
    assert_eq!(told, ["tell 1: granted w1, 100"]);
}

#[test]
fn a_hand_over_to_somebody_else_is_not_taken() {
    let mut b = Bench::queued();
    assert!(b.handed_over("x", 100, ms(0)).is_empty());
    assert!(!b.key.expects("x"));
    assert!(!b.key.is_held());
}

#[test]
fn a_claim_that_is_queued_asks_when_the_backend_says_so() {
    let mut b = Bench::queued();
    let owner = b.claim(1).owner;
    assert!(b.on(Event::AskAt(&owner, b.now + ms(300))).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(300)));
    // A later instant does not put it off.
    assert!(b.on(Event::AskAt(&owner, b.now + ms(400))).is_empty());
    assert_eq!(b.wants_time_in(), Some(ms(300)));
    b.on(Event::AskAll);
    assert_eq!(b.wants_time_in(), Some(ms(0)));
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
}

#[test]
fn what_the_backend_says_while_a_question_is_under_way_is_remembered() {
    let mut b = Bench::new();
    b.joins();
    let owner = b.claim(1).owner;
    b.on(Event::AskAt(&owner, b.now + ms(300)));
    b.queued_behind(1, Holder::of_ours(TTL));
    assert_eq!(b.wants_time_in(), Some(ms(300)));
    assert_eq!(b.in_time(), ["#2 acquire w1 (waits)"]);
    // Once.
    b.queued_behind(2, Holder::of_ours(TTL));
    assert_eq!(b.wants_time_in(), Some(b.rules.heartbeat));
}

#[test]
fn what_the_backend_says_of_another_claim_is_nothing_to_this_one() {
    let mut b = Bench::queued();
    let another = OwnerToken::new("another");
    b.on(Event::AskAt(&another, b.now));
    assert_eq!(b.wants_time_in(), Some(b.rules.heartbeat));
}

#[test]
fn a_hand_over_ends_a_pause() {
    let mut b = Bench::queued();
    b.on(Event::AskAll);
    b.in_time();
    b.not_known(2);
    assert_eq!(b.handed_over("w1", 100, ms(0)), ["tell 1: granted w1, 100"]);
    assert!(b.is_held());
}

#[test]
fn a_hand_over_that_overtakes_the_answer_is_taken_once() {
    let mut b = Bench::queued();
    b.on(Event::AskAll);
    b.in_time();
    assert_eq!(b.handed_over("w1", 100, ms(0)), ["tell 1: granted w1, 100"]);
    // The answer to the question that was under way is of the same grant.
    assert!(b.granted(2, 100).is_empty());
    assert!(b.is_held());
}

#[test]
fn an_answer_that_overtakes_the_hand_over_is_taken_once() {
    let mut b = Bench::queued();
    b.on(Event::AskAll);
    b.in_time();
    b.granted(2, 100);
    assert!(b.key.expects("w1"));
    assert!(b.handed_over("w1", 100, ms(0)).is_empty());
    assert!(b.is_held());
}

#[test]
fn an_answer_to_a_question_that_is_over_is_given_back() {
    let mut b = Bench::held();
    b.joins();
    b.rules.local_passes = 0;
    let claim = b.claim(1);
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
    b.released(3, Some(Acquired::Granted(grant(&b.claim(3), 200))));
    // The first question came twice.
    let late = Acquired::Granted(grant(&claim, 300));
    let given_back = b.answered(1, Answer::Acquired(late));
    assert_eq!(given_back.len(), 1);
    assert!(given_back[0].ends_with("abandon w1"), "{given_back:?}");
    assert!(b.is_held());
}

#[test]
fn what_is_given_back_is_given_back_until_the_store_has_heard_of_it() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    b.leaves(1);
    b.answered(3, Answer::Abandoned);
    assert!(b.key.is_gone());
    assert_eq!(b.granted(2, 100), ["#4 abandon w1"]);
    assert!(!b.key.is_gone());
    assert!(b.not_known(4).is_empty());
    assert_eq!(b.in_time(), ["#5 abandon w1"]);
    b.answered(5, Answer::Abandoned);
    assert!(b.key.is_gone());
}

#[test]
fn a_grant_may_have_fewer_tokens_than_were_asked_for() {
    let mut b = Bench::new();
    b.joins();
    b.joins();
    let grant = Grant::new(block(100, 100), TTL);
    b.answered(1, Answer::Acquired(Acquired::Granted(grant)));
    // The next in line is not given one that was not reserved.
    assert_eq!(b.ends(), ["#3 release w1 then w2 (waits)", "changed"]);
}

#[test]
fn an_answer_to_a_question_that_was_asked_anew_changes_nothing() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    // The store queued the claim then, and may say something else by now.
    assert!(b.queued_behind(1, Holder::of_ours(ms(700))).is_empty());
    assert_eq!(b.key.look().pursuit, Some(Pursued::Asking));
    b.queued_behind(2, Holder::of_ours(ms(700)));
    assert_eq!(b.key.look().pursuit, Some(Pursued::Queued));
}

#[test]
fn a_grant_to_a_claim_that_is_over_is_not_taken_for_one_to_the_next() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    b.leaves(1);
    b.answered(3, Answer::Abandoned);
    assert_eq!(b.joins(), ["#4 acquire w2 (waits)"]);
    assert_eq!(b.granted(1, 100), ["#5 abandon w1"]);
    assert!(!b.key.is_held());
    assert_eq!(b.granted(4, 200), ["tell 2: granted w2, 200"]);
}

#[test]
fn a_grant_to_a_claim_that_is_over_is_given_back_while_another_is_withdrawn() {
    let mut b = Bench::new();
    b.joins();
    b.answered(1, Answer::CutOff);
    b.leaves(1);
    b.answered(3, Answer::Abandoned);
    b.joins();
    assert_eq!(b.leaves(2), ["#5 abandon w2"]);
    assert_eq!(b.granted(1, 100), ["#6 abandon w1"]);
}
