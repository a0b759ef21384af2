//! The tally of votes: what the answers of the nodes to one round of questions come to.
//!
//! It is plain data. Whatever is counted here belongs to one round, in which every node was asked
//! once; a vote of an earlier round is not counted, so that nothing that has been given back since
//! is. The rules, each of which has a test below:
//!
//! 1. A lock is granted by a majority of all nodes, however many answer.
//! 2. It is granted until the Q-th largest of the nodes' deadlines, Q being the majority: until
//!    then, Q nodes give it to nobody else. A vote that would be over by now does not count.
//! 3. A vote counts if its node has stored the fencing token that was proposed, which it does if
//!    that is larger than all that it knew. Where a majority votes and some have not stored it, a
//!    larger one is proposed.
//! 4. It is decided as soon as no answer that is still to come could change it.
//! 5. Too many failures are no refusal. Neither is a split, where nobody has a majority.

use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{Holder, Instant, valid_until};

#[cfg(test)]
use super::mistakes::{Mistake, made};

/// What one node answered.
#[derive(Clone, Debug)]
pub(super) enum NodeAnswer {
    /// It votes for the claim.
    Vote {
        /// When it was asked.
        sent_at: Instant,
        /// For how long it votes.
        ttl: Duration,
        /// The largest fencing token that it knew before.
        before: u64,
    },
    /// It has voted for another.
    Refused {
        /// What is left of that vote.
        holder: Holder,
        /// For whom it was.
        who: Arc<str>,
    },
    /// It knows that the claim was withdrawn.
    Gone,
    /// It may have lost its data, and votes for nobody for so long.
    Away(Duration),
    /// It did not answer, or not with an answer.
    Failed,
}

/// The answers of one round.
#[derive(Debug)]
pub(super) struct Tally {
    answers: Vec<Option<NodeAnswer>>,
    /// The fencing token that was proposed to all.
    proposal: u64,
}

/// What the answers come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answers that are still to come decide. Where they do not come, nobody has a majority.
    Pending,
    /// The lock is the claim's.
    Granted {
        /// Until when, by the clocks of the nodes: what they may drift is still to be taken off.
        until: Instant,
        /// All fencing tokens above this, up to the proposed one, are the claim's.
        above: u64,
    },
    /// A majority votes for the claim, and has not stored the proposed fencing token; this is the
    /// largest that one of them knew.
    Behind(u64),
    /// A majority has voted for one other claim.
    Held,
    /// Neither the claim nor, as far as is known, another has a majority.
    Split,
    /// The claim was withdrawn.
    Gone,
    /// Too many nodes did not answer, or vote for nobody.
    Unavailable,
}

/// How many of `nodes` are a majority.
pub(super) fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

impl Tally {
    /// No answer yet of so many `nodes`, to which the fencing token `proposal` is proposed.
    pub(super) fn new(nodes: usize, proposal: u64) -> Tally {
        Tally {
            answers: vec![None; nodes],
            proposal,
        }
    }

    /// Takes in what `node` answered.
    pub(super) fn take(&mut self, node: usize, answer: NodeAnswer) {
        self.answers[node] = Some(answer);
    }

