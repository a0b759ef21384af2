//! What goes in and out of the machine.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::exchange::Failure;
use super::lease::{End, LeaseId};
use super::line::{Waiter, WaiterId};
use crate::backend_error::BackendError;
use crate::claim::AskNumber;
use crate::claim::{Acquired, Claim, Grant, Release, Released, Renewal, Renewed};
use crate::mode::Kind;
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::{FencingToken, OwnerToken};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A task wants the lock.
    Joined(Waiter),
    /// The wait of a waiter is used up.
    GaveUp(WaiterId),
    /// Nobody wants to hear any more what a waiter is told.
    Left(WaiterId),
    /// A waiter has heard that it was granted the lock.
    Took(WaiterId),
    /// The question for this waiter, who does not wait, went with those of other keys, and nothing
    /// came of it: nothing of its claim is in the store.
    NotTaken(WaiterId, &'a OwnerToken),
    /// What a holder does with its hold begins only now: it has waited for other keys before.
    Began(LeaseId, FencingToken),
    /// A holder wants the key to stay taken for `least` from now, whenever it ends.
    Keep {
        /// Of which lease.
        lease: LeaseId,
        /// Of which holder.
        token: FencingToken,
        /// For how long.
        least: Duration,
        /// Whether that begins now, if the lease [covers](super::Key::covers) it.
        begins: bool,
    },
    /// A holder gives up its hold.
    Ended(LeaseId, FencingToken),
    /// A question was answered, or it is clear that it will not be.
    Answered {
        /// The question.
        ask: &'a Ask,
        /// When it was sent.
        sent_at: Instant,
        /// What became of it.
        answer: Answer,
        /// A random number, for pauses.
        chance: u32,
    },
    /// A renewal was answered, or it is clear that it will not be.
    Renewed {
        /// Of which lease.
        lease: LeaseId,
        /// When it was sent.
        sent_at: Instant,
        /// What the store said; `None` if it said nothing.
        answer: Option<Renewed>,
        /// A random number, for pauses.
        chance: u32,
    },
    /// The backend tells that a claim was handed the lock.
    HandedOver {
        /// The owner token of the claim.
        owner: &'a str,
        /// The lease.
        grant: Grant,
        /// An instant before the hand-over.
        since: Instant,
    },
    /// The backend tells when it is time to ask for a claim.
    AskAt(&'a OwnerToken, Instant),
    /// The backend tells that it is time to ask for every claim.
    AskAll,
    /// Time has passed.
    Time,
    /// The process shuts down: nobody waits any more, and nothing is asked again.
    ShutDown,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Ask the store.
    Ask(Box<Ask>),
    /// Ask the store to extend a lease, and wait no longer for the answer.
    Renew(LeaseId, Box<Renewal>, Duration),
    /// Tell a waiter what became of it.
    Tell(WaiterId, Outcome),
    /// Tell a waiter that what it was told before is not so any more.
    TakeBack(WaiterId, Outcome),
    /// Tell whoever gave up a hold what became of it.
    Released(LeaseId, ReleaseOutcome),
    /// Tell those who watch the holds of a lease to look.
    Changed(LeaseId),
}

/// What comes out of one event.
pub type Actions = Vec<Action>;

/// A question to the store.
#[derive(Clone, Debug, Hash)]
pub struct Ask {
    /// The name of the question; it grows from one question of a key to the next.
    pub number: AskNumber,
    /// What is asked.
    pub verb: Verb,
    /// How many questions about the same in a row failed.
    pub failures: u32,
}

/// What is asked of the store.
#[derive(Clone, Debug, Hash)]
pub enum Verb {
    /// See [`Backend::acquire`](crate::Backend::acquire).
    Acquire(Claim),
    /// See [`Backend::release`](crate::Backend::release).
    Release(Release),
    /// See [`Backend::abandon`](crate::Backend::abandon).
    Abandon(Claim),
}

impl Verb {
    /// The key that the question is about.
    pub fn key(&self) -> &LockKey {
        match self {
            Verb::Acquire(claim) | Verb::Abandon(claim) => &claim.key,
            Verb::Release(release) => &release.key,
        }
    }

    /// Which leases the question is about.
    pub fn kind(&self) -> Kind {
        match self {
            Verb::Acquire(claim) | Verb::Abandon(claim) => claim.mode.kind(),
            Verb::Release(release) => release.mode.kind(),
        }
    }

    /// Gives the question its place among those of its backend; the number of the [`Ask`] is only
    /// its name in the machine.
    pub fn set_number(&mut self, number: AskNumber) {
        match self {
            Verb::Acquire(claim) | Verb::Abandon(claim) => claim.number = number,
            Verb::Release(release) => {
                release.number = number;
                if let Some(next) = &mut release.next {
                    next.number = number;
                }
            }
        }
    }
}

/// What became of a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The store answered an acquire.
    Acquired(Acquired),
    /// The store answered a release.
    Released(Released),
    /// The store answered an abandon.
    Abandoned,
    /// The outcome is not known, and it is worth asking again after this pause; `None`: those who
    /// wait are told.
    NotKnown(Arc<BackendError>, Option<Duration>),
    /// Whoever asked is gone, and with it the answer. Nothing is wrong with the store.
    CutOff,
}

impl Answer {
    /// Why it says nothing; `None` if it was cut off.
    pub(super) fn failure(self) -> Failure {
        match self {
            Answer::NotKnown(error, pause) => Some((error, pause)),
            _ => None,
        }
    }
}

/// What becomes of a waiter.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It has the lock.
    Granted(Granted),
    /// Another has it, for so long unless it renews, and the waiter does not wait.
    Taken(Option<Duration>),
    /// Another still had it when the wait was used up.
    TimedOut,
    /// The store could not be asked, or refuses.
    Failed(Arc<BackendError>),
    /// The store had not answered when the wait was used up.
    NoAnswer,
    /// The process shuts down.
    ShutDown,
}

/// A hold of a lease.
#[derive(Clone, Debug, Hash)]
pub struct Granted {
    /// Of which lease.
    pub lease: LeaseId,
    /// The owner token in the store.
    pub owner: OwnerToken,
    /// The fencing token of this holder.
    pub token: FencingToken,
    /// When it got the lease.
    pub since: Instant,
    /// Which part of the key it is; 0 where a key has no parts.
    pub shard: u8,
}

/// What became of a release.
#[derive(Clone, Debug)]
pub enum ReleaseOutcome {
    /// The lease has ended by the will of its holder.
    Released,
    /// It had ended before, after it had been held for so long.
    Ended(End, Duration),
    /// The store did not confirm it: the lease ends after its ttl.
    Failed(Arc<BackendError>),
}
