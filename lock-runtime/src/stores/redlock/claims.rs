//! What the claims of this process have at the nodes.
//!
//! At each node a claim is known by a token of its own, which carries the number of its *try* there.
//! A vote that is given back ends its try, and what is asked of the node afterwards belongs to the
//! next: so a withdrawal that arrives late ends no younger vote, and a question that arrives after
//! its withdrawal, which the node remembers, brings no vote back.
//!
//! Of the rounds of one claim, only the latest decides anything. That a lock was granted is noted
//! here before anybody is told, and nothing is given back as long as somebody may rely on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use lock_protocol::{Claim, Instant, LockKey, OwnerToken, Renewal};
use rustc_hash::FxHashMap;

use crate::sync::lock;

/// How much longer than it can matter a claim is remembered that nobody ends.
const REMEMBERED: Duration = Duration::from_secs(60);
/// After how many new claims those are looked for that nobody ends.
const SWEEP: usize = 256;

/// The claims of this process.
#[derive(Default)]
pub(super) struct Claims {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    claims: FxHashMap<OwnerToken, Known>,
    /// How many have been added since they were last looked through.
    added: usize,
}

/// What is known of one claim.
struct Known {
    /// As it was last asked for.
    claim: Claim,
    slips: Vec<Slip>,
    /// Which round is the latest, by its place among the questions.
    round: u64,
    /// Until when somebody may rely on the lock.
    promised: Option<Instant>,
    /// How many nodes have told of their vote since the latest round began.
    told: usize,
    /// When it may be forgotten.
    forget_at: Instant,
}

/// What a claim has at one node.
#[derive(Clone, Copy, Debug, Default)]
struct Slip {
    number: u32,
    /// Whether the node votes for it, as far as is known.
    voted: bool,
    /// Whether it waits there.
    queued: bool,
    /// How many questions have not been answered, and may still arrive.
    unanswered: u32,
    /// Which of the questions that were answered is the last one.
    heard: u64,
    /// Whether it is being joined.
    joining: bool,
}

/// How to end what a claim has at one node.
#[derive(Clone, Debug)]
pub(super) struct Stub {
    pub(super) node: usize,
    /// The claim as the node knows it.
    pub(super) claim: Claim,
    /// Whether the node votes for it, as far as is known.
    pub(super) voted: bool,
    /// Whether there is anything to end.
    pub(super) is_blank: bool,
}

/// What the news of a vote mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is of no claim that is known, or of a try that is over.
    Unknown,
    /// The claim has the lock already.
    More,
    /// So many nodes have told, and this is the claim.
    Waiting {
        told: usize,
        owner: OwnerToken,
        round: u64,
    },
}

impl Claims {
    /// Begins the next round of questions for `claim` to so many `nodes`. Returns the round, and
    /// the claim as each node knows it.
    pub(super) fn begin(&self, claim: &Claim, nodes: usize, now: Instant) -> (u64, Vec<Claim>) {
        let mut state = self.state();
        if !state.claims.contains_key(&claim.owner) {
            state.added += 1;
            if state.added >= SWEEP {
                state.added = 0;
                state.claims.retain(|_, known| known.forget_at > now);
            }
        }
        let known = state.claims.entry(claim.owner.clone());
        let known = known.or_insert_with(|| Known {
            claim: claim.clone(),
            slips: vec![Slip::default(); nodes],
            round: 0,
            promised: None,
            told: 0,
            forget_at: now,
        });
        known.claim = claim.clone();
        known.begin(now)
    }

    /// Begins another round for the claim, unless `round` is not the latest any more.
    pub(super) fn begin_again(
        &self,
        owner: &OwnerToken,
        round: u64,
        now: Instant,
    ) -> Option<(u64, Vec<Claim>)> {
        let mut state = self.state();
        Some(state.latest(owner, round)?.begin(now))
    }

    /// Takes in what a `node` that knows the claim as `asked` answered to a `question`.
    pub(super) fn answered(
        &self,
        owner: &OwnerToken,
        (node, question): (usize, u64),
        asked: &OwnerToken,
        voted: bool,
        queued: bool,
    ) {
        let mut state = self.state();
        if let Some(known) = state.claims.get_mut(owner)
            && known.token(node) == *asked
        {
            let slip = &mut known.slips[node];
            slip.unanswered = slip.unanswered.saturating_sub(1);
            // Answers may be heard of in another order than they came in.
            if question >= slip.heard {
                slip.heard = question;
                slip.voted = voted;
                slip.queued = queued;
            }
        }
    }

