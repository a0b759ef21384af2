//! The keys that somebody in this process holds or wants.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use lock_protocol::machine::{
    self, Action, Event, LeaseId, Outcome, ReleaseOutcome, Waiter, WaiterId,
};
use lock_protocol::{Instant, LockKey, Rules};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::effects::{Effects, Renewing};
use crate::clock;
use crate::settings::unique_owner;
use crate::sync::lock;

/// Enough that threads seldom meet, and few enough to look through.
const SHARDS: usize = 16;

/// The number of the next question to a backend. One count for all, since runtimes may share a
/// backend.
static NEXT_ASK: AtomicU64 = AtomicU64::new(1);

/// Every key with something to remember, in shards.
#[derive(Default)]
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    next_waiter: AtomicU64,
}

#[derive(Default)]
struct Shard {
    /// The keys are hashed with a secret already.
    entries: FxHashMap<LockKey, Box<Entry>>,
    /// The keys that want the time, by when they do.
    due: BTreeSet<(Instant, LockKey)>,
    /// The largest number that a machine gave which is not here any more.
    last_number: u64,
}

/// A key, and who waits to be told of it.
pub(super) struct Entry {
    pub(super) machine: machine::Key,
    /// In the order of their ids.
    waiters: VecDeque<Seat<WaiterId, Outcome>>,
    releases: SmallVec<[Seat<LeaseId, ReleaseOutcome>; 1]>,
    /// Told when a hold of the key ends, if anybody watches.
    hold_ended: Option<Arc<Notify>>,
    /// Under which instant the key is filed among those that want the time.
    filed_at: Option<Instant>,
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
struct Seat<Id, Told> {
    id: Id,
    told: Option<Told>,
    waker: Option<Waker>,
}

/// One look at an entry, under the mutex of its shard.
pub(super) struct Turn<'a> {
    rules: &'a Rules,
    /// Read under the mutex: whoever was told by it that a lease is lost is right for ever.
    pub(super) now: Instant,
    /// Who takes this look, and so need not be woken.
    pub(super) looker: Option<Seated>,
    /// Whether the caller comes to depend on what the key wants the time for.
    comes: bool,
    effects: Effects,
}

impl Table {
    pub(super) fn next_waiter(&self) -> WaiterId {
        WaiterId(self.next_waiter.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets `work` look at the entry of `key`, which is made if it is not there, and dropped
    /// afterwards if there is nothing to remember.
    pub(super) fn turn<T>(
        &self,
        key: &LockKey,
        rules: &Rules,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> (T, Effects) {
        let mut shard = lock(self.shard(key));
        shard.turn(key, rules, work)
    }

    /// What the machine of `key` says, if there is one.
    pub(super) fn look<T>(
        &self,
        key: &LockKey,
        look: impl FnOnce(&machine::Key, Instant) -> T,
    ) -> Option<T> {
        let shard = lock(self.shard(key));
        let entry = shard.entries.get(key)?;
        Some(look(&entry.machine, clock::now()))
    }

    /// Told when the hold of `lease` ends; `None` if there is no such key any more.
    pub(super) fn watch(&self, key: &LockKey) -> Option<Arc<Notify>> {
        let mut shard = lock(self.shard(key));
        let entry = shard.entries.get_mut(key)?;
        Some(entry.hold_ended.get_or_insert_default().clone())
    }

    /// Gives the time to the keys that want it by now. Returns what comes of it, and when the next
    /// key wants it.
    pub(super) fn tick(&self, rules: &Rules) -> (Vec<Effects>, Option<Instant>) {
        let mut all = Vec::new();
        let mut next: Option<Instant> = None;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let now = clock::now();
            while let Some((at, _)) = shard.due.first()
                && *at <= now
                && let Some((_, key)) = shard.due.pop_first()
            {
                if let Some(entry) = shard.entries.get_mut(&key) {
                    entry.filed_at = None;
                }
                let time = |entry: &mut Entry, turn: &mut Turn<'_>| turn.feed(entry, Event::Time);
                let ((), effects) = shard.turn(&key, rules, time);
                all.push(effects);
            }
            let due = shard.due.first().map(|(at, _)| *at);
            next = next.into_iter().chain(due).min();
        }
        (all, next)
    }

    pub(super) fn keys(&self) -> Vec<LockKey> {
        let keys = |shard: &Mutex<Shard>| lock(shard).entries.keys().cloned().collect::<Vec<_>>();
        self.shards.iter().flat_map(keys).collect()
    }

    /// Whether nobody waits or asks for a key that is not held.
    pub(super) fn is_quiet(&self) -> bool {
        let is_quiet = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            let mut machines = shard.entries.values().map(|entry| &entry.machine);
            machines.all(|machine| machine.is_quiet() || machine.is_held())
        };
        self.shards.iter().all(is_quiet)
    }

    /// How many locks are held.
    pub(super) fn held(&self) -> usize {
        let held = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            let entries = shard.entries.values();
            entries.filter(|entry| entry.machine.is_held()).count()
        };
        self.shards.iter().map(held).sum()
    }

