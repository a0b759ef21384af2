use super::*;

fn claim() -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    Claim::new(key, OwnerToken::unique("me"), Duration::from_secs(5)).queued()
}

fn at(secs: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 * secs)
}

/// A claim for which three of five nodes have answered: one votes, one queues, one refuses.
fn asked() -> (Claims, Claim, u64) {
    let (claims, claim) = (Claims::default(), claim());
    let (round, asked) = claims.begin(&claim, 5, at(1));
    for (node, voted, queued) in [(0, true, false), (1, false, true), (2, false, false)] {
        claims.answered(
            &claim.owner,
            (node, round),
            &asked[node].owner,
            voted,
            queued,
        );
    }
    (claims, claim, round)
}

fn given(claims: &Claims, claim: &Claim, round: u64, secs: u64) -> Vec<Stub> {
    claims.give_back(&claim.owner, round, false, at(secs)).0
}

#[test]
fn a_round_whose_votes_are_given_back_grants_nothing() {
    let (claims, claim, round) = asked();
    let (_, latest) = claims.give_back(&claim.owner, round, false, at(2));
    assert!(!claims.promise(&claim.owner, round, at(6)));
    assert!(claims.begin_again(&claim.owner, latest, at(3)).is_some());
}

#[test]
fn a_claim_that_is_begun_anew_is_not_taken_for_the_one_that_ended() {
    let (claims, claim, round) = asked();
    claims.end(&claim.owner);
    claims.begin(&claim, 5, at(2));
    assert!(!claims.promise(&claim.owner, round, at(6)));
}

#[test]
fn what_is_given_back_is_asked_for_by_another_token() {
    let (claims, claim, round) = asked();
    let (stubs, _) = claims.give_back(&claim.owner, round, true, at(2));
    let given: Vec<_> = stubs.iter().map(|stub| (stub.node, stub.voted)).collect();
    assert_eq!(given, [(0, true), (3, false), (4, false)]);
    assert!(stubs.iter().all(|stub| stub.claim.owner == claim.owner));
    // Only where something of an earlier try may come late, the node has to remember its end.
    assert!(!stubs[0].claim.in_doubt && stubs[1].claim.in_doubt);
    let (_, again) = claims.begin(&claim, 5, at(3));
    let tokens: Vec<_> = again.iter().map(|claim| claim.owner.as_str()).collect();
    let (own, next) = (claim.owner.to_string(), format!("1~{}", claim.owner));
    assert_eq!(tokens, [&*next, &own, &own, &next, &next]);
    assert_eq!(claimed_by(&next), own);
}

#[test]
fn nothing_is_given_back_while_somebody_relies_on_the_lock() {
    let (claims, claim, round) = asked();
    assert!(claims.promise(&claim.owner, round, at(6)));
    let (later, _) = claims.begin(&claim, 5, at(2));
    assert!(given(&claims, &claim, later, 5).is_empty());
    assert!(!given(&claims, &claim, later, 6).is_empty());
}

#[test]
fn only_the_latest_round_decides() {
    let (claims, claim, round) = asked();
    let (later, _) = claims.begin(&claim, 5, at(2));
    assert!(!claims.promise(&claim.owner, round, at(6)));
    assert!(given(&claims, &claim, round, 3).is_empty());
    assert!(claims.begin_again(&claim.owner, round, at(3)).is_none());
    let (latest, _) = claims.begin_again(&claim.owner, later, at(3)).unwrap();
    assert!(claims.end(&claim.owner).is_some());
    assert!(!claims.promise(&claim.owner, latest, at(6)));
    assert!(claims.begin_again(&claim.owner, latest, at(3)).is_none());
}

#[test]
fn an_answer_to_a_try_that_is_over_is_no_vote() {
    let (claims, claim, round) = asked();
    claims.give_back(&claim.owner, round, false, at(2));
    claims.answered(&claim.owner, (3, round), &claim.owner, true, false);
    assert!(
        claims
            .end(&claim.owner)
            .unwrap()
            .iter()
            .all(|stub| !stub.voted)
    );
}

#[test]
fn an_old_answer_that_is_heard_late_hides_no_vote() {
    let (claims, claim, round) = asked();
    let (later, _) = claims.begin(&claim, 5, at(2));
    let answered = |question, voted| {
        claims.answered(&claim.owner, (3, question), &claim.owner, voted, !voted);
    };
    answered(later, true);
    answered(round, false);
    let stubs = claims.end(&claim.owner).unwrap();
    assert!(stubs[3].voted && !stubs[3].claim.in_doubt);
}

#[test]
fn news_of_a_vote_count_if_they_are_of_the_present_try() {
    let (claims, claim, round) = asked();
    let owner = claim.owner.as_str();
    let waiting = |told, round| VoteNews::Waiting {
        told,
        owner: claim.owner.clone(),
        round,
    };
    assert_eq!(claims.told(1, owner, at(2)), waiting(1, round));
    assert_eq!(claims.told(2, owner, at(2)), waiting(2, round));
    claims.give_back(&claim.owner, round, false, at(2));
    assert_eq!(claims.told(1, owner, at(2)), VoteNews::Unknown);
    assert_eq!(claims.told(1, "another", at(2)), VoteNews::Unknown);
    let (next, _) = claims.begin(&claim, 5, at(2));
    let token = format!("1~{owner}");
    assert_eq!(claims.told(1, &token, at(2)), waiting(1, next));
    assert!(claims.promise(&claim.owner, next, at(6)));
    assert_eq!(claims.told(0, &token, at(3)), VoteNews::More);
}

