//! The keys that somebody in this process holds or wants.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use lock_protocol::machine::{self, Action, Actions, Ask, Event, LeaseId, Waiter, WaiterId};
use lock_protocol::{BackendError, Instant, Kind, LockKey, Rules};
use tokio::sync::Notify;

use super::effects::{Effects, Renewing};
use super::entry::{Entry, SpareSeats, spare, watch_action};
use super::last_shards::LastShards;
use super::seats::{ReleaserTold, Seat, Seated, Seats, WaiterTold};
use super::watch::{Asker, Happened, Telling};
use crate::clock;
use crate::observe::Refusal;
use crate::settings::unique_owner;
use crate::sync::lock;

/// Enough that threads seldom meet, and few enough to look through.
const SHARDS: usize = 16;
/// How many empty seats a shard keeps for the next who wait.
const SPARE_SEATS: usize = 16;

/// The number of the next question to a backend. One count for all, since runtimes may share a
/// backend.
static NEXT_ASK: AtomicU64 = AtomicU64::new(1);

/// Keeps the room of a set of keys that want the time, which would else be given back and taken
/// anew with each lock of a shard that has no other.
const NEVER: (Instant, u32) = (Instant::from_nanos(u64::MAX), 0);

/// Every key with something to remember, in shards.
#[derive(Default)]
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    waiters: AtomicU64,
}

struct Shard {
    /// By their keys, which machines know.
    entries: HashTable<Box<Entry>>,
    /// The hashes of the keys that want the time, by when they do, and [`NEVER`]. No two are filed
    /// under one instant with one hash.
    due: BTreeSet<(Instant, u32)>,
    /// The largest number that a machine gave which is not here any more.
    last_number: u64,
    /// Of keys with parts that have no machine any more.
    last_shards: LastShards,
    /// What a machine wants done, empty between events: a buffer that is used again.
    actions: Actions,
    empty: SpareSeats,
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
    /// What the looker has been told of its release.
    release_told: Option<ReleaserTold>,
    /// Why the renewal failed that the event is about.
    pub(super) renewal_error: Option<Arc<BackendError>>,
    last_shards: &'a LastShards,
    actions: &'a mut Actions,
    empty: &'a mut SpareSeats,
    effects: &'a mut Effects,
}

