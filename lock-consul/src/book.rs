//! What is known of the claims of this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_protocol::{Claim, LockKey, OwnerToken};

use crate::layout::Said;
use crate::sessions::Session;

/// How long the front has to ask after it was told of its turn, before the backend looks itself
/// whether anybody expects the claim.
pub(crate) const TURN_SEEN: Duration = Duration::from_millis(50);

/// One claim.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: LockKey,
    pub(crate) session: Session,
    pub(crate) place: Place,
    /// Whether others were seen to wait.
    pub(crate) is_contended: bool,
    /// Whether a question that writes had no answer, so that it may be done later.
    pub(crate) in_doubt: bool,
    /// Whether the next claim of its process may have got its session, by a release without an
    /// answer.
    pub(crate) lent: bool,
    /// Whether the backend is giving it back by itself: it is not granted any more.
    pub(crate) leaving: bool,
    /// What its key says.
    pub(crate) said: Said,
    /// How long the lock stays its own when it is its turn and nobody asks.
    pub(crate) grace: Duration,
    pub(crate) heartbeat: Duration,
    /// When the front last asked for it.
    pub(crate) asked: Instant,
    /// Since when it may be its turn.
    pub(crate) turn: Option<Turn>,
    /// What is listened to while it waits.
    pub(crate) watched: Option<Watched>,
    /// When its session was last asked to be renewed, while it waits.
    pub(crate) tended: Instant,
}

/// What a waiter listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The key, and from which index on.
    pub(crate) ahead: (String, u64),
    /// Which choice of an agent it was.
    pub(crate) choice: u64,
    pub(crate) id: u64,
}

/// Where a claim stands, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It may not be in the store.
    Unknown,
    /// In the queue, or handed the lock without having heard of it.
    Waits,
    /// It holds the lock, whose key has this index.
    Owns(u64),
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
    pub(crate) fn new(claim: &Claim, session: Session) -> Entry {
        let now = Instant::now();
        Entry {
            key: claim.key.clone(),
            session,
            place: Place::Unknown,
            is_contended: false,
            in_doubt: false,
            lent: false,
            leaving: false,
            said: Said::new(claim.owner.as_str(), claim.ttl),
            grace: claim.grace,
            heartbeat: claim.heartbeat,
            asked: now,
            turn: None,
            watched: None,
            tended: now,
        }
    }

    /// Whether nobody has cared for so long that its session has ended for certain.
    fn is_over(&self, now: Instant) -> bool {
        let unused = now.saturating_duration_since(self.asked);
        self.session.is_over(now) && unused > 2 * self.heartbeat && unused > 2 * self.session.life
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
    /// Its session wants to be renewed.
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

    /// Whether a claim is known that may live by this session, beside that of `owner`.
    pub(crate) fn uses(&self, session: &str, owner: Option<&str>) -> bool {
        self.entries()
            .iter()
            .any(|(known, entry)| &*entry.session.id == session && Some(known.as_str()) != owner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// What is due for claims that wait, and forgets those that have ended by themselves.
    pub(crate) fn due(&self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        self.entries().retain(|owner, entry| {
            if entry.leaving || entry.place != Place::Waits {
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
            let pause = now.saturating_duration_since(entry.tended);
            if is_wanted && pause >= entry.session.life / 6 {
                entry.tended = now;
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
