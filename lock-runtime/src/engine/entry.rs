//! A key, and who waits to be told of it.

use std::sync::Arc;
use std::task::Waker;

use lock_protocol::machine::{self, Action, Holding, LeaseId, Outcome, WaiterId};
use lock_protocol::{FencingToken, Instant, LockKey, Process};
use tokio::sync::Notify;

use super::effects::Effects;
use super::seats::{ReleaserTold, Seat, Seats, WaiterTold};
use super::watch::{Asker, Happened, Telling};
use crate::observe::{LocalLock, NAMELESS, RenewalFailures};

/// A key, and who waits to be told of it.
pub(super) struct Entry {
    pub(super) machine: machine::Key,
    pub(super) seats: Option<Box<Seats>>,
    /// Told when a hold of the key ends, if anybody watches.
    pub(super) hold_ended: Option<Arc<Notify>>,
    /// What the lock is called that is held.
    pub(super) name: &'static str,
    /// Under which instant the key is filed among those that want the time.
    pub(super) filed_at: Option<Instant>,
}

/// Seats that nobody has, to be used again: most held locks are never waited for.
pub(super) type SpareSeats = Vec<Box<Seats>>;

impl Entry {
    pub(super) fn new(key: LockKey, last_number: u64) -> Entry {
        Entry {
            machine: machine::Key::new(key, last_number),
            seats: None,
            hold_ended: None,
            name: NAMELESS,
            filed_at: None,
        }
    }

    pub(super) fn is_of(&self, key: &LockKey) -> bool {
        self.machine.key() == key
    }

    /// The lock, for each who holds it: one, but where leases go together.
    pub(super) fn local(&self, now: Instant) -> impl Iterator<Item = LocalLock> {
        self.machine.held(now).map(move |held| LocalLock {
            name: self.held_name(),
            key: self.machine.key().clone(),
            fencing_token: held.token,
            held: now.since(held.since),
            remaining: self.machine.remaining(held.lease, held.token, now),
            waiting: self.machine.look().waiting,
        })
    }

    /// What the lock is called, and for how long it has been held, by each who holds it.
    #[cfg(feature = "metrics")]
    pub(super) fn ages(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&'static str, std::time::Duration)> {
        let held = self.machine.held(now);
        held.map(move |held| (self.held_name(), now.since(held.since)))
    }

    /// Whether the holder may rely on the lease.
    pub(super) fn is_held_by(&self, hold: &Holding, now: Instant) -> bool {
        self.machine.is_held_by(hold.lease, hold.token, now)
    }

    /// What the lock is called that is held.
    fn held_name(&self) -> &'static str {
        let seats = self.seats.as_ref();
        let told = seats.and_then(|seats| seats.watch.held_name());
        told.unwrap_or(self.name)
    }

    /// Why the lease of this holder was not renewed of late.
    pub(super) fn failures(
        &self,
        lease: LeaseId,
        token: FencingToken,
    ) -> Option<Arc<RenewalFailures>> {
        self.seats.as_ref()?.watch.failures(lease, token)
    }

    pub(super) fn is_over(&self) -> bool {
        let is_vacant = self.seats.as_ref().is_none_or(|seats| seats.is_vacant());
        self.machine.is_gone() && is_vacant
    }

    /// Stores what a waiter is told, and returns whom to wake.
    pub(super) fn tell_waiter(&mut self, id: WaiterId, outcome: Outcome) -> Option<Waker> {
        let holder = match outcome {
            Outcome::Taken(_) | Outcome::TimedOut if self.machine.is_held() => {
                Some(Process::current())
            }
            Outcome::Taken(_) | Outcome::TimedOut => self.seats.as_ref()?.watch.holder,
            _ => None,
        };
        self.waiter(id)?.tell(WaiterTold { outcome, holder })
    }

    /// Stores what whoever ended a hold is told, and returns whom to wake.
    pub(super) fn tell_release(&mut self, id: LeaseId, ending: ReleaserTold) -> Option<Waker> {
        self.release(id)?.tell(ending)
    }

    /// Who a waiter is that has not been told yet.
    pub(super) fn asker(&self, id: WaiterId) -> Option<Asker> {
        let seats = self.seats.as_ref()?;
        let seat = seats.waiters.get(seats.waiter_index(id)?)?;
        seat.told.is_none().then_some(seat.who)
    }

    /// Who of those who wait came first.
    pub(super) fn first_asker(&self) -> Option<Asker> {
        Some(self.seats.as_ref()?.waiters.front()?.who)
    }

    /// What the waiter has been told: then its seat is free.
    pub(super) fn waiter_told(&mut self, id: WaiterId) -> Option<WaiterTold> {
        let told = self.waiter(id)?.told.take()?;
        // It went with the outcome.
        let _waker = self.remove_waiter(id);
        Some(told)
    }

    pub(super) fn waiter(
        &mut self,
        id: WaiterId,
    ) -> Option<&mut Seat<WaiterId, WaiterTold, Asker>> {
        let seats = self.seats.as_mut()?;
        let index = seats.waiter_index(id)?;
        seats.waiters.get_mut(index)
    }

    pub(super) fn release(&mut self, id: LeaseId) -> Option<&mut Seat<LeaseId, ReleaserTold>> {
        let mut releases = self.seats.as_mut()?.releases.iter_mut();
        releases.find(|seat| seat.id == id)
    }

    /// Frees the seat, and returns whom to wake no more.
    pub(super) fn remove_waiter(&mut self, id: WaiterId) -> Option<Waker> {
        let seats = self.seats.as_mut()?;
        let index = seats.waiter_index(id)?;
        seats.waiters.remove(index)?.waker
    }

    /// Frees the seat, and returns whom to wake no more.
    pub(super) fn remove_release(&mut self, id: LeaseId) -> Option<Waker> {
        let releases = &mut self.seats.as_mut()?.releases;
        let index = releases.iter().position(|seat| seat.id == id)?;
        releases.remove(index).waker
    }
}

/// Takes in what came of an event; of a lease that ran out, why it was not renewed.
pub(super) fn watch_action(
    entry: &mut Entry,
    happened: &Happened,
    action: &Action,
    now: Instant,
    empty: &mut SpareSeats,
    effects: &mut Effects,
) -> Option<Arc<RenewalFailures>> {
    let asker = match action {
        Action::Tell(id, _) => entry.asker(*id),
        _ => None,
    };
    let Entry {
        seats,
        machine,
        name,
        ..
    } = entry;
    if let Action::Changed(lease) = action
        && effects.is_watched
        && let Some(hold) = machine.holding(*lease, now)
    {
        let seats = seats.get_or_insert_with(|| spare(empty));
        // It is the end for all who share it.
        seats.watch.recall(&hold, hold.sharing, name);
    }
    let mut telling = Telling::new(now, machine, effects);
    let watch = &mut seats.as_mut()?.watch;
    watch.acted(happened, action, asker, &mut telling)
}

pub(super) fn spare(empty: &mut SpareSeats) -> Box<Seats> {
    empty.pop().unwrap_or_default()
}
