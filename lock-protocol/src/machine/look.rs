//! What the machine is at, for traces, metrics and tests: nothing is decided by it.

use super::exchange::Stage;
use super::lease::State;
use super::{Key, Lease, LeaseId};
use crate::time::Instant;
use crate::token::{FencingToken, OwnerToken};

/// What a machine is at, at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Look {
    /// How many wait in line.
    pub waiting: usize,
    /// How far the claim is that is made for them.
    pub pursuit: Option<Pursued>,
    /// How many leases are held.
    pub held: usize,
    /// How many have ended against the will of holders that have not noticed.
    pub ended: usize,
    /// How many are being released.
    pub releasing: usize,
    /// How many claims are being withdrawn.
    pub withdrawing: usize,
}

/// How far a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pursued {
    /// The store is asked.
    Asking,
    /// It goes with a release.
    Aboard,
    /// The store has queued it.
    Queued,
    /// The store could not be asked, and is asked again after a pause.
    Pausing,
}

/// A hold of a lease that its holder has not given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Holding {
    /// Which lease.
    pub lease: LeaseId,
    /// The number of its holder.
    pub token: FencingToken,
    /// When it began, or was granted where it begins later.
    pub since: Instant,
}

impl Key {
    /// The hold of the lease that is held, if one is.
    pub fn held(&self, now: Instant) -> Option<Holding> {
        let lease = self.leases.iter().find(|lease| lease.is_held())?;
        self.holding(lease.id, now)
    }

    /// The hold of this lease, which may have ended against the will of its holder.
    pub fn holding(&self, lease: LeaseId, now: Instant) -> Option<Holding> {
        let lease = self.lease(lease)?;
        if matches!(lease.state, State::Releasing(_)) {
            return None;
        }
        let has_begun = lease.held_since <= now;
        Some(Holding {
            lease: lease.id,
            token: lease.token,
            since: if has_begun {
                lease.held_since
            } else {
                lease.granted_at
            },
        })
    }

    /// What the machine is at.
    pub fn look(&self) -> Look {
        let mut look = Look {
            waiting: self.line.len(),
            pursuit: self.pursuit.as_ref().map(|pursuit| match pursuit.stage {
                Stage::Asking(_) => Pursued::Asking,
                Stage::Aboard => Pursued::Aboard,
                Stage::Queued(_) => Pursued::Queued,
                Stage::Pausing(_) => Pursued::Pausing,
            }),
            withdrawing: self.withdrawals.len(),
            ..Look::default()
        };
        for Lease { state, .. } in &self.leases {
            *match state {
                State::Held => &mut look.held,
                State::Ended(..) => &mut look.ended,
                State::Releasing(_) => &mut look.releasing,
            } += 1;
        }
        look
    }

    /// The owner tokens by which the store may know this machine: of the claim that is pursued, of
    /// leases, and of claims that are being withdrawn.
    pub fn owners(&self) -> impl Iterator<Item = &OwnerToken> {
        let pursued = self.pursuit.iter().map(|pursuit| &pursuit.claim.owner);
        let leased = self.leases.iter().map(|lease| &lease.owner);
        let withdrawn = self
            .withdrawals
            .iter()
            .map(|withdrawal| &withdrawal.claim.owner);
        pursued.chain(leased).chain(withdrawn)
    }

    /// The owner token of the claim that is pursued.
    pub fn pursued(&self) -> Option<&OwnerToken> {
        self.pursuit.as_ref().map(|pursuit| &pursuit.claim.owner)
    }
}
