//! What is known of the claims of this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_protocol::{Claim, LockKey, OwnerToken};

use crate::fault::Fault;
use crate::layout::Said;
use crate::sessions::Session;

/// How long the engine has to ask after it was told of its turn, before the backend looks itself
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
    /// When the engine last asked for it.
    pub(crate) asked: Instant,
    /// Since when it may be its turn.
    pub(crate) turn: Option<Turn>,
    /// What is listened to while it waits.
    pub(crate) watched: Option<Watched>,
    /// When its session was last asked to be renewed, while it waits.
    pub(crate) tended: Instant,
    /// Why its session was not renewed when it was last asked for, if it was not.
    pub(crate) unrenewed: Option<Fault>,
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
    /// Whether it was longer than its grace, as the backend was told.
    pub(crate) is_late: bool,
}

impl Turn {
    /// One that was heard of at this instant.
    pub(crate) fn at(since: Instant) -> Turn {
        Turn {
            since,
            seen: false,
            is_late: false,
        }
    }
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
            unrenewed: None,
        }
    }

    /// Takes in what became of a renewal of its session.
    pub(crate) fn take_in(&mut self, renewed: Result<Instant, Fault>) {
        match renewed {
            Ok(at) => {
                self.session.renewed = self.session.renewed.max(Some(at));
                self.unrenewed = None;
            }
            Err(fault) => self.unrenewed = Some(fault),
        }
    }

    /// Whether its session is renewed. Why not is an error where it is refused, and where it has
    /// had no answer for half of the life of the session, although its lock is still there.
    pub(crate) fn is_renewed(&self) -> Result<(), Fault> {
        let renewed = self.session.renewed;
        let is_old = renewed.is_none_or(|renewed| renewed.elapsed() > self.session.life / 2);
        match &self.unrenewed {
            Some(fault) if is_old || matches!(fault, Fault::Refused(_)) => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    /// Whether nobody has cared for so long that its session has ended for certain.
    fn is_over(&self, now: Instant) -> bool {
        let unused = now.saturating_duration_since(self.asked);
        let wanted = self.heartbeat.max(self.session.life).saturating_mul(2);
        self.session.is_over(now) && unused > wanted
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
                    if std::mem::replace(&mut turn.is_late, true) {
                        return true;
                    }
                    due.push(Due::GiveBack(key, owner));
                } else if !turn.seen && waited >= TURN_SEEN {
                    turn.seen = true;
                    due.push(Due::Look(key, owner));
                }
                return true;
            }
            let unasked = now.saturating_duration_since(entry.asked);
            let is_wanted = unasked < entry.heartbeat.saturating_mul(2);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_nobody_takes_is_given_back_once() {
        let key = LockKey::new("", "k").expect("a valid key");
        let mut claim = Claim::new(key, OwnerToken::new("o"), Duration::from_secs(30)).queued();
        claim.grace = Duration::from_secs(1);
        claim.heartbeat = Duration::MAX;
        let (book, began) = (Book::default(), Instant::now());
        let session = Session::of_others("s", claim.ttl);
        book.put(&claim.owner, Entry::new(&claim, session));
        book.change("o", |entry| {
            entry.place = Place::Waits;
            entry.turn = Some(Turn::at(began));
        });
        let mut given_back = 0;
        let mut looked = 0;
        for tick in 0..100 {
            for due in book.due(began + tick * Duration::from_millis(25)) {
                match due {
                    Due::GiveBack(..) => given_back += 1,
                    Due::Look(..) => looked += 1,
                    Due::Tend(_) => panic!("it has its turn"),
                }
            }
        }
        assert_eq!((looked, given_back), (1, 1));
    }
}