#[test]
fn a_node_that_lacks_a_lease_is_joined_by_its_renewal() {
    let (claims, claim, round) = asked();
    assert!(claims.promise(&claim.owner, round, at(6)));
    let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    let joined = |claims: &Claims| -> Vec<usize> {
        let (_, lacking) = claims.renewed(&renewal, at(9), at(4));
        lacking.into_iter().map(|(node, _)| node).collect()
    };
    assert_eq!(joined(&claims), [1, 2, 3, 4]);
    assert!(joined(&claims).is_empty(), "they are being joined");
    claims.answered(&claim.owner, (1, u64::MAX), &claim.owner, true, false);
    for node in 1..3 {
        claims.joined(&claim.owner, node, &claim.owner);
    }
    claims.renewed_at(&claim.owner, 0, &claim.owner, false);
    assert_eq!(joined(&claims), [0, 2]);
    // One that says that it votes has not to be joined.
    claims.joined(&claim.owner, 2, &claim.owner);
    claims.renewed_at(&claim.owner, 2, &claim.owner, true);
    assert!(joined(&claims).is_empty());
}

#[test]
fn a_renewal_that_was_confirmed_too_late_proves_nothing() {
    let (claims, claim, round) = asked();
    assert!(claims.promise(&claim.owner, round, at(6)));
    let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    let joined = |until, now| claims.renewed(&renewal, at(until), at(now)).1.len();
    assert_eq!(joined(9, 9), 0);
    assert_eq!(joined(9, 8), 4);
}

#[test]
fn a_claim_that_declines_votes_waits_where_it_waited() {
    let (claims, claim, round) = asked();
    let stubs = claims.decline(&claim.owner, round, at(2));
    let nodes: Vec<_> = stubs.iter().map(|stub| (stub.node, stub.voted)).collect();
    assert_eq!(nodes, [(0, true)]);
    assert!(!claims.promise(&claim.owner, round, at(6)));
    // What comes later is declined as well; a place in a queue is not.
    let answered = |node, question, voted| {
        let place = (node, question);
        claims.answered(&claim.owner, place, &claim.owner, voted, !voted)
    };
    assert!(answered(3, round, false).is_none());
    let late = answered(4, round, true).unwrap();
    assert!(late.node == 4 && late.claim.owner == claim.owner && !late.claim.in_doubt);
    let (next, again) = claims.begin(&claim, 5, at(3));
    let tokens: Vec<_> = again.iter().map(|claim| claim.owner.as_str()).collect();
    let (own, tried) = (claim.owner.to_string(), format!("1~{}", claim.owner));
    assert_eq!(tokens, [&*tried, &own, &own, &own, &tried]);
    // Those of the next round are wanted.
    assert!(answered(3, round, true).is_none() && answered(2, next, true).is_none());
}

#[test]
fn nothing_is_declined_while_somebody_relies_on_the_lock() {
    let (claims, claim, round) = asked();
    assert!(claims.promise(&claim.owner, round, at(6)));
    let (later, _) = claims.begin(&claim, 5, at(2));
    assert!(
        claims.decline(&claim.owner, round, at(6)).is_empty(),
        "not the latest"
    );
    assert!(claims.decline(&claim.owner, later, at(5)).is_empty());
    assert_eq!(claims.decline(&claim.owner, later, at(6)).len(), 1);
}

#[test]
fn refused_claims_are_remembered_no_longer_than_their_votes_can_live() {
    let claims = Claims::default();
    // A hundred claims a second, with a ttl of five, each of which gave something back.
    for number in 0..10_000_u64 {
        let now = Instant::from_nanos(number * 10_000_000);
        let claim = claim();
        let (round, _) = claims.begin(&claim, 5, now);
        assert_eq!(claims.give_back(&claim.owner, round, false, now).0.len(), 5);
        claims.refused(&claim.owner, now);
    }
    assert!(claims.count() < 2_000, "{}", claims.count());
}

#[test]
fn a_refused_claim_that_is_asked_for_again_is_not_forgotten() {
    let (claims, claim, round) = asked();
    claims.give_back(&claim.owner, round, false, at(2));
    claims.refused(&claim.owner, at(2));
    claims.begin(&claim, 5, at(3));
    for _ in 0..SWEEP {
        claims.begin(&self::claim(), 5, at(70));
    }
    let (_, again) = claims.begin(&claim, 5, at(70));
    assert!(again[0].owner.as_str().starts_with("1~"));
}

#[test]
fn a_claim_that_nobody_ends_is_forgotten_in_time() {
    let claims = Claims::default();
    for number in 0..2_000_u64 {
        claims.begin(&claim(), 5, at(number * 10));
    }
    assert!(claims.count() < 300, "{}", claims.count());
    let last = claim();
    claims.begin(&last, 5, at(20_000));
    assert_eq!(claims.named(&last.owner).unwrap().1, last.owner);
}
