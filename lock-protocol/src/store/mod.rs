//! A store as plain data: what a store of locks does about each verb, without I/O and clock.
//!
//! It is the store under the backend in memory, and that of the simulation. Time comes in with
//! each verb, and what the store has to tell to others than the asker comes out with the answer.
//! Nothing runs in between: what has run out is noticed by whoever touches the key next.

mod fence;
mod lock;
mod remembered;
#[cfg(test)]
mod tests;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use self::fence::Fence;
use self::lock::{Lock, StoredLease};
use self::remembered::Remembered;
use crate::claim::{Acquired, Claim, Grant, Holder, Release, Released, Renewal, Renewed};
use crate::inspection::{Inspected, Waiting};
use crate::mistakes::{Mistake, made};
use crate::mode::Mode;
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::{FencingToken, OwnerToken};

/// How many entries of a kind there may be before those that have run out are looked for.
const FEW: usize = 64;

/// The keys are hashed already.
type Map<K, V> = HashMap<K, V, FixedState>;

/// The time of a store.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What leases are counted by.
    pub now: Instant,
    /// The time of day in microseconds, which no fencing token falls below: a resource that
    /// outlives the store accepts the tokens of the next one.
    pub micros: u64,
}

/// What a store tells to a claim that waits, by the way that was given when it was queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<W> {
    /// Which lock.
    pub key: LockKey,
    /// Which claim.
    pub owner: OwnerToken,
    /// The way to it.
    pub way: W,
    /// What is told.
    pub word: Word,
}

/// What a claim that waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// It was handed the lock, at this instant of the store.
    Granted(Grant, Instant),
    /// It is the first in the queue, and the present lease ends at this instant of the store.
    AskAt(Instant),
}

/// A lease, as it is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leased<'a> {
    /// Whose.
    pub owner: &'a OwnerToken,
    /// What it is.
    pub mode: Mode,
    /// Which part of the key it is; 0 where a key has no parts.
    pub shard: u8,
    /// When it ends; `None`: never.
    pub ends: Option<Instant>,
    /// The first of its fencing tokens; all who share a key have the same.
    pub token: FencingToken,
}

/// What a verb makes the store tell to others than the asker. Whoever tells it and finds nobody
/// there [abandons](Store::abandon) the claim, which hands the lock on.
pub type Messages<W> = SmallVec<[Message<W>; 2]>;

/// A store of locks. `W` is the way by which a claim that waits is told something.
#[derive(Clone, Debug)]
pub struct Store<W> {
    /// The locks that are held or waited for, and some that have run out and were not touched
    /// since.
    locks: Map<LockKey, Lock<W>>,
    /// The leases of those who stole, by the key without prefix, since the key may have been
    /// unknown.
    stolen: Map<String, StoredLease>,
    /// The claims that were withdrawn while a question of them may have been on its way.
    gone: Remembered,
    fence: Fence,
    /// How many locks there may be before those that have run out are looked for.
    sweep_at: usize,
}

impl<W> Default for Store<W> {
    fn default() -> Store<W> {
        Store {
            locks: Map::default(),
            stolen: Map::default(),
            gone: Remembered::default(),
            fence: Fence::default(),
            sweep_at: 0,
        }
    }
}

impl<W: Clone> Store<W> {
    /// An empty store.
    pub fn new() -> Store<W> {
        Store::default()
    }

    /// See [`Backend::acquire`](crate::Backend::acquire). `way` is how the claim is told something.
    pub fn acquire(&mut self, claim: &Claim, way: &W, at: Moment) -> (Acquired, Messages<W>) {
        let is_gone = self.gone.has(&claim.owner, at.now);
        self.on(&claim.key, at, |turn| turn.acquire(claim, way, is_gone))
    }

    /// See [`Backend::acquire_all`](crate::Backend::acquire_all).
    pub fn acquire_all(
        &mut self,
        claims: &[Claim],
        way: &W,
        at: Moment,
    ) -> (Option<Vec<Grant>>, Messages<W>) {
        let mut messages = Messages::new();
        for claim in claims {
            let is_gone = self.gone.has(&claim.owner, at.now);
            let (is_free, told) = self.on(&claim.key, at, |turn| turn.lock.is_idle());
            messages.extend(told);
            if is_gone || !is_free {
                return (None, messages);
            }
        }
        let grants = claims.iter().map(|claim| {
            let (answer, told) = self.acquire(claim, way, at);
            messages.extend(told);
            match answer {
                Acquired::Granted(grant) => Some(grant),
                _ => None,
            }
        });
        (grants.collect(), messages)
    }

