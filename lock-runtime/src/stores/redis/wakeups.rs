//! What Redis tells of the claims of this process that wait, on its way to those who want to hear
//! it.

use std::sync::{Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_protocol::{Card, Grant, Instant, LockKey, News, Note, OwnerToken};
use rustc_hash::FxHashMap;

use crate::backoff::jittered;
use crate::clock::to_seam;
use crate::sync::lock;
use lock_protocol::{Sinks, Told};

/// How long after a lease should have ended a waiter looks, at the most.
const AFTER_EXPIRY: Duration = Duration::from_millis(4);

/// The sinks of a backend, and the claims that they may have to be told of.
#[derive(Default)]
pub(super) struct Wakeups {
    sinks: Sinks,
    /// The keys of the claims that are queued, since an announcement names only the claim.
    ///
    /// A std mutex, since nothing waits while it is held. Only claims of this process get in, so
    /// nobody fills it with equal hashes.
    queued: Mutex<Queued>,
}

type Queued = FxHashMap<OwnerToken, LockKey>;

impl Wakeups {
    /// Tells `news` from now on too.
    pub(super) fn attach(&self, news: Weak<dyn News>) {
        self.sinks.attach(news);
    }

    /// The claim may stand in the queue of `key`. Whether that is new.
    pub(super) fn queued(&self, owner: &OwnerToken, key: &LockKey) -> bool {
        let mut queued = self.claims();
        let is_new = !queued.contains_key(owner);
        if is_new {
            queued.insert(owner.clone(), key.clone());
        }
        is_new
    }

    /// The claim stands in no queue any more.
    pub(super) fn left(&self, owner: &str) {
        self.claims().remove(owner);
    }

    /// How many claims stand in a queue, as far as is known here.
    pub(super) fn count(&self) -> usize {
        self.claims().len()
    }

    /// The lock was handed over to the claim, after `since`. Whether that belongs to nobody here.
    #[must_use]
    pub(super) fn is_in_vain(
        &self,
        key: &LockKey,
        owner: &str,
        grant: Grant,
        since: Instant,
    ) -> bool {
        self.left(owner);
        self.sinks.granted(key, owner, grant, since) == Told::Unexpected
    }

    /// Makes everybody ask: messages may have been lost.
    pub(super) fn ask_all(&self) {
        self.sinks.ask_all();
    }

    /// Makes the claim ask when the lease before it ends, which is after `remaining`: its owner may
    /// be dead.
    pub(super) fn look_after(&self, owner: &str, remaining: Duration) {
        let claim = self
            .claims()
            .get_key_value(owner)
            .map(|(owner, key)| (owner.clone(), key.clone()));
        let at = tokio::time::Instant::now().checked_add(remaining + jittered(AFTER_EXPIRY));
        if let (Some((owner, key)), Some(at)) = (claim, at) {
            self.sinks.ask_at(&key, &owner, to_seam(at));
        }
    }

    /// Tells what was noticed of a connection.
    pub(super) fn note(&self, note: &Note) {
        self.sinks.note(note);
    }

    /// What those who are told say of themselves.
    pub(super) fn cards(&self) -> Vec<Card> {
        self.sinks.cards()
    }

    fn claims(&self) -> MutexGuard<'_, Queued> {
        lock(&self.queued)
    }
}
