//! The keys that somebody in this process holds or wants.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use lock_protocol::machine::{
    self, Action, Actions, Ask, Event, LeaseId, Outcome, Waiter, WaiterId,
};
use lock_protocol::{BackendError, Instant, LockKey, Process, Rules};
use tokio::sync::Notify;

use super::effects::{Effects, Renewing};
use super::seats::{Ending, Seat, Seated, Seats, Told};
use super::watch::{Asker, Happened, Telling, Watch};
use crate::clock;
use crate::observe::{Refusal, RenewalFailures};
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
    next_waiter: AtomicU64,
}

struct Shard {
    /// By their keys, which machines know.
    entries: HashTable<Box<Entry>>,
    /// The hashes of the keys that want the time, by when they do, and [`NEVER`]. No two are filed
    /// under one instant with one hash.
    due: BTreeSet<(Instant, u32)>,
    /// The largest number that a machine gave which is not here any more.
    last_number: u64,
    /// What a machine wants done, empty between events: a buffer that is used again.
    actions: Actions,
    /// Seats that nobody has, to be used again: most held locks are never waited for.
    #[expect(clippy::vec_box, reason = "they go from entry to entry as they are")]
    empty: Vec<Box<Seats>>,
}

/// A key, and who waits to be told of it.
pub(super) struct Entry {
    pub(super) machine: machine::Key,
    seats: Option<Box<Seats>>,
    /// Told when a hold of the key ends, if anybody watches.
    hold_ended: Option<Arc<Notify>>,
    /// What is told of it.
    pub(super) watch: Watch,
    /// Under which instant the key is filed among those that want the time.
    filed_at: Option<Instant>,
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
    release_told: Option<Ending>,
    /// Why the renewal failed that the event is about.
    pub(super) renewal_error: Option<Arc<BackendError>>,
    actions: &'a mut Actions,
    #[expect(clippy::vec_box, reason = "they go from entry to entry as they are")]
    empty: &'a mut Vec<Box<Seats>>,
    effects: &'a mut Effects,
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
            if entry.machine.is_held() {
                count += 1;
                if keys.len() < most {
                    keys.push(entry.machine.key().clone());
                }
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
    fn new(key: LockKey, last_number: u64) -> Entry {
        Entry {
            machine: machine::Key::new(key, last_number),
            seats: None,
            hold_ended: None,
            watch: Watch::default(),
            filed_at: None,
        }
    }

    fn is_of(&self, key: &LockKey) -> bool {
        self.machine.key() == key
    }

    /// Takes in what came of an event; of a lease that ran out, why it was not renewed.
    fn watch_action(
        &mut self,
        happened: &Happened,
        action: &Action,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Arc<RenewalFailures>> {
        let asker = match action {
            Action::Tell(id, _) => self.asker(*id),
            _ => None,
        };
        let Entry { watch, machine, .. } = self;
        let mut telling = Telling::new(now, machine, effects);
        watch.acted(happened, action, asker, &mut telling)
    }

    fn is_over(&self) -> bool {
        self.machine.is_gone() && self.seats.is_none()
    }

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

    /// Stores what a waiter is told, and returns whom to wake.
    fn tell_waiter(&mut self, id: WaiterId, outcome: Outcome) -> Option<Waker> {
        let holder = match outcome {
            Outcome::Taken(_) | Outcome::TimedOut if self.machine.is_held() => {
                Some(Process::current())
            }
            Outcome::Taken(_) | Outcome::TimedOut => self.watch.holder,
            _ => None,
        };
        self.waiter(id)?.tell(Told { outcome, holder })
    }

    /// Stores what whoever ended a hold is told, and returns whom to wake.
    fn tell_release(&mut self, id: LeaseId, ending: Ending) -> Option<Waker> {
        self.release(id)?.tell(ending)
    }

    /// Who a waiter is that has not been told yet.
    fn asker(&self, id: WaiterId) -> Option<Asker> {
        let seats = self.seats.as_ref()?;
        let seat = seats.waiters.get(seats.waiter_index(id)?)?;
        seat.told.is_none().then_some(seat.who)
    }

    /// Who of those who wait came first.
    fn first_asker(&self) -> Option<Asker> {
        Some(self.seats.as_ref()?.waiters.front()?.who)
    }

    /// What the waiter has been told: then its seat is free.
    pub(super) fn waiter_told(&mut self, id: WaiterId) -> Option<Told> {
        let told = self.waiter(id)?.told.take()?;
        // It went with the outcome.
        let _waker = self.remove_waiter(id);
        Some(told)
    }

    pub(super) fn poll_waiter(
        &mut self,
        turn: &mut Turn<'_>,
        id: WaiterId,
        context: &Context<'_>,
    ) -> Poll<Told> {
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
    ) -> Poll<Ending> {
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

    fn waiter(&mut self, id: WaiterId) -> Option<&mut Seat<WaiterId, Told, Asker>> {
        let seats = self.seats.as_mut()?;
        let index = seats.waiter_index(id)?;
        seats.waiters.get_mut(index)
    }

    fn release(&mut self, id: LeaseId) -> Option<&mut Seat<LeaseId, Ending>> {
        let mut releases = self.seats.as_mut()?.releases.iter_mut();
        releases.find(|seat| seat.id == id)
    }

    /// Frees the seat, and returns whom to wake no more.
    fn remove_waiter(&mut self, id: WaiterId) -> Option<Waker> {
        let seats = self.seats.as_mut()?;
        let index = seats.waiter_index(id)?;
        seats.waiters.remove(index)?.waker
    }

    /// Frees the seat, and returns whom to wake no more.
    fn remove_release(&mut self, id: LeaseId) -> Option<Waker> {
        let releases = &mut self.seats.as_mut()?.releases;
        let index = releases.iter().position(|seat| seat.id == id)?;
        releases.remove(index).waker
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
        let joins = matches!(event, Event::Joined(Waiter { owner: None, .. }));
        if entry.machine.wants_owner(joins) {
            // The default generator: no function of a user is called under a mutex.
            entry.machine.provide_owner(unique_owner());
        }
        let happened = Happened::of(&event, &entry.watch, &entry.machine, self.now);
        let machine = &mut entry.machine;
        machine.take_in(self.rules, self.now, event, self.actions);
        // The only place where anybody watches a key.
        self.watch(entry, &happened);
        let effects = &mut *self.effects;
        for action in self.actions.drain(..) {
            let cause = entry.watch_action(&happened, &action, self.now, effects);
            let (told, waker) = match action {
                Action::Ask(mut ask) => {
                    ask.verb
                        .set_number(NEXT_ASK.fetch_add(1, Ordering::Relaxed));
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
                    let ending = Ending { outcome, cause };
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
        let Entry { watch, machine, .. } = entry;
        watch.settled(&happened, machine);
    }

    /// Takes in what happened, before what comes of it.
    fn watch(&mut self, entry: &mut Entry, happened: &Happened) {
        let looker = self.looker;
        let (first, left) = match happened {
            Happened::Queued(_) => (entry.first_asker(), None),
            Happened::Joined(id) | Happened::Left(id) => (None, entry.asker(*id)),
            _ => (None, None),
        };
        let Entry { watch, machine, .. } = entry;
        let mut telling = Telling::new(self.now, machine, self.effects);
        match (happened, left) {
            (Happened::Joined(_), Some(asker)) if !asker.tries => telling.asked(asker),
            (Happened::Left(_), Some(asker)) => telling.refused(asker, Refusal::Cancelled),
            _ => {}
        }
        let is_dropped = !matches!(looker, Some(Seated::Releaser(_)));
        let error = self.renewal_error.take();
        watch.happened(happened, first, is_dropped, error, &mut telling);
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
    pub(super) fn release_told(&mut self, entry: &mut Entry, id: LeaseId) -> Option<Ending> {
        let told = self.release_told.take();
        let told = told.or_else(|| entry.release(id)?.told.take())?;
        self.forget(entry.remove_release(id));
        Some(told)
    }

    fn seats(&mut self) -> Box<Seats> {
        self.empty.pop().unwrap_or_default()
    }

    /// Drops `waker` when no mutex is held.
    fn forget(&mut self, waker: Option<Waker>) {
        self.effects.spent.extend(waker);
    }
}
