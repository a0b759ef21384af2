//! Who holds a lock and who waits for it, in all processes, as the store knows it.

use std::time::{Duration, SystemTime};

use lock_protocol::{FencingToken, Inspected, LockKey, OwnerToken, Process};

use super::card::{CardLock, ProcessInfo};

/// A lock that somebody holds, as [`LockRuntime::inspect`](crate::LockRuntime::inspect) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// Its key.
    pub key: LockKey,
    /// By which its holder proves that it is his: what
    /// [`break_lock`](crate::LockRuntime::break_lock) wants.
    pub owner: OwnerToken,
    /// The process that holds it; none if that is another library's.
    pub process: Option<Process>,
    /// What is left of the lease, unless it is renewed; none if it never ends.
    pub remaining: Option<Duration>,
    /// Whether nobody holds it any more, and it is only kept: for the rest of a `min_hold` or a
    /// `once_per`.
    pub is_kept: bool,
    /// What it is called: the template of the attribute. Of this and what follows until `holder`
    /// the store knows nothing: the card of the holder's process says it, if that holds the lock
    /// for longer than a second when it leaves its card.
    pub name: Option<String>,
    /// The number of the holder.
    pub fencing_token: Option<FencingToken>,
    /// Since when it has been held, by the clock of this machine.
    pub granted_at: Option<SystemTime>,
    /// What the process that holds it says of itself.
    pub holder: Option<ProcessInfo>,
    /// How many claims wait for it in the store: one for each process.
    pub waiting: usize,
    /// The first 64 of them, in their order.
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
    /// Whether the process is there: it would hear that it was handed the lock. None if the store
    /// does not know.
    pub is_listening: Option<bool>,
}

/// What became of the attempt to end the lease of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// It has ended, and the lock was handed to the first who waited.
    Broken,
    /// It was not the holder: it has ended since it was looked at.
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
