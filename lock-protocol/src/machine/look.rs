//! What the machine is at, for traces, metrics and tests: nothing is decided by it.

use core::iter::repeat_n;

use super::exchange::Stage;
use super::lease::LeaseState;
use super::{Group, Lease, LeaseId};
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
    WithRelease,
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
    /// How many hold it: one, but for those who share.
    pub sharing: u32,
}

impl Look {
    /// What two of the groups of a machine are at.
    pub(super) fn and(self, other: Look) -> Look {
        Look {
            waiting: self.waiting + other.waiting,
            pursuit: self.pursuit.or(other.pursuit),
            held: self.held + other.held,
            ended: self.ended + other.ended,
            releasing: self.releasing + other.releasing,
            withdrawing: self.withdrawing + other.withdrawing,
        }
    }
}

impl Group {
    /// The holds of the leases that are held, one for each who holds it.
    pub(super) fn held(&self, now: Instant) -> impl Iterator<Item = Holding> {
        let held = self.leases.iter().filter(|lease| lease.is_held());
        let holdings = held.filter_map(move |lease| self.holding(lease.id, now));
        holdings.flat_map(|holding| repeat_n(holding, holding.sharing as usize))
    }

    /// The hold of this lease, which may have ended against the will of its holder.
    pub(super) fn holding(&self, lease: LeaseId, now: Instant) -> Option<Holding> {
        let lease = self.lease(lease)?;
        if matches!(lease.state, LeaseState::Releasing(_)) {
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
            sharing: lease.sharing,
        })
    }

    /// What the machine is at.
    pub(super) fn look(&self) -> Look {
        let mut look = Look {
            waiting: self.line.len(),
            pursuit: self.pursuit.as_ref().map(|pursuit| match pursuit.stage {
                Stage::Asking(_) => Pursued::Asking,
                Stage::WithRelease => Pursued::WithRelease,
                Stage::Queued(_) => Pursued::Queued,
                Stage::Pausing(_) => Pursued::Pausing,
            }),
            withdrawing: self.withdrawals.len(),
            ..Look::default()
        };
        for Lease { state, .. } in &self.leases {
            *match state {
                LeaseState::Held => &mut look.held,
                LeaseState::Ended(..) => &mut look.ended,
                LeaseState::Releasing(_) => &mut look.releasing,
            } += 1;
        }
        look
    }

    /// The owner tokens by which the store may know this machine: of the claim that is pursued, of
    /// leases, and of claims that are being withdrawn.
    pub(super) fn owners(&self) -> impl Iterator<Item = &OwnerToken> {
        let pursued = self.pursuit.iter().map(|pursuit| &pursuit.claim.owner);
        let leased = self.leases.iter().map(|lease| &lease.owner);
        let withdrawn = self
            .withdrawals
            .iter()
            .map(|withdrawal| &withdrawal.claim.owner);
        pursued.chain(leased).chain(withdrawn)
    }

    /// The owner token of the claim that is pursued.
    pub(super) fn pursued(&self) -> Option<&OwnerToken> {
        self.pursuit.as_ref().map(|pursuit| &pursuit.claim.owner)
    }
}