    /// See [`Backend::renew`](crate::Backend::renew).
    pub fn renew(&mut self, renewal: &Renewal, at: Moment) -> (Renewed, Messages<W>) {
        self.on(&renewal.key, at, |turn| turn.renew(renewal))
    }

    /// See [`Backend::release`](crate::Backend::release). `way` is how the next claim is told
    /// something.
    pub fn release(&mut self, release: &Release, way: &W, at: Moment) -> (Released, Messages<W>) {
        let next = release.next.as_ref();
        let is_gone = next.is_some_and(|next| self.gone.has(&next.owner, at.now));
        self.on(&release.key, at, |turn| turn.release(release, way, is_gone))
    }

    /// See [`Backend::abandon`](crate::Backend::abandon). If the claim is `in_doubt`, since a
    /// question of it may still be on its way, or if the store does not know it, the withdrawal is
    /// remembered, so that an acquire that comes later does nothing.
    ///
    /// It is also how to end the doubt about a claim that has been released.
    pub fn abandon(
        &mut self,
        key: &LockKey,
        owner: &OwnerToken,
        in_doubt: bool,
        at: Moment,
    ) -> Messages<W> {
        let (is_known, messages) = self.on(key, at, |turn| turn.abandon(owner));
        if (in_doubt || !is_known) && !made(Mistake::ForgetsWithdrawals) {
            self.gone.add(owner, at.now);
        }
        messages
    }

    /// Gives the lock to a foreign owner, whether it is free or held, until
    /// [`expire`](Self::expire). `key` is without prefix.
    pub fn steal(&mut self, key: &str, owner: OwnerToken) {
        self.expire(key);
        let theft = StoredLease {
            owner,
            ends: None,
            is_foreign: true,
            mode: Mode::Exclusive,
            shard: 0,
            token: FencingToken::new(0),
        };
        self.stolen.insert(key.to_owned(), theft);
    }

    /// Ends all leases of the lock with this key, without prefix, as if their ttl had run out.
    pub fn expire(&mut self, key: &str) {
        self.stolen.remove(key);
        for (_, lock) in self.locks.iter_mut().filter(|(k, _)| k.as_str() == key) {
            lock.leases.retain(|lease| {
                made(Mistake::MarkerLostHoldersKept) && lease.mode != Mode::Exclusive
            });
        }
    }

    /// Who holds the lock with this key, without prefix.
    pub fn owner(&self, key: &str, now: Instant) -> Option<&OwnerToken> {
        let stolen = self.stolen.get(key);
        let mut leases = self.locks_named(key).flat_map(|lock| &lock.leases);
        let lease = stolen.or_else(|| leases.find(|lease| lease.is_live(now)));
        lease.map(|lease| &lease.owner)
    }

    /// For how long the lease of the lock with this key, without prefix, lives; `None` if nobody
    /// holds it, or if it never ends.
    pub fn remaining(&self, key: &str, now: Instant) -> Option<Duration> {
        let mut leases = self.locks_named(key).flat_map(|lock| &lock.leases);
        let lease = leases.find(|lease| lease.is_live(now))?;
        lease.ends.map(|ends| ends.since(now))
    }

    /// Who holds the lock with this key, without prefix, together: the first of them is its
    /// [`owner`](Self::owner), unless it was stolen.
    pub fn owners(&self, key: &str, now: Instant) -> impl Iterator<Item = &OwnerToken> {
        let leases = self.locks_named(key).flat_map(|lock| &lock.leases);
        let live = leases.filter(move |lease| lease.is_live(now));
        live.map(|lease| &lease.owner)
    }

