//! Where those wait who are to be told of a key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use lock_protocol::Process;
use lock_protocol::machine::{LeaseId, Outcome, ReleaseOutcome, WaiterId};
use smallvec::SmallVec;

use super::watch::{Asker, Watch};
use crate::observe::RenewalFailures;

/// Where those wait who are to be told of a key, and what is told of it meanwhile.
#[derive(Default)]
pub(super) struct Seats {
    /// In the order of their ids.
    pub(super) waiters: VecDeque<Seat<WaiterId, WaiterTold, Asker>>,
    pub(super) releases: SmallVec<[Seat<LeaseId, ReleaserTold>; 1]>,
    /// What observers are told of.
    pub(super) watch: Watch,
}

/// What a waiter is told.
pub(super) struct WaiterTold {
    pub(super) outcome: Outcome,
    /// The process that has the lock, if another does and it is known.
    pub(super) holder: Option<Process>,
}

/// What whoever ended a hold is told.
pub(super) struct ReleaserTold {
    pub(super) outcome: ReleaseOutcome,
    /// The renewals that failed before a lease ran out.
    pub(super) cause: Option<Arc<RenewalFailures>>,
}

/// Somebody who has a seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seated {
    /// Who wants the lock.
    Waiter(WaiterId),
    /// Who has ended a hold.
    Releaser(LeaseId),
}

/// Where somebody waits to be told.
pub(super) struct Seat<Id, What, Who = ()> {
    pub(super) id: Id,
    pub(super) who: Who,
    pub(super) told: Option<What>,
    pub(super) waker: Option<Waker>,
}

impl Seats {
    /// Whether nobody waits here.
    pub(super) fn is_vacant(&self) -> bool {
        self.waiters.is_empty() && self.releases.is_empty()
    }

    /// Whether there is nothing to remember either.
    pub(super) fn is_empty(&self) -> bool {
        self.is_vacant() && self.watch.is_empty()
    }

    pub(super) fn waiter_index(&self, id: WaiterId) -> Option<usize> {
        let waiters = &self.waiters;
        // Most of what happens is about who comes to its turn, or has just come.
        if waiters.front()?.id == id {
            return Some(0);
        }
        if waiters.back()?.id == id {
            return Some(waiters.len() - 1);
        }
        waiters.binary_search_by_key(&id, |seat| seat.id).ok()
    }
}

impl<Id, What, Who> Seat<Id, What, Who> {
    pub(super) fn new(id: Id, who: Who, waker: &Waker) -> Seat<Id, What, Who> {
        Seat {
            id,
            who,
            told: None,
            waker: Some(waker.clone()),
        }
    }

    /// Wakes `context` from now on. Returns whom it does not wake any more.
    pub(super) fn listen(&mut self, context: &Context<'_>) -> Option<Waker> {
        match &self.waker {
            Some(waker) if waker.will_wake(context.waker()) => None,
            _ => self.waker.replace(context.waker().clone()),
        }
    }

    /// Stores what is told, and returns whom to wake.
    pub(super) fn tell(&mut self, told: What) -> Option<Waker> {
        self.told = Some(told);
        self.waker.take()
    }
}
