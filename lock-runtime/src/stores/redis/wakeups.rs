//! What Redis tells of the claims of this process that wait, on its way to those who want to hear
//! it.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_protocol::{Grant, Instant, LockKey, News, Note, OwnerToken};
use rustc_hash::FxHashMap;

use super::link::Link;
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
    /// The claims that are queued, as far as is known here.
    ///
    /// A std mutex, since nothing waits while it is held. Only claims of this process get in, so
    /// nobody fills it with equal hashes.
    queued: Mutex<Queued>,
}

type Queued = FxHashMap<OwnerToken, Waiting>;

/// A claim that may be queued.
struct Waiting {
    /// An announcement names only the claim.
    key: LockKey,
    listener: Listener,
}

/// The link that is told of a claim.
#[derive(Clone)]
pub(super) struct Listener {
    link: Weak<Link>,
    /// Its channel is a part of the claim's place in the queue.
    pub(super) channel: Arc<str>,
}

impl Listener {
    /// `None` if it listens to nothing for now.
    pub(super) fn new(link: &Arc<Link>) -> Option<Listener> {
        let channel = link.channel()?;
        let link = Arc::downgrade(link);
        Some(Listener { link, channel })
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.upgrade()
    }

    /// Whether it listens to that still.
    fn listens(&self) -> bool {
        let link = self.link();
        link.is_some_and(|link| link.channel().as_ref() == Some(&self.channel))
    }
}

impl Wakeups {
    /// Tells `news` from now on too.
    pub(super) fn attach(&self, news: Weak<dyn News>) {
        self.sinks.attach(news);
    }

    /// The claim may stand in the queue of `key`. Whether that is new, and who listens: the link by
    /// which it was queued, as long as that listens, else a `new` one.
    pub(super) fn queued(
        &self,
        owner: &OwnerToken,
        key: &LockKey,
        new: impl FnOnce() -> Listener,
    ) -> (bool, Listener) {
        let mut queued = self.claims();
        if let Some(waiting) = queued.get_mut(owner) {
            if !waiting.listener.listens() {
                waiting.listener = new();
            }
            return (false, waiting.listener.clone());
        }
        let listener = new();
        let waiting = Waiting {
            key: key.clone(),
            listener: listener.clone(),
        };
        queued.insert(owner.clone(), waiting);
        (true, listener)
    }

    /// The claim stands in no queue any more. Returns who listened for it.
    pub(super) fn left(&self, owner: &str) -> Option<Listener> {
        Some(self.claims().remove(owner)?.listener)
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
            .map(|(owner, waiting)| (owner.clone(), waiting.key.clone()));
        let at = tokio::time::Instant::now().checked_add(remaining + jittered(AFTER_EXPIRY));
        if let (Some((owner, key)), Some(at)) = (claim, at) {
            self.sinks.ask_at(&key, &owner, to_seam(at));
        }
    }

    /// Tells what was noticed of a connection.
    pub(super) fn note(&self, note: &Note) {
        self.sinks.note(note);
    }

    fn claims(&self) -> MutexGuard<'_, Queued> {
        lock(&self.queued)
    }
}