    /// The leases of the lock with this key, without prefix.
    pub fn leases(&self, key: &str, now: Instant) -> impl Iterator<Item = Leased<'_>> {
        let stolen = self.stolen.get(key);
        let is_ours = stolen.is_none();
        let ours = self.locks_named(key).flat_map(|lock| &lock.leases);
        let live = ours.filter(move |lease| is_ours && lease.is_live(now));
        stolen.into_iter().chain(live).map(|lease| Leased {
            owner: &lease.owner,
            mode: lease.mode,
            shard: lease.shard,
            ends: lease.ends,
            token: lease.token,
        })
    }

    /// The claims that wait for the lock with this key, without prefix, in their order.
    pub fn queue(&self, key: &str, now: Instant) -> impl Iterator<Item = &OwnerToken> {
        self.waiting(key, now).map(|claim| &claim.owner)
    }

    /// The same, as they were first asked for.
    pub fn waiting(&self, key: &str, now: Instant) -> impl Iterator<Item = &Claim> {
        self.locks_named(key)
            .flat_map(|lock| &lock.queue)
            .filter(move |waiter| waiter.is_remembered(now))
            .map(|waiter| &waiter.claim)
    }

    /// See [`Backend::inspect`](crate::Backend::inspect).
    pub fn inspect(&self, key: &LockKey, now: Instant) -> Option<Inspected> {
        let lock = self.locks.get(key);
        let leases = lock.into_iter().flat_map(|lock| &lock.leases);
        // Of several, the one that ends last.
        let lease = leases
            .filter(|lease| lease.is_live(now))
            .max_by_key(|lease| lease.ends);
        let stolen = self.stolen.get(key.as_str());
        let lease = stolen.or(lease)?;
        let remaining = lease.ends.map(|ends| ends.since(now));
        let mut inspected = Inspected::new(lease.owner.clone(), remaining);
        let queue = lock.into_iter().flat_map(|lock| &lock.queue);
        for waiter in queue.filter(|waiter| waiter.is_remembered(now)) {
            inspected.waiting += 1;
            if inspected.waiting <= Inspected::MOST_NAMED {
                let waiting = Waiting::new(waiter.claim.owner.clone());
                inspected.waiters.push(waiting);
            }
        }
        Some(inspected)
    }

    /// See [`Backend::break_lock`](crate::Backend::break_lock).
    pub fn break_lock(
        &mut self,
        key: &LockKey,
        owner: &OwnerToken,
        way: &W,
        at: Moment,
    ) -> (Released, Messages<W>) {
        let stolen = self.stolen.get(key.as_str());
        if stolen.is_some_and(|lease| lease.owner == *owner) {
            self.expire(key.as_str());
            return (Released::Released(None), Messages::new());
        }
        self.release(&Release::new(key.clone(), owner.clone()), way, at)
    }

    /// Whether no lock is held and no claim waits.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.stolen.is_empty() && self.locks.values().all(|lock| lock.is_settled(now))
    }

    /// How many locks are kept in memory, those included that have run out unnoticed.
    pub fn len(&self) -> usize {
        self.locks.len()
    }

    /// Whether nothing is kept in memory.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// Runs `verb` on the lock as it is now, and keeps of it what is worth keeping.
    fn on<T>(
        &mut self,
        key: &LockKey,
        at: Moment,
        verb: impl FnOnce(&mut lock::Turn<'_, W>) -> T,
    ) -> (T, Messages<W>) {
        self.sweep(at.now);
        let theft = self.stolen.get(key.as_str());
        let mut turn = lock::Turn {
            key,
            lock: self.locks.entry(key.clone()).or_default(),
            fence: &mut self.fence,
            at,
            messages: Messages::new(),
        };
        turn.begin(theft);
        let answer = verb(&mut turn);
        let messages = turn.messages;
        if turn.lock.is_idle() {
            self.locks.remove(key);
        }
        (answer, messages)
    }

    /// Drops the locks that ran out unnoticed, whenever there are twice as many as the last time.
    fn sweep(&mut self, now: Instant) {
        if self.locks.len() < self.sweep_at.max(FEW) {
            return;
        }
        self.locks.retain(|_, lock| {
            lock.settle(now);
            !lock.is_idle()
        });
        self.sweep_at = self.locks.len() * 2;
    }

    /// The locks with this key, whatever the prefix.
    fn locks_named(&self, key: &str) -> impl Iterator<Item = &Lock<W>> {
        self.locks
            .iter()
            .filter(move |(k, _)| k.as_str() == key)
            .map(|(_, lock)| lock)
    }
}

/// Of all that is kept, in an order that says nothing of how it came about.
impl<W: Hash> Hash for Store<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut locks: Vec<_> = self.locks.iter().collect();
        locks.sort_unstable_by_key(|(key, _)| key.stored());
        locks.hash(state);
        let mut stolen: Vec<_> = self.stolen.iter().collect();
        stolen.sort_unstable_by_key(|(key, _)| *key);
        stolen.hash(state);
        self.gone.hash(state);
        self.fence.hash(state);
    }
}

/// The answer to a claim that was withdrawn before it was asked for. Nobody waits for it.
fn withdrawn() -> Acquired {
    Acquired::Taken(Holder::of_ours(Duration::ZERO))
}