    fn shard(&self, key: &LockKey) -> &Mutex<Shard> {
        &self.shards[key.hash_value() as usize % SHARDS]
    }
}

impl Shard {
    fn turn<T>(
        &mut self,
        key: &LockKey,
        rules: &Rules,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> (T, Effects) {
        let entry = match self.entries.get_mut(key) {
            Some(entry) => entry,
            None => {
                let entry = Box::new(Entry::new(key.clone(), self.last_number));
                self.entries.entry(key.clone()).or_insert(entry)
            }
        };
        let mut turn = Turn {
            rules,
            now: clock::now(),
            looker: None,
            comes: false,
            effects: Effects::default(),
        };
        let output = work(entry, &mut turn);
        let (comes, mut effects) = (turn.comes, turn.effects);

        effects.is_held = entry.machine.is_held();
        let is_over = entry.is_over();
        let wanted_at = entry.machine.wants_time_at(rules).filter(|_| !is_over);
        // A key that is filed too early is looked at in vain, which costs less than to file it anew.
        let is_early_enough = match (entry.filed_at, wanted_at) {
            (Some(filed_at), Some(wanted_at)) => filed_at <= wanted_at,
            (filed_at, wanted_at) => filed_at == wanted_at,
        };
        if !is_early_enough {
            if let Some(at) = entry.filed_at.take() {
                self.due.remove(&(at, key.clone()));
            }
            if let Some(at) = wanted_at {
                entry.filed_at = Some(at);
                self.due.insert((at, key.clone()));
                effects.due = Some(at);
            }
        }
        if comes {
            // Others were told when it was filed, and may be gone, or stand still.
            effects.due = entry.filed_at;
        }
        if is_over {
            self.last_number = self.last_number.max(entry.machine.last_number());
            self.entries.remove(key);
        }
        (output, effects)
    }
}

impl Entry {
    fn new(key: LockKey, last_number: u64) -> Entry {
        Entry {
            machine: machine::Key::new(key, last_number),
            waiters: VecDeque::new(),
            releases: SmallVec::new(),
            hold_ended: None,
            filed_at: None,
        }
    }

    fn is_over(&self) -> bool {
        self.machine.is_gone() && self.waiters.is_empty() && self.releases.is_empty()
    }

    /// Gives a waiter a seat, before it joins.
    pub(super) fn seat_waiter(&mut self, id: WaiterId, waker: &Waker) {
        self.waiters.push_back(Seat::new(id, waker));
    }

    /// Gives whoever ends a hold a seat, before it does.
    pub(super) fn seat_release(&mut self, id: LeaseId, waker: &Waker) {
        self.releases.push(Seat::new(id, waker));
    }

    /// What the waiter has been told: then its seat is free.
    pub(super) fn waiter_told(&mut self, id: WaiterId) -> Option<Outcome> {
        let index = self.waiter_index(id)?;
        let told = self.waiters[index].told.take()?;
        self.remove_waiter(index);
        Some(told)
    }

    /// What whoever ended the hold has been told: then its seat is free.
    pub(super) fn release_told(&mut self, id: LeaseId) -> Option<ReleaseOutcome> {
        let index = self.releases.iter().position(|seat| seat.id == id)?;
        let told = self.releases[index].told.take()?;
        self.releases.remove(index);
        Some(told)
    }

    pub(super) fn poll_waiter(
        &mut self,
        turn: &mut Turn<'_>,
        id: WaiterId,
        context: &Context<'_>,
    ) -> Poll<Outcome> {
        if let Some(told) = self.waiter_told(id) {
            return Poll::Ready(told);
        }
        if let Some(index) = self.waiter_index(id) {
            turn.forget(self.waiters[index].listen(context));
        }
        Poll::Pending
    }

