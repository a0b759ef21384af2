//! What is known of the claims of this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_protocol::{Claim, LockKey, OwnerToken};

use crate::leases::Lease;

/// How long the engine has to ask after it was told of its turn, before the backend looks itself
/// whether anybody expects the claim.
pub(crate) const TURN_SEEN: Duration = Duration::from_millis(50);

/// One claim.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: LockKey,
    pub(crate) lease: Lease,
    /// The revision at which its key was put there, as far as is known.
    pub(crate) created: Option<i64>,
    /// Whether it was seen to hold the lock: once it does, it does so as long as its key is there.
    pub(crate) owns: bool,
    /// Whether a question that writes had no answer, so that it may be done later.
    pub(crate) in_doubt: bool,
    /// Whether the next claim of its process may have got its lease, by a release without an
    /// answer.
    pub(crate) lent: bool,
    /// Whether the backend is giving it back by itself: it is not granted any more.
    pub(crate) leaving: bool,
    /// How long the lock stays its own when it is its turn and nobody asks.
    pub(crate) grace: Duration,
    pub(crate) heartbeat: Duration,
    /// When the engine last asked for it.
    pub(crate) asked: Instant,
    /// Since when it may be its turn.
    pub(crate) turn: Option<Turn>,
    /// Which deletion is listened for: the key, and the stream that does.
    pub(crate) watched: Option<(Vec<u8>, u64, i64)>,
    /// When its lease was last asked to be kept alive, while it waits.
    pub(crate) kept_alive: Instant,
}

/// What is known of the turn of a claim that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// When it was heard of.
    pub(crate) since: Instant,
    /// Whether the backend has looked itself.
    pub(crate) seen: bool,
}

impl Entry {
    pub(crate) fn new(claim: &Claim, lease: Lease) -> Entry {
        let now = Instant::now();
        Entry {
            key: claim.key.clone(),
            lease,
            created: None,
            owns: false,
            in_doubt: false,
            lent: false,
            leaving: false,
            grace: claim.grace,
            heartbeat: claim.heartbeat,
            asked: now,
            turn: None,
            watched: None,
            kept_alive: now,
        }
    }

    /// The watcher with this number tells nothing any more.
    pub(crate) fn forget_watcher(&mut self, number: i64) {
        self.watched.take_if(|watched| watched.2 == number);
    }

    /// It may be its turn since `now`, unless it holds the lock already.
    pub(crate) fn comes_to_its_turn(&mut self, now: Instant) {
        if !self.owns {
            self.turn = Some(Turn {
                since: now,
                seen: false,
            });
        }
    }

    /// Whether nobody has cared for so long that its lease has ended for certain.
    fn is_over(&self, now: Instant) -> bool {
        let unused = now.saturating_duration_since(self.asked);
        self.lease.left(now).is_zero()
            && unused > 2 * self.heartbeat
            && unused > 2 * self.lease.ttl()
    }
}

/// The claims that this process made and has not ended.
#[derive(Default)]
pub(crate) struct Book {
    entries: Mutex<HashMap<OwnerToken, Entry>>,
}

/// What is to be done about a claim that waits.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    /// Its lease wants to be kept alive.
    Tend(OwnerToken),
    /// It is its turn, and nobody has asked: is it expected?
    Look(LockKey, OwnerToken),
    /// It was its turn for longer than its grace.
    GiveBack(LockKey, OwnerToken),
}

impl Book {
    pub(crate) fn get(&self, owner: &str) -> Option<Entry> {
        self.entries().get(owner).cloned()
    }

    pub(crate) fn put(&self, owner: &OwnerToken, entry: Entry) {
        self.entries().insert(owner.clone(), entry);
    }

    pub(crate) fn remove(&self, owner: &str) -> Option<Entry> {
        self.entries().remove(owner)
    }

    /// Changes what is known of a claim, if it is known.
    pub(crate) fn change(&self, owner: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().get_mut(owner) {
            change(entry);
        }
    }

    /// Begins to give a claim back, unless somebody has asked for it since `turn`. Whoever asks
    /// from now on finds it so.
    pub(crate) fn leave(&self, owner: &str, turn: Turn) -> bool {
        match self.entries().get_mut(owner) {
            Some(entry) if entry.turn.is_some_and(|known| known.since == turn.since) => {
                entry.leaving = true;
                true
            }
            _ => false,
        }
    }

    /// Whether a claim is known that may live by this lease, beside that of `owner`.
    pub(crate) fn uses(&self, lease: i64, owner: Option<&str>) -> bool {
        self.entries()
            .iter()
            .any(|(known, entry)| entry.lease.id == lease && Some(known.as_str()) != owner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// What is due for claims that wait, and forgets those that have ended by themselves.
    pub(crate) fn due(&self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        self.entries().retain(|owner, entry| {
            if entry.owns || entry.leaving || entry.created.is_none() {
                return !entry.is_over(now);
            }
            if let Some(turn) = &mut entry.turn {
                let waited = now.saturating_duration_since(turn.since);
                let (key, owner) = (entry.key.clone(), owner.clone());
                if waited >= entry.grace {
                    due.push(Due::GiveBack(key, owner));
                } else if !turn.seen && waited >= TURN_SEEN {
                    turn.seen = true;
                    due.push(Due::Look(key, owner));
                }
                return true;
            }
            let is_wanted = now.saturating_duration_since(entry.asked) < 2 * entry.heartbeat;
            let pause = now.saturating_duration_since(entry.kept_alive);
            if is_wanted && pause >= entry.lease.ttl() / 3 {
                entry.kept_alive = now;
                due.push(Due::Tend(owner.clone()));
            }
            !entry.is_over(now)
        });
        due
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OwnerToken, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