    /// Takes in that the lock is the claim's until then, unless `round` is not the latest any more.
    /// Whether it is.
    pub(super) fn promise(&self, owner: &OwnerToken, round: u64, until: Instant) -> bool {
        let mut state = self.state();
        let Some(known) = state.latest(owner, round) else {
            return false;
        };
        known.promised = known.promised.max(Some(until));
        true
    }

    /// Takes in that a renewal was confirmed until then, and returns where there is no vote yet: the
    /// nodes to be joined, with the claim as each knows it.
    /// That question is the first of the answer.
    pub(super) fn renewed(&self, renewal: &Renewal, until: Instant) -> (u64, Vec<(usize, Claim)>) {
        let mut state = self.state();
        let Some(known) = state.claims.get_mut(&renewal.owner) else {
            return (0, Vec::new());
        };
        let question = next();
        known.promised = known.promised.max(Some(until));
        known.forget_at = known.forget_at.max(until + REMEMBERED);
        let lacking = (0..known.slips.len()).filter(|node| {
            let slip = &known.slips[*node];
            !slip.voted && !slip.joining
        });
        let lacking: Vec<usize> = lacking.collect();
        let join = |node: usize| {
            known.slips[node].unanswered += 1;
            known.slips[node].joining = true;
            let mut claim = known.at(node);
            claim.queue = false;
            claim.ttl = renewal.ttl;
            claim.number = 0;
            (node, claim)
        };
        let joining = lacking.into_iter().map(join).collect();
        (question, joining)
    }

    /// Takes in that it is clear whether `node` was joined, or that it is not known.
    pub(super) fn joined(&self, owner: &OwnerToken, node: usize, asked: &OwnerToken) {
        let mut state = self.state();
        if let Some(known) = state.claims.get_mut(owner)
            && known.token(node) == *asked
        {
            known.slips[node].joining = false;
        }
    }

    /// Takes in whether `node`, by the answer to a renewal, votes for the lease of `owner`.
    pub(super) fn renewed_at(
        &self,
        owner: &OwnerToken,
        node: usize,
        asked: &OwnerToken,
        is_held: bool,
    ) {
        let mut state = self.state();
        if let Some(known) = state.claims.get_mut(owner)
            && known.token(node) == *asked
        {
            let slip = &mut known.slips[node];
            // It may be an old answer, and not be so any more.
            slip.unanswered += u32::from(slip.voted != is_held);
            slip.voted = is_held;
        }
    }

    /// The owner as each of so many `nodes` knows it.
    pub(super) fn tokens(&self, owner: &OwnerToken, nodes: usize) -> Vec<OwnerToken> {
        match self.state().claims.get(owner) {
            Some(known) => (0..nodes).map(|node| known.token(node)).collect(),
            None => vec![owner.clone(); nodes],
        }
    }

    /// Gives back what the claim has, of `votes_only` the votes and what may become one. Returns
    /// what is to be ended, which no round that is under way counts any more, and the round that is
    /// the latest now. Nothing if `round` was not the latest, or somebody may rely on the lock.
    pub(super) fn give_back(
        &self,
        owner: &OwnerToken,
        round: u64,
        votes_only: bool,
        now: Instant,
    ) -> (Vec<Stub>, u64) {
        let mut state = self.state();
        let Some(known) = state.latest(owner, round) else {
            return (Vec::new(), round);
        };
        if known.promised.is_some_and(|until| until > now) {
            return (Vec::new(), round);
        }
        known.round = next();
        let mut stubs = Vec::new();
        for node in 0..known.slips.len() {
            let slip = known.slips[node];
            let is_kept = votes_only && !slip.voted && slip.unanswered == 0;
            let stub = known.stub(node);
            if stub.is_blank || is_kept {
                continue;
            }
            stubs.push(stub);
            known.slips[node] = Slip {
                number: slip.number + 1,
                ..Slip::default()
            };
        }
        (stubs, known.round)
    }

    /// Forgets the claim, and returns what is to be ended. Nothing that is under way for it decides
    /// anything any more.
    pub(super) fn end(&self, owner: &OwnerToken) -> Option<Vec<Stub>> {
        let known = self.state().claims.remove(owner)?;
        Some(
            (0..known.slips.len())
                .map(|node| known.stub(node))
                .collect(),
        )
    }

    /// Forgets the claim if there is nothing to be ended, and no try that could be mistaken for
    /// another.
    pub(super) fn forget_blank(&self, owner: &OwnerToken) {
        let mut state = self.state();
        let is_blank = |known: &Known| {
            let mut nodes = 0..known.slips.len();
            nodes.all(|node| known.slips[node].number == 0 && known.stub(node).is_blank)
        };
        if state.claims.get(owner).is_some_and(is_blank) {
            state.claims.remove(owner);
        }
    }