    pub(super) fn poll_release(
        &mut self,
        turn: &mut Turn<'_>,
        id: LeaseId,
        context: &Context<'_>,
    ) -> Poll<ReleaseOutcome> {
        if let Some(told) = self.release_told(id) {
            return Poll::Ready(told);
        }
        let mut seats = self.releases.iter_mut();
        if let Some(seat) = seats.find(|seat| seat.id == id) {
            turn.forget(seat.listen(context));
        }
        Poll::Pending
    }

    pub(super) fn leave_waiter(&mut self, turn: &mut Turn<'_>, id: WaiterId) {
        if let Some(index) = self.waiter_index(id) {
            let seat = self.remove_waiter(index);
            turn.forget(seat.and_then(|seat| seat.waker));
        }
    }

    fn remove_waiter(&mut self, index: usize) -> Option<Seat<WaiterId, Outcome>> {
        let seat = self.waiters.remove(index);
        if self.waiters.is_empty() {
            // Most held locks are never waited for.
            self.waiters = VecDeque::new();
        }
        seat
    }

    pub(super) fn leave_release(&mut self, turn: &mut Turn<'_>, id: LeaseId) {
        let index = self.releases.iter().position(|seat| seat.id == id);
        if let Some(index) = index {
            turn.forget(self.releases.remove(index).waker);
        }
    }

    fn waiter_index(&self, id: WaiterId) -> Option<usize> {
        self.waiters.binary_search_by_key(&id, |seat| seat.id).ok()
    }
}

impl<Id, Told> Seat<Id, Told> {
    fn new(id: Id, waker: &Waker) -> Seat<Id, Told> {
        Seat {
            id,
            told: None,
            waker: Some(waker.clone()),
        }
    }

    /// Wakes `context` from now on. Returns whom it does not wake any more.
    fn listen(&mut self, context: &Context<'_>) -> Option<Waker> {
        match &self.waker {
            Some(waker) if waker.will_wake(context.waker()) => None,
            _ => self.waker.replace(context.waker().clone()),
        }
    }

    /// Stores what is told, and returns whom to wake.
    fn tell(&mut self, told: Told) -> Option<Waker> {
        self.told = Some(told);
        self.waker.take()
    }
}

impl Turn<'_> {
    /// Feeds `event` to the machine. What it says to those who wait is stored here; the rest is
    /// performed when no mutex is held.
    pub(super) fn feed(&mut self, entry: &mut Entry, event: Event<'_>) {
        self.comes |= matches!(event, Event::Joined(_) | Event::Took(_));
        let joins = matches!(event, Event::Joined(Waiter { owner: None, .. }));
        if entry.machine.wants_owner(joins) {
            // The default generator: no function of a user is called under a mutex.
            entry.machine.provide_owner(unique_owner());
        }
        for action in entry.machine.on(self.rules, self.now, event) {
            match action {
                Action::Ask(mut ask) => {
                    ask.verb
                        .set_number(NEXT_ASK.fetch_add(1, Ordering::Relaxed));
                    self.effects.questions.push(ask);
                }
                Action::Renew(lease, renewal, patience) => self.effects.renewals.push(Renewing {
                    lease,
                    renewal,
                    patience,
                }),
                Action::Tell(id, outcome) | Action::TakeBack(id, outcome) => {
                    if let Some(index) = entry.waiter_index(id) {
                        let waker = entry.waiters[index].tell(outcome);
                        self.wake(Seated::Waiter(id), waker);
                    }
                }
                Action::Released(id, outcome) => {
                    let mut seats = entry.releases.iter_mut();
                    if let Some(seat) = seats.find(|seat| seat.id == id) {
                        let waker = seat.tell(outcome);
                        self.wake(Seated::Releaser(id), waker);
                    }
                }
                Action::Changed(_) => {
                    if let Some(hold_ended) = entry.hold_ended.take() {
                        self.effects.hold_ended = Some(hold_ended);
                    }
                }
            }
        }
    }

    fn wake(&mut self, seated: Seated, waker: Option<Waker>) {
        if self.looker == Some(seated) {
            self.forget(waker);
        } else {
            self.effects.wakers.extend(waker);
        }
    }

    /// Drops `waker` when no mutex is held.
    fn forget(&mut self, waker: Option<Waker>) {
        self.effects.spent.extend(waker);
    }
}