impl Table {
    pub(super) fn new_waiter(&self) -> WaiterId {
        WaiterId(self.waiters.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets `work` look at the entry of `key`, which is made if it is not there, and dropped
    /// afterwards if there is nothing to remember.
    pub(super) fn turn<T>(
        &self,
        key: &LockKey,
        rules: &Rules,
        effects: &mut Effects,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> T {
        let mut shard = lock(self.shard(key));
        shard.turn(key, rules, effects, work)
    }

    /// What the machine of `key` says, if there is one.
    pub(super) fn look<T>(
        &self,
        key: &LockKey,
        look: impl FnOnce(&machine::Key, Instant) -> T,
    ) -> Option<T> {
        self.look_at(key, |entry, now| look(&entry.machine, now))
    }

    /// What the entry of `key` says, if there is one.
    pub(super) fn look_at<T>(
        &self,
        key: &LockKey,
        look: impl FnOnce(&Entry, Instant) -> T,
    ) -> Option<T> {
        let shard = lock(self.shard(key));
        let entry = shard.entries.find(spread(key), |entry| entry.is_of(key))?;
        Some(look(entry, clock::now()))
    }

    /// Told when the hold of `lease` ends; `None` if there is no such key any more.
    pub(super) fn watch(&self, key: &LockKey) -> Option<Arc<Notify>> {
        let mut shard = lock(self.shard(key));
        let entries = &mut shard.entries;
        let entry = entries.find_mut(spread(key), |entry| entry.is_of(key))?;
        Some(entry.hold_ended.get_or_insert_default().clone())
    }

    /// Gives the time to the keys that want it by now. Returns what comes of it, and when the next
    /// key wants it.
    pub(super) fn tick(&self, rules: &Rules, is_watched: bool) -> (Vec<Effects>, Option<Instant>) {
        let mut all = Vec::new();
        let mut next: Option<Instant> = None;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let now = clock::now();
            while let Some((at, _)) = shard.due.first()
                && *at <= now
                && let Some(filed) = shard.due.pop_first()
            {
                let Some(key) = shard.unfile(filed) else {
                    continue;
                };
                let time = |entry: &mut Entry, turn: &mut Turn<'_>| turn.feed(entry, Event::Time);
                let mut effects = Effects::new(is_watched);
                shard.turn(&key, rules, &mut effects, time);
                all.push(effects);
            }
            let due = shard.due.first().filter(|due| **due != NEVER);
            next = next.into_iter().chain(due.map(|(at, _)| *at)).min();
        }
        (all, next)
    }

    pub(super) fn keys(&self) -> Vec<LockKey> {
        let keys = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            let keys = shard
                .entries
                .iter()
                .map(|entry| entry.machine.key().clone());
            keys.collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(keys).collect()
    }

    /// Whether nobody waits or asks for a key that is not held.
    pub(super) fn is_quiet(&self) -> bool {
        let is_quiet = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            let mut machines = shard.entries.iter().map(|entry| &entry.machine);
            machines.all(|machine| machine.is_quiet() || machine.is_held())
        };
        self.shards.iter().all(is_quiet)
    }

    /// How many locks are held.
    pub(super) fn held(&self) -> usize {
        self.held_keys(0).0
    }

    /// How many locks are held, and the keys of up to so many of them.
    pub(super) fn held_keys(&self, most: usize) -> (usize, Vec<LockKey>) {
        let (mut count, mut keys) = (0, Vec::new());
        self.each(|entry, _| {
            count += entry.machine.holders();
            if entry.machine.is_held() && keys.len() < most {
                keys.push(entry.machine.key().clone());
            }
        });
        (count, keys)
    }

    /// Looks at every key, a shard at a time.
    pub(super) fn each(&self, mut look: impl FnMut(&Entry, Instant)) {
        for shard in &self.shards {
            let shard = lock(shard);
            let now = clock::now();
            shard.entries.iter().for_each(|entry| look(entry, now));
        }
    }

    fn shard(&self, key: &LockKey) -> &Mutex<Shard> {
        &self.shards[key.hash_value() as usize % SHARDS]
    }
}

impl Default for Shard {
    fn default() -> Shard {
        Shard {
            entries: HashTable::default(),
            due: BTreeSet::from([NEVER]),
            last_number: 0,
            last_shards: LastShards::default(),
            actions: Actions::default(),
            empty: Vec::new(),
        }
    }
}

impl Shard {
    fn turn<T>(
        &mut self,
        key: &LockKey,
        rules: &Rules,
        effects: &mut Effects,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> T {
        let entries = &mut self.entries;
        let place = entries.entry(
            spread(key),
            |entry| entry.is_of(key),
            |entry| spread(entry.machine.key()),
        );
        let mut place = match place {
            Place::Occupied(place) => place,
            Place::Vacant(place) => {
                place.insert(Box::new(Entry::new(key.clone(), self.last_number)))
            }
        };
        let entry = place.get_mut();
        let mut turn = Turn {
            rules,
            now: clock::now(),
            looker: None,
            comes: false,
            release_told: None,
            renewal_error: None,
            last_shards: &self.last_shards,
            actions: &mut self.actions,
            empty: &mut self.empty,
            effects,
        };
        let output = work(entry, &mut turn);
        let Turn {
            comes,
            empty,
            effects,
            ..
        } = turn;

        if let Some(seats) = entry.seats.take_if(|seats| seats.is_empty())
            && empty.len() < SPARE_SEATS
            && seats.waiters.capacity() <= SPARE_SEATS
        {
            empty.push(seats);
        }
        effects.is_held = entry.machine.is_held();
        let is_over = entry.is_over();
        let wanted_at = entry.machine.wants_time_at(rules).filter(|_| !is_over);
        // A key that is filed too early is looked at in vain, which costs less than to file it
        // anew.
        let is_early_enough = match (entry.filed_at, wanted_at) {
            (Some(filed_at), Some(wanted_at)) => filed_at <= wanted_at,
            (filed_at, wanted_at) => filed_at == wanted_at,
        };
        if !is_early_enough {
            if let Some(at) = entry.filed_at.take() {
                self.due.remove(&(at, key.hash_value()));
            }
            if let Some(mut at) = wanted_at {
                while !self.due.insert((at, key.hash_value())) {
                    at = at - Duration::from_nanos(1);
                }
                entry.filed_at = Some(at);
                effects.due = Some(at);
            }
        }
        if comes {
            // Others were told when it was filed, and may be gone, or stand still.
            effects.due = entry.filed_at;
        }
        if is_over {
            self.last_number = self.last_number.max(entry.machine.last_number());
            if let Some(shard) = entry.machine.last_shard() {
                self.last_shards.remember(key, shard);
            }
            place.remove();
        }
        output
    }

    /// The key that was filed like this, and is not any more.
    fn unfile(&mut self, (at, hash): (Instant, u32)) -> Option<LockKey> {
        let entry = self.entries.find_mut(spread_hash(hash), |entry| {
            entry.filed_at == Some(at) && entry.machine.key().hash_value() == hash
        })?;
        entry.filed_at = None;
        Some(entry.machine.key().clone())
    }
}

impl Entry {
    /// Gives a waiter a seat, before it joins.
    pub(super) fn seat_waiter(
        &mut self,
        turn: &mut Turn<'_>,
        id: WaiterId,
        who: Asker,
        waker: &Waker,
    ) {
        let seats = self.seats.get_or_insert_with(|| turn.seats());
        seats.waiters.push_back(Seat::new(id, who, waker));
    }