    /// What the answers come to `now`.
    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        let quorum = majority(self.answers.len());
        let mut untils = Vec::new();
        let (mut votes, mut pending, mut gone, mut silent) = (0, 0, 0, 0);
        let (mut above, mut known) = (0, 0);
        for answer in &self.answers {
            match answer {
                None => pending += 1,
                Some(NodeAnswer::Vote {
                    sent_at,
                    ttl,
                    before,
                }) => {
                    if valid_until(*sent_at, *ttl) <= now {
                        // It took too long.
                        silent += 1;
                        continue;
                    }
                    votes += 1;
                    known = known.max(*before);
                    let is_stored = *before < self.proposal;
                    #[cfg(test)]
                    let is_stored = is_stored || made(Mistake::TokenNotStored);
                    if is_stored {
                        untils.push(*sent_at + *ttl);
                        above = above.max(*before);
                    }
                }
                Some(NodeAnswer::Refused { .. }) => {}
                Some(NodeAnswer::Gone) => gone += 1,
                Some(NodeAnswer::Away(_) | NodeAnswer::Failed) => silent += 1,
            }
        }
        if untils.len() >= quorum {
            untils.sort_unstable();
            let until = untils[untils.len() - quorum];
            return Verdict::Granted { until, above };
        }
        if votes >= quorum {
            return Verdict::Behind(known);
        }
        let rest = self.answers.len() - quorum;
        if silent > rest {
            return Verdict::Unavailable;
        }
        if gone > rest {
            return Verdict::Gone;
        }
        if votes + pending >= quorum {
            return Verdict::Pending;
        }
        if self.most() >= quorum {
            return Verdict::Held;
        }
        if pending > 0 && self.most() + pending >= quorum {
            return Verdict::Pending;
        }
        Verdict::Split
    }

    /// How many nodes vote for the claim, whatever else they say.
    pub(super) fn votes(&self) -> usize {
        let votes = self.answers.iter().flatten();
        votes
            .filter(|answer| matches!(answer, NodeAnswer::Vote { .. }))
            .count()
    }

    /// Whether the claim `owner` goes first of those that have split the votes: the one that has
    /// most of them, as far as is known, and of two with as many the one whose token is the
    /// smaller. That is no order of age, but all who see the same votes say the same.
    pub(super) fn leads(&self, owner: &str) -> bool {
        let votes = self.votes();
        let mut others = self.others();
        others.all(|who| {
            let has = self.votes_of(who);
            votes > has || votes == has && owner < who
        })
    }

    /// For whom each of the nodes has voted that has voted for another.
    fn others(&self) -> impl Iterator<Item = &str> {
        self.answers.iter().filter_map(|answer| match answer {
            Some(NodeAnswer::Refused { who, .. }) => Some(&**who),
            _ => None,
        })
    }

    fn votes_of(&self, other: &str) -> usize {
        self.others().filter(|who| *who == other).count()
    }

    /// How many nodes have voted for the other claim that has most votes.
    fn most(&self) -> usize {
        self.others()
            .map(|who| self.votes_of(who))
            .max()
            .unwrap_or(0)
    }

    /// The holder as those who wait are told: when a majority may be free, as far as is known.
    pub(super) fn holder(&self) -> Holder {
        let quorum = majority(self.answers.len());
        let mut left: Vec<Option<Duration>> = Vec::new();
        let (mut foreign, mut process) = (0, None);
        for answer in self.answers.iter().flatten() {
            match answer {
                NodeAnswer::Vote { .. } => left.push(Some(Duration::ZERO)),
                NodeAnswer::Refused { holder, .. } => {
                    foreign += usize::from(holder.foreign);
                    left.push(holder.remaining);
                    process = process.or(holder.process);
                }
                NodeAnswer::Away(pause) => left.push(Some(*pause)),
                NodeAnswer::Gone | NodeAnswer::Failed => {}
            }
        }
        // What never ends is the longest.
        left.sort_unstable_by_key(|left| left.unwrap_or(Duration::MAX));
        let remaining = left
            .get(quorum - 1)
            .or(left.last())
            .copied()
            .unwrap_or(Some(Duration::ZERO));
        if foreign > self.answers.len() - quorum {
            return Holder::foreign(remaining);
        }
        let mut holder = Holder::of_ours(Duration::ZERO);
        holder.remaining = remaining;
        // Who shares the nodes with others may free them without a word.
        holder.silent = foreign > 0;
        // Of several, one of those that are in the way.
        holder.process = process;
        holder
    }

    /// After how long so many nodes vote again that a majority can be had; `None` if that does not
    /// depend on time alone.
    pub(super) fn away(&self) -> Option<Duration> {
        let mut pauses: Vec<Duration> = Vec::new();
        let mut failed = 0;
        for answer in self.answers.iter().flatten() {
            match answer {
                NodeAnswer::Away(pause) => pauses.push(*pause),
                NodeAnswer::Failed => failed += 1,
                _ => {}
            }
        }
        let spare = self.answers.len() - majority(self.answers.len());
        let missing = (failed + pauses.len()).checked_sub(spare)?;
        pauses.sort_unstable();
        pauses.get(missing.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 * secs)
    }

    fn vote(secs: u64, before: u64) -> NodeAnswer {
        NodeAnswer::Vote {
            sent_at: at(secs),
            ttl: TTL,
            before,
        }
    }

    fn refused(who: &str, secs: u64) -> NodeAnswer {
        NodeAnswer::Refused {
            holder: Holder::of_ours(Duration::from_secs(secs)),
            who: who.into(),
        }
    }

    fn tally(nodes: usize, answers: impl IntoIterator<Item = NodeAnswer>) -> Tally {
        let mut tally = Tally::new(nodes, 100);
        for (node, answer) in answers.into_iter().enumerate() {
            tally.take(node, answer);
        }
        tally
    }

    fn granted(secs: u64, above: u64) -> Verdict {
        let until = at(secs) + TTL;
        Verdict::Granted { until, above }
    }

    #[test]
    fn a_majority_of_all_nodes_grants_and_fewer_do_not() {
        for nodes in [3, 5, 7] {
            let quorum = majority(nodes);
            for votes in 0..=nodes {
                let mut answers = vec![vote(0, 0); votes];
                let is_enough = votes >= quorum;
                let is_granted = |answers: &[NodeAnswer]| {
                    let verdict = tally(nodes, answers.to_vec()).verdict(at(1));
                    matches!(verdict, Verdict::Granted { .. })
                };
                assert_eq!(is_granted(&answers), is_enough);
                for rest in [refused("x", 1), NodeAnswer::Failed, NodeAnswer::Gone] {
                    answers.truncate(votes);
                    answers.resize(nodes, rest);
                    assert_eq!(is_granted(&answers), is_enough, "{answers:?}");
                }
            }
        }
    }

    #[test]
    fn a_lease_ends_with_the_last_of_the_votes_that_make_its_majority() {
        let votes = [vote(5, 0), vote(1, 0), vote(4, 0), vote(2, 0), vote(3, 0)];
        assert_eq!(tally(5, votes.clone()).verdict(at(6)), granted(3, 0));
        // Of three, the first to end decides.
        assert_eq!(tally(5, votes[..3].to_vec()).verdict(at(6)), granted(1, 0));
    }

    #[test]
    fn a_vote_that_is_over_or_may_be_for_the_drift_does_not_count() {
        let votes = [vote(1, 0), vote(2, 0), vote(2, 0)];
        let verdict = |now| tally(5, votes.clone()).verdict(now);
        let drift = TTL / 100 + Duration::from_millis(2);
        let last = at(1) + TTL - drift;
        assert_eq!(verdict(last - Duration::from_nanos(1)), granted(1, 0));
        assert_eq!(verdict(last), Verdict::Pending);
        let mut late = tally(5, votes.clone());
        late.take(3, NodeAnswer::Failed);
        late.take(4, NodeAnswer::Failed);
        assert_eq!(late.verdict(last), Verdict::Unavailable);
    }

    #[test]
    fn a_vote_counts_if_its_node_has_stored_the_proposed_token() {
        let votes = [vote(0, 7), vote(0, 99), vote(0, 8)];
        assert_eq!(tally(5, votes).verdict(at(1)), granted(0, 99));
        // One that knew the same token, or a larger one, has not stored it.
        for known in [100, 250] {
            let votes = [vote(0, 7), vote(0, known), vote(0, 8)];
            assert_eq!(
                tally(5, votes.clone()).verdict(at(1)),
                Verdict::Behind(known)
            );
            // A further node makes up for it.
            let more = votes.into_iter().chain([vote(0, 9)]);
            assert_eq!(tally(5, more).verdict(at(1)), granted(0, 9));
        }
    }

    #[test]
    fn it_is_decided_as_soon_as_no_answer_can_change_it() {
        let verdict = |answers: &[NodeAnswer]| tally(5, answers.to_vec()).verdict(at(1));
        let (x, y) = (refused("x", 1), refused("y", 1));
        assert_eq!(verdict(&[]), Verdict::Pending);
        assert_eq!(verdict(&[x.clone(), x.clone()]), Verdict::Pending);
        assert_eq!(verdict(&[x.clone(), x.clone(), x.clone()]), Verdict::Held);
        assert_eq!(
            verdict(&[x.clone(), x.clone(), y.clone()]),
            Verdict::Pending
        );
        let fourth = [x.clone(), x.clone(), y.clone(), y.clone()];
        assert_eq!(verdict(&fourth), Verdict::Pending);
        let fifth = [x.clone(), x.clone(), y.clone(), y.clone(), vote(0, 0)];
        assert_eq!(verdict(&fifth), Verdict::Split);
        assert_eq!(verdict(&vec![NodeAnswer::Failed; 2]), Verdict::Pending);
        assert_eq!(verdict(&vec![NodeAnswer::Failed; 3]), Verdict::Unavailable);
        assert_eq!(verdict(&vec![NodeAnswer::Gone; 3]), Verdict::Gone);
    }

    #[test]
    fn failures_are_no_refusal_and_a_split_is_none_either() {
        let (x, failed) = (refused("x", 1), NodeAnswer::Failed);
        let dead = [
            x.clone(),
            x.clone(),
            failed.clone(),
            failed.clone(),
            failed.clone(),
        ];
        assert_eq!(tally(5, dead).verdict(at(1)), Verdict::Unavailable);
        let away = NodeAnswer::Away(Duration::from_secs(3));
        let restarted = [vote(0, 0), vote(0, 0), away.clone(), away.clone(), away];
        assert_eq!(tally(5, restarted).verdict(at(1)), Verdict::Unavailable);
        let split = [vote(0, 0), vote(0, 0), x.clone(), x, failed];
        assert_eq!(tally(5, split).verdict(at(1)), Verdict::Split);
    }

    #[test]
    fn of_those_who_split_the_votes_exactly_one_leads() {
        // For whom each node has voted; nobody is one that does not answer.
        let splits = [
            "aabbc", "abcde", "aabb-", "ab---", "bbaac", "cabab", "a----", "ccbb-",
        ];
        for split in splits {
            let voters = || split.chars().filter(|voter| *voter != '-');
            let leads = |claim: char| {
                let answers = split.chars().map(|voter| match voter {
                    '-' => NodeAnswer::Failed,
                    voter if voter == claim => vote(0, 0),
                    voter => refused(&voter.to_string(), 1),
                });
                tally(5, answers).leads(&claim.to_string())
            };
            let leaders: std::collections::BTreeSet<_> = voters().filter(|c| leads(*c)).collect();
            assert_eq!(leaders.len(), 1, "{split}: {leaders:?}");
            let of = |claim| voters().filter(|voter| *voter == claim).count();
            let most = voters().map(of).max();
            assert!(leaders.iter().all(|leader| Some(of(*leader)) == most));
        }
    }

    #[test]
    fn who_waits_is_told_when_a_majority_may_be_free() {
        let left = [
            refused("x", 9),
            vote(0, 0),
            refused("x", 4),
            refused("y", 6),
        ];
        let holder = tally(5, left).holder();
        assert_eq!(holder.remaining, Some(Duration::from_secs(6)));
        assert!(!holder.foreign && !holder.silent);
        let foreign = NodeAnswer::Refused {
            holder: Holder::foreign(None),
            who: "z".into(),
        };
        let holder = tally(5, vec![foreign.clone(); 3]).holder();
        assert!(holder.foreign && holder.silent && holder.remaining.is_none());
        let holder = tally(5, [foreign, refused("x", 1), refused("x", 2)]).holder();
        assert!(!holder.foreign && holder.silent && holder.remaining.is_none());
    }

    #[test]
    fn who_is_refused_by_restarted_nodes_is_told_for_how_long() {
        let away = |secs| NodeAnswer::Away(Duration::from_secs(secs));
        let restarted = [vote(0, 0), away(9), away(2), vote(0, 0), away(5)];
        assert_eq!(
            tally(5, restarted).away(),
            Some(Duration::from_secs(2)),
            "with the third there is a majority"
        );
        let dead = [
            vote(0, 0),
            away(9),
            NodeAnswer::Failed,
            NodeAnswer::Failed,
            NodeAnswer::Failed,
        ];
        assert_eq!(tally(5, dead).away(), None);
    }
}
