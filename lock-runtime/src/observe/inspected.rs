//! Who holds a lock and who waits for it, in all processes, as the store knows it.

use std::time::{Duration, SystemTime};

use lock_protocol::{FencingToken, Inspected, LockKey, OwnerToken, Process};

use super::card::{CardLock, ProcessInfo};

/// A lock that somebody holds, as [`LockRuntime::inspect`](crate::LockRuntime::inspect) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// Its key.
    pub key: LockKey,
    /// Token by which the holder proves ownership; pass it to
    /// [`break_lock`](crate::LockRuntime::break_lock).
    pub owner: OwnerToken,
    /// The process that holds it; `None` if another library holds it.
    pub process: Option<Process>,
    /// Upper bound of the rest of the lease, unless it is renewed. `None` if the lease never ends,
    /// or if another library holds the lock and the store does not tell. Consul returns the whole
    /// ttl.
    pub remaining: Option<Duration>,
    /// Whether nobody holds it any more, and it is only kept for the rest of a `min_hold` or a
    /// `once_per`.
    pub is_kept: bool,
    /// Its name: the template of the attribute. The store does not know this field and those up to
    /// `holder`. They come from the card of the holder's process, which lists a lock that was held
    /// for longer than a second when the card was written.
    pub name: Option<String>,
    /// The fencing token of the holder.
    pub fencing_token: Option<FencingToken>,
    /// The time since which it is held, by the clock of this machine.
    pub granted_at: Option<SystemTime>,
    /// The card of the process that holds it.
    pub holder: Option<ProcessInfo>,
    /// Number of claims that wait for it in the store: one for each process.
    pub waiting: usize,
    /// The first 64 of them, in order.
    pub waiters: Vec<WaitingClaim>,
}

/// A claim that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitingClaim {
    /// Whose it is.
    pub owner: OwnerToken,
    /// The process that made it.
    pub process: Option<Process>,
    /// Whether the process would hear that it was handed the lock. `None` if the store does not
    /// know.
    pub is_listening: Option<bool>,
}

/// The result of the attempt to end the lease of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// The lease has ended, and the lock was handed to the first waiter.
    Broken,
    /// The owner was no longer the holder.
    NotHeld,
}

impl LockInfo {
    /// What a store, and the cards in it, know of the lock `key`.
    pub(crate) fn of(key: &LockKey, inspected: Inspected) -> LockInfo {
        let Inspected {
            owner,
            remaining,
            waiting,
            waiters,
            cards,
            ..
        } = inspected;
        let waiters = waiters.into_iter().map(|waiter| WaitingClaim {
            process: waiter.owner.process(),
            owner: waiter.owner,
            is_listening: waiter.is_listening,
        });
        let cards: Vec<ProcessInfo> = cards.iter().filter_map(ProcessInfo::of).collect();
        let is_kept = owner.as_str().starts_with("kept:") && owner.process().is_some();
        let is_this = |lock: &&CardLock| lock.key == key.as_str();
        let found = cards
            .iter()
            .find_map(|card| Some((card, card.locks.iter().find(is_this)?)))
            .filter(|_| !is_kept);
        let granted_at = found.and_then(|(_, lock)| SystemTime::now().checked_sub(lock.held));
        LockInfo {
            key: key.clone(),
            process: owner.process(),
            owner,
            remaining,
            is_kept,
            name: found.map(|(_, lock)| lock.name.clone()),
            fencing_token: found.map(|(_, lock)| lock.fencing_token),
            granted_at,
            holder: found.map(|(card, _)| card).or(cards.first()).cloned(),
            waiting,
            waiters: waiters.collect(),
        }
    }
}