    /// Gives whoever has ended a hold a seat.
    pub(super) fn seat_release(&mut self, turn: &mut Turn<'_>, id: LeaseId, waker: &Waker) {
        let seats = self.seats.get_or_insert_with(|| turn.seats());
        seats.releases.push(Seat::new(id, (), waker));
    }

    pub(super) fn poll_waiter(
        &mut self,
        turn: &mut Turn<'_>,
        id: WaiterId,
        context: &Context<'_>,
    ) -> Poll<WaiterTold> {
        if let Some(told) = self.waiter_told(id) {
            return Poll::Ready(told);
        }
        if let Some(seat) = self.waiter(id) {
            turn.forget(seat.listen(context));
        }
        Poll::Pending
    }

    pub(super) fn poll_release(
        &mut self,
        turn: &mut Turn<'_>,
        id: LeaseId,
        context: &Context<'_>,
    ) -> Poll<ReleaserTold> {
        if let Some(told) = turn.release_told(self, id) {
            return Poll::Ready(told);
        }
        if let Some(seat) = self.release(id) {
            turn.forget(seat.listen(context));
        }
        Poll::Pending
    }

    pub(super) fn leave_waiter(&mut self, turn: &mut Turn<'_>, id: WaiterId) {
        turn.forget(self.remove_waiter(id));
    }

