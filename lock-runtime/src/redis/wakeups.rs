//! The claims of this process that wait in a queue of Redis, and the news for them.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::backend::{Grant, Wakeup};
use crate::backoff::jittered;
use crate::owner::OwnerToken;
use crate::sync::lock;

/// How long after a lease should have ended a waiter looks, at the most.
const AFTER_EXPIRY: Duration = Duration::from_millis(4);

/// Every claim that may be handed a lock.
///
/// A claim is registered *before* it is sent: whatever is handed over to a claim that is not here belongs to nobody and is given back.
/// It stays until its grant has been told, or it cannot come any more.
///
/// A std mutex, since nothing waits while it is held. Only claims of this process get in, so nobody fills it with equal hashes.
#[derive(Default)]
pub(super) struct Wakeups(Mutex<Waiters>);

type Waiters = FxHashMap<OwnerToken, Waiter>;

struct Waiter {
    /// The connection that brings its news.
    lane: usize,
    /// An instant before the claim was sent.
    since: Instant,
    /// Whether an answer has granted the claim: all that may still come is the message of the same grant.
    settled: bool,
    /// What has not been told yet.
    news: Option<Wakeup>,
    /// When to ask whether the owner before this claim has shown a sign of life.
    look_at: Option<Instant>,
    /// There is one as soon as somebody listens.
    bell: Option<Arc<Notify>>,
}

impl Waiter {
    /// Tells all who listen, since the first of them may be a future that is not polled any more; and who is about to listen.
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.notify_waiters();
            bell.notify_one();
        }
    }
}

impl Wakeups {
    /// From now on, news for `owner` is kept. Whether it was not before.
    pub(super) fn register(&self, owner: &OwnerToken, lane: usize) -> bool {
        let mut waiters = self.waiters();
        let Entry::Vacant(place) = waiters.entry(owner.clone()) else {
            return false;
        };
        place.insert(Waiter {
            lane,
            since: Instant::now(),
            settled: false,
            news: None,
            look_at: None,
            bell: None,
        });
        true
    }

    /// The claim has its answer, or wants none.
    pub(super) fn forget(&self, owner: &OwnerToken) {
        if let Some(waiter) = self.waiters().remove(owner) {
            waiter.ring();
        }
    }

    /// An answer has granted the claim, while the message of the same grant may be under way: it is expected until the release.
    pub(super) fn settled(&self, owner: &OwnerToken) {
        if let Some(waiter) = self.waiters().get_mut(owner) {
            waiter.settled = true;
        }
    }

    /// A release found no lease: the claim has ended, unless it is one that still waits.
    pub(super) fn released_in_vain(&self, owner: &OwnerToken) {
        let mut waiters = self.waiters();
        if waiters.get(owner).is_some_and(|waiter| waiter.settled) {
            waiters.remove(owner);
        }
    }

    /// Keeps a grant for its claim, or says that nobody here waits for it. The grant is younger than `since`.
    #[must_use]
    pub(super) fn granted(&self, owner: &str, grant: Grant, since: Instant) -> bool {
        match self.waiters().get_mut(owner) {
            Some(waiter) => {
                // It is also younger than the claim.
                let since = since.max(waiter.since);
                waiter.news = Some(Wakeup::Granted { grant, since });
                waiter.ring();
                true
            }
            None => false,
        }
    }

    /// Makes every waiter of `lane` ask: messages may have been lost.
    pub(super) fn ask_again(&self, lane: usize) {
        for waiter in self.waiters().values_mut() {
            if waiter.lane == lane {
                // A grant that is already here says more.
                waiter.news.get_or_insert(Wakeup::Ask);
                waiter.ring();
            }
        }
    }

    /// Makes the waiter `owner` ask when the lease before it ends, which is after `remaining`: its owner may be dead.
    pub(super) fn look_after(&self, owner: &str, remaining: Duration) {
        if let Some(waiter) = self.waiters().get_mut(owner) {
            waiter.look_at = Instant::now().checked_add(remaining + jittered(AFTER_EXPIRY));
            waiter.ring();
        }
    }

    /// Resolves with the news for `owner`; at once, if it is not waiting.
    pub(super) async fn changed(&self, owner: &OwnerToken) -> Wakeup {
        let Some(bell) = self.bell(owner) else {
            return Wakeup::Ask;
        };
        loop {
            let look_at = match self.take(owner) {
                Ok(news) => return news,
                Err(look_at) => look_at,
            };
            // A ring that came since is remembered by the bell.
            match look_at {
                // Whichever it was, the next look tells.
                Some(at) => drop(timeout_at(at, bell.notified()).await),
                None => bell.notified().await,
            }
        }
    }

    fn bell(&self, owner: &OwnerToken) -> Option<Arc<Notify>> {
        let mut waiters = self.waiters();
        let waiter = waiters.get_mut(owner)?;
        Some(Arc::clone(waiter.bell.get_or_insert_default()))
    }

    /// The news, if there is any, or else when to look; a grant ends the registration.
    fn take(&self, owner: &OwnerToken) -> Result<Wakeup, Option<Instant>> {
        let mut waiters = self.waiters();
        let Some(waiter) = waiters.get_mut(owner) else {
            return Ok(Wakeup::Ask);
        };
        if waiter.look_at.is_some_and(|at| at <= Instant::now()) {
            waiter.look_at = None;
            waiter.news.get_or_insert(Wakeup::Ask);
        }
        let Some(news) = waiter.news.take() else {
            return Err(waiter.look_at);
        };
        if matches!(news, Wakeup::Granted { .. }) {
            waiters.remove(owner);
        }
        Ok(news)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_in_vain_forgets_no_claim_that_waits() {
        let wakeups = Wakeups::default();
        let (waiting, held) = (OwnerToken::unique("w"), OwnerToken::unique("h"));
        let is_expected = |owner: &OwnerToken| wakeups.waiters().contains_key(owner);
        wakeups.register(&waiting, 0);
        wakeups.register(&held, 0);
        wakeups.settled(&held);

        wakeups.released_in_vain(&waiting);
        wakeups.released_in_vain(&held);
        assert!(is_expected(&waiting));
        assert!(!is_expected(&held));
    }
}
