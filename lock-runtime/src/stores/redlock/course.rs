//! What a claim does after each round of votes, as plain data.

use lock_protocol::Instant;

#[cfg(test)]
use super::mistakes::{Mistake, made};
use super::shared::PROPOSALS;
use super::tally::{Tally, Verdict};

/// How often a claim that does not wait tries again where nobody has a majority.
const TRIES: u32 = 6;
/// How often a claim asks, that has the most votes of those that have split them, before it gives
/// back its own as well.
const LEADS: u32 = 4;

/// How a claim has fared that asks for the lock, since it began to.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// In how many rounds nobody had a majority.
    splits: u32,
    /// How often a larger fencing token was proposed.
    proposals: u32,
}

/// What a claim does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has the lock.
    Granted {
        /// Until when, by the clocks of the nodes: what they may drift is still to be taken off.
        until: Instant,
        /// All fencing tokens above this, up to the proposed one, are the claim's.
        above: u64,
    },
    /// It asks again at once, and proposes no smaller fencing token than this.
    Propose(u64),
    /// It gives back all that it has, and is refused.
    Refused,
    /// It gives back all that it has, since too few nodes vote: a claim that cannot win must not
    /// sit on votes.
    Unavailable,
    /// It gives its votes back, and waits where another has a majority. To keep them would keep the
    /// other lease from growing to these nodes.
    Decline,
    /// It has no votes, and waits.
    Wait,
    /// It gives its votes back, and waits: another goes first.
    GiveWay,
    /// It goes first: it keeps its votes and asks again, when the others had time to give way.
    Lead,
    /// It gives back all that it has, and asks again.
    Again,
}

impl Course {
    /// What the claim `owner`, which `waits` or does not, does after a round that came to `tally`.
    /// One that does not wait asks again only while it is `in_time`.
    pub(super) fn next(
        &mut self,
        tally: &Tally,
        (owner, waits): (&str, bool),
        in_time: bool,
        now: Instant,
    ) -> Next {
        match tally.verdict(now) {
            Verdict::Granted { until, above } => return Next::Granted { until, above },
            Verdict::Behind(known) if self.proposals < PROPOSALS => {
                self.proposals += 1;
                return Next::Propose(known + 1);
            }
            Verdict::Gone => return Next::Refused,
            #[cfg(test)]
            Verdict::Unavailable if made(Mistake::SitsOnVotes) => return Next::Wait,
            Verdict::Unavailable => return Next::Unavailable,
            Verdict::Held if waits => return Next::Decline,
            Verdict::Held => return Next::Refused,
            Verdict::Split | Verdict::Behind(_) | Verdict::Pending => self.splits += 1,
        }
        if !waits {
            return match self.splits >= TRIES || !in_time {
                true => Next::Refused,
                false => Next::Again,
            };
        }
        if tally.votes() == 0 {
            return Next::Wait;
        }
        match tally.leads(owner) && self.splits < LEADS {
            true => Next::Lead,
            false => Next::GiveWay,
        }
    }
}