    /// Takes in that `node` votes for the claim that it knows as `token`.
    pub(super) fn told(&self, node: usize, token: &str, now: Instant) -> Told {
        let mut state = self.state();
        let owner = [token, claimed_by(token)]
            .into_iter()
            .find(|owner| state.claims.contains_key(*owner));
        let Some(known) = owner.and_then(|owner| state.claims.get_mut(owner)) else {
            return Told::Unknown;
        };
        if known.token(node).as_str() != token {
            return Told::Unknown;
        }
        // It is to be confirmed; until then it is something that may be there.
        let slip = &mut known.slips[node];
        slip.queued = false;
        slip.unanswered += 1;
        if known.promised.is_some_and(|until| until > now) {
            return Told::More;
        }
        known.told += 1;
        Told::Waiting {
            told: known.told,
            owner: known.claim.owner.clone(),
            round: known.round,
        }
    }

    /// The claim that a node knows as `token`, and its key.
    pub(super) fn named(&self, token: &OwnerToken) -> Option<(LockKey, OwnerToken)> {
        let state = self.state();
        let known = state.claims.get(token.as_str());
        let known = known.or_else(|| state.claims.get(claimed_by(token.as_str())))?;
        Some((known.claim.key.clone(), known.claim.owner.clone()))
    }

    /// How many are known.
    pub(super) fn count(&self) -> usize {
        self.state().claims.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn latest(&mut self, owner: &OwnerToken, round: u64) -> Option<&mut Known> {
        let known = self.claims.get_mut(owner)?;
        (known.round == round).then_some(known)
    }
}

impl Known {
    fn begin(&mut self, now: Instant) -> (u64, Vec<Claim>) {
        self.round = next();
        self.told = 0;
        let patience = self.claim.ttl.max(self.claim.heartbeat * 2);
        self.forget_at = self.forget_at.max(now + patience + REMEMBERED);
        for slip in &mut self.slips {
            slip.unanswered += 1;
        }
        let claims = (0..self.slips.len()).map(|node| self.at(node));
        (self.round, claims.collect())
    }

    /// The claim as `node` knows it.
    fn at(&self, node: usize) -> Claim {
        let mut claim = self.claim.clone();
        claim.owner = self.token(node);
        claim
    }

    fn token(&self, node: usize) -> OwnerToken {
        match self.slips[node].number {
            0 => self.claim.owner.clone(),
            number => OwnerToken::new(format!("{number}~{}", self.claim.owner)),
        }
    }

    fn stub(&self, node: usize) -> Stub {
        let slip = self.slips[node];
        let mut claim = self.at(node);
        claim.in_doubt |= slip.unanswered > 0;
        // In a turn of its own, whoever asked last.
        claim.number = 0;
        Stub {
            node,
            claim,
            voted: slip.voted,
            is_blank: !slip.voted && !slip.queued && slip.unanswered == 0,
        }
    }
}

/// The number of the next question, larger than all before. No two claims have the same, so that one
/// that ended is not taken for one that was begun anew.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The owner of which `token` may be a try.
pub(super) fn claimed_by(token: &str) -> &str {
    match token.split_once('~') {
        Some((number, owner)) if number.parse::<u32>().is_ok() => owner,
        _ => token,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        let waiting = |told, round| Told::Waiting {
            told,
            owner: claim.owner.clone(),
            round,
        };
        assert_eq!(claims.told(1, owner, at(2)), waiting(1, round));
        assert_eq!(claims.told(2, owner, at(2)), waiting(2, round));
        claims.give_back(&claim.owner, round, false, at(2));
        assert_eq!(claims.told(1, owner, at(2)), Told::Unknown);
        assert_eq!(claims.told(1, "another", at(2)), Told::Unknown);
        let (next, _) = claims.begin(&claim, 5, at(2));
        let token = format!("1~{owner}");
        assert_eq!(claims.told(1, &token, at(2)), waiting(1, next));
        assert!(claims.promise(&claim.owner, next, at(6)));
        assert_eq!(claims.told(0, &token, at(3)), Told::More);
    }

    #[test]
    fn a_node_that_lacks_a_lease_is_joined_by_its_renewal() {
        let (claims, claim, round) = asked();
        assert!(claims.promise(&claim.owner, round, at(6)));
        let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
        let joined = |claims: &Claims| -> Vec<usize> {
            let (_, lacking) = claims.renewed(&renewal, at(9));
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
}
