//! What the claims of this process have at the nodes.
//!
//! At each node a claim is known by a token of its own, which carries the number of its *try*
//! there. A vote that is given back ends its try, and what is asked of the node afterwards belongs
//! to the next: so a withdrawal that arrives late ends no younger vote, and a question that arrives
//! after its withdrawal, which the node remembers, brings no vote back.
//!
//! Of the rounds of one claim, only the latest decides anything. That a lock was granted is noted
//! here before anybody is told, and nothing is given back as long as somebody may rely on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use lock_protocol::{Claim, Instant, LockKey, OwnerToken, Renewal};
use rustc_hash::FxHashMap;

#[cfg(test)]
use super::mistakes::{Mistake, made};
use crate::sync::lock;

/// How much longer than it can matter a claim is remembered that nobody ends.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How much longer than its votes can live a claim is remembered that was refused.
const REFUSED: Duration = Duration::from_secs(5);
/// After how many new claims, at least, those are looked for that nobody ends.
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
    /// How often it gave way since votes were split.
    splits: u32,
    /// The question of which further votes are not wanted, since another has a majority; 0: none.
    unwanted: u64,
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
pub(super) enum VoteNews {
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
            // Not more often than there are new ones for those that stay.
            if state.added >= SWEEP.max(state.claims.len() / 2) {
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
            splits: 0,
            unwanted: 0,
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

    /// Takes in what a `node` that knows the claim as `asked` answered to a `question`. Returns
    /// what is to be ended: a vote that is [not wanted](Claims::decline) any more.
    pub(super) fn answered(
        &self,
        owner: &OwnerToken,
        (node, question): (usize, u64),
        asked: &OwnerToken,
        voted: bool,
        queued: bool,
    ) -> Option<Stub> {
        let mut state = self.state();
        let known = state.claims.get_mut(owner)?;
        if known.token(node) != *asked {
            return None;
        }
        let slip = &mut known.slips[node];
        slip.unanswered = slip.unanswered.saturating_sub(1);
        // Answers may be heard of in another order than they came in.
        if question >= slip.heard {
            slip.heard = question;
            slip.voted = voted;
            slip.queued = queued;
        }
        (voted && question == known.unwanted).then(|| known.give_back(node))
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

    /// Takes in that the claim has given way where votes were split. How often it had before.
    pub(super) fn split(&self, owner: &OwnerToken) -> u32 {
        let mut state = self.state();
        let Some(known) = state.claims.get_mut(owner) else {
            return 0;
        };
        known.splits += 1;
        known.splits - 1
    }

    /// Takes in `now` that a renewal was confirmed until then, and returns where there is no vote
    /// yet: the nodes to be joined, with the claim as each knows it.
    /// That question is the first of the answer.
    pub(super) fn renewed(
        &self,
        renewal: &Renewal,
        until: Instant,
        now: Instant,
    ) -> (u64, Vec<(usize, Claim)>) {
        let mut state = self.state();
        if until <= now {
            // The answers took so long that the majority may be another's by now.
            return (0, Vec::new());
        }
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
        let is_relied_on = known.promised.is_some_and(|until| until > now);
        #[cfg(test)]
        let is_relied_on = is_relied_on && !made(Mistake::GivesWayWithQuorum);
        if is_relied_on {
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
            stubs.push(known.give_back(node));
        }
        (stubs, known.round)
    }

    /// Gives back the votes that the claim has, and those that are still to be given in answer to
    /// `round`, but waits where it waits: another has a majority. Returns what is to be ended,
    /// which no round that is under way counts any more. Nothing if `round` was not the latest, or
    /// somebody may rely on the lock.
    pub(super) fn decline(&self, owner: &OwnerToken, round: u64, now: Instant) -> Vec<Stub> {
        let mut state = self.state();
        let Some(known) = state.latest(owner, round) else {
            return Vec::new();
        };
        if known.promised.is_some_and(|until| until > now) {
            return Vec::new();
        }
        known.round = next();
        known.unwanted = round;
        let voted = (0..known.slips.len()).filter(|node| known.slips[*node].voted);
        let voted: Vec<_> = voted.collect();
        voted
            .into_iter()
            .map(|node| known.give_back(node))
            .collect()
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

    /// Takes in that the claim was refused, and so may not be asked for again: it is forgotten when
    /// no withdrawal of it can be on its way any more, or at once if there is nothing to be ended,
    /// and no try that could be mistaken for another.
    pub(super) fn refused(&self, owner: &OwnerToken, now: Instant) {
        let mut state = self.state();
        if let Some(known) = state.claims.get_mut(owner) {
            let least = known.promised.unwrap_or(now).max(now);
            known.forget_at = least + known.claim.ttl + REFUSED;
        }
        let is_blank = |known: &Known| {
            let mut nodes = 0..known.slips.len();
            nodes.all(|node| known.slips[node].number == 0 && known.stub(node).is_blank)
        };
        if state.claims.get(owner).is_some_and(is_blank) {
            state.claims.remove(owner);
        }
    }

    /// Takes in that `node` votes for the claim that it knows as `token`.
    pub(super) fn told(&self, node: usize, token: &str, now: Instant) -> VoteNews {
        let mut state = self.state();
        let owner = [token, claimed_by(token)]
            .into_iter()
            .find(|owner| state.claims.contains_key(*owner));
        let Some(known) = owner.and_then(|owner| state.claims.get_mut(owner)) else {
            return VoteNews::Unknown;
        };
        if known.token(node).as_str() != token {
            return VoteNews::Unknown;
        }
        // It is to be confirmed; until then it is something that may be there.
        let slip = &mut known.slips[node];
        slip.queued = false;
        slip.unanswered += 1;
        if known.promised.is_some_and(|until| until > now) {
            return VoteNews::More;
        }
        known.told += 1;
        VoteNews::Waiting {
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
        self.unwanted = 0;
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

    /// Begins the next try at `node`. Returns the end of this one.
    fn give_back(&mut self, node: usize) -> Stub {
        let stub = self.stub(node);
        self.slips[node] = Slip {
            number: self.slips[node].number + 1,
            ..Slip::default()
        };
        stub
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

/// The number of the next question, larger than all before. No two claims have the same, so that
/// one that ended is not taken for one that was begun anew.
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
mod tests;