    pub(super) fn leave_release(&mut self, turn: &mut Turn<'_>, id: LeaseId) {
        turn.forget(self.remove_release(id));
    }
}

/// The hash of `key` for the table: other bits of it have chosen the shard.
fn spread(key: &LockKey) -> u64 {
    spread_hash(key.hash_value())
}

fn spread_hash(hash: u32) -> u64 {
    // The golden ratio, as in Knuth's multiplicative hashing.
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Turn<'_> {
    /// Feeds `event` to the machine. What it says to those who wait is stored here; the rest is
    /// performed when no mutex is held.
    pub(super) fn feed(&mut self, entry: &mut Entry, event: Event<'_>) {
        self.comes |= matches!(event, Event::Joined(_) | Event::Took(_));
        if let Event::Joined(Waiter { terms, .. }) = &event
            && terms.mode.kind() == Kind::Shard
            && entry.machine.last_shard().is_none()
        {
            let shard = self.last_shards.preferred(entry.machine.key());
            entry.machine.prefer_shard(shard);
        }
        while let Some(kind) = entry.machine.wants_owner(&event) {
            // The default generator: no function of a user is called under a mutex.
            entry.machine.provide_owner(kind, unique_owner());
        }
        let happened = Happened::of(&event, &entry.machine, self.now);
        self.recall(entry, &happened);
        let machine = &mut entry.machine;
        machine.take_in(self.rules, self.now, event, self.actions);
        // The only place where anybody watches a key.
        self.watch(entry, &happened);
        let effects = &mut *self.effects;
        for action in self.actions.drain(..) {
            let cause = watch_action(entry, &happened, &action, self.now, self.empty, effects);
            let (told, waker) = match action {
                Action::Ask(mut ask) => {
                    let number = match ask.verb.kind() {
                        Kind::Exclusive => NEXT_ASK.fetch_add(1, Ordering::Relaxed),
                        // Several leases of the key are asked about at the same time, each of
                        // which is told from the others by its owner: none is overtaken.
                        _ => 0,
                    };
                    ask.verb.set_number(number);
                    effects.questions.push(ask);
                    continue;
                }
                Action::Renew(lease, renewal, patience) => {
                    effects.renewals.push(Renewing {
                        lease,
                        renewal,
                        patience,
                    });
                    continue;
                }
                Action::Changed(_) => {
                    effects.hold_ended = entry.hold_ended.take().or(effects.hold_ended.take());
                    continue;
                }
                Action::Tell(id, outcome) | Action::TakeBack(id, outcome) => {
                    (Seated::Waiter(id), entry.tell_waiter(id, outcome))
                }
                Action::Released(id, outcome) => {
                    let ending = ReleaserTold { outcome, cause };
                    if self.looker == Some(Seated::Releaser(id)) {
                        self.release_told = Some(ending);
                        continue;
                    }
                    (Seated::Releaser(id), entry.tell_release(id, ending))
                }
            };
            if self.looker == Some(told) {
                effects.spent.extend(waker);
            } else {
                effects.wakers.extend(waker);
            }
        }
        if let Some(seats) = &mut entry.seats {
            if let Some(name) = seats.watch.settled(&happened, &entry.machine) {
                entry.name = name;
            }
            if seats.waiters.is_empty() {
                // Only those who wait are told.
                seats.watch.holder = None;
            }
        }
    }

    /// Remembers the hold that the event is about, if something may have to be told of it.
    fn recall(&mut self, entry: &mut Entry, happened: &Happened) {
        let lease = match happened {
            // Why renewals fail belongs to the error of the holder as well.
            Happened::NotRenewed(lease) => *lease,
            Happened::Ended(lease, _) | Happened::Renewed(lease, _) if self.effects.is_watched => {
                *lease
            }
            _ => return,
        };
        let held = entry.machine.holding(lease, self.now);
        if let Some(held) = held.filter(|held| entry.is_held_by(held, self.now)) {
            let name = entry.name;
            let seats = entry.seats.get_or_insert_with(|| self.seats());
            seats.watch.recall(&held, 1, name);
        }
    }

    /// Takes in what happened, before what comes of it.
    fn watch(&mut self, entry: &mut Entry, happened: &Happened) {
        let looker = self.looker;
        let (first, left) = match happened {
            Happened::Queued(..) => (entry.first_asker(), None),
            Happened::Joined(id) | Happened::Left(id) => (None, entry.asker(*id)),
            _ => (None, None),
        };
        let Entry { seats, machine, .. } = entry;
        let mut telling = Telling::new(self.now, machine, self.effects);
        match (happened, left) {
            (Happened::Joined(_), Some(asker)) if !asker.tries => telling.asked(asker),
            (Happened::Left(_), Some(asker)) => telling.refused(asker, Refusal::Cancelled),
            _ => {}
        }
        let is_dropped = !matches!(looker, Some(Seated::Releaser(_)));
        let error = self.renewal_error.take();
        if let Some(seats) = seats {
            let watch = &mut seats.watch;
            watch.happened(happened, first, is_dropped, error, &mut telling);
        }
    }

    /// Tells that somebody was refused who did not even join.
    pub(super) fn refuse(&mut self, entry: &Entry, asker: Asker, refusal: Refusal) {
        let mut telling = Telling::new(self.now, &entry.machine, self.effects);
        telling.asked(asker);
        telling.refused(asker, refusal);
    }

    /// The question that the looker is to ask, if there is one.
    pub(super) fn take_question(&mut self) -> Option<Box<Ask>> {
        self.effects.questions.pop()
    }

    /// What whoever ended the hold has been told, in this look or before: then its seat is free.
    pub(super) fn release_told(&mut self, entry: &mut Entry, id: LeaseId) -> Option<ReleaserTold> {
        let told = self.release_told.take();
        let told = told.or_else(|| entry.release(id)?.told.take())?;
        self.forget(entry.remove_release(id));
        Some(told)
    }

    fn seats(&mut self) -> Box<Seats> {
        spare(self.empty)
    }

    /// Drops `waker` when no mutex is held.
    fn forget(&mut self, waker: Option<Waker>) {
        self.effects.spent.extend(waker);
    }
}
