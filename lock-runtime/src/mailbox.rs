//! A backend, and the news of the claims that are made by it, kept until somebody listens.

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use lock_protocol::{
    Acquired, AskNumber, BackendError, Claim, Grant, LockKey, News, OwnerToken, Release, Released,
    Renewal, Renewed,
};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::backend::{BoxFuture, ErasedBackend};
use crate::clock::from_seam;
use crate::sync::lock;

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// The lock was handed over to the claim.
    Granted {
        /// The lease, for the grace of the claim.
        grant: Grant,
        /// An instant before the hand-over: what `grant.valid_for` is counted from.
        since: Instant,
    },
    /// Something happened; ask.
    Ask,
}

/// The number of the next question. One count for all keys and runtimes of the process, which may
/// share a backend.
pub(crate) fn next_number() -> AskNumber {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A backend whose news are kept.
pub(crate) struct Listening {
    backend: Arc<dyn ErasedBackend>,
    mailbox: Arc<Mailbox>,
}

impl Listening {
    pub(crate) fn new(backend: Arc<dyn ErasedBackend>) -> Listening {
        let mailbox = Arc::<Mailbox>::default();
        let news: Weak<Mailbox> = Arc::downgrade(&mailbox);
        backend.attach(news);
        Listening { backend, mailbox }
    }

    pub(crate) async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        // Before it is sent: what is handed over to a claim that is not here is given back.
        let is_new = claim.queue && self.mailbox.expect(&claim.owner);
        let answer = self.backend.acquire(claim).await;
        if claim.queue {
            self.mailbox.answered(&claim.owner, is_new, &answer);
        }
        answer
    }

    pub(crate) fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>> {
        self.backend.renew(leases)
    }

    pub(crate) async fn release(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
        next: Option<&Claim>,
    ) -> Result<Released, BackendError> {
        if let Some(next) = next.filter(|next| next.queue) {
            self.mailbox.expect(&next.owner);
        }
        let mut ending = Ending {
            mailbox: &self.mailbox,
            owner,
            is_over: false,
        };
        let mut release = Release::new(key.clone(), owner.clone()).then(next.cloned());
        release.number = next_number();
        let answer = self.backend.release(&release).await;
        if let Ok(Released::Released(claimed)) = &answer {
            ending.is_over = true;
            // Another try may be under way with it: whatever this one says, it is still expected.
            if let (Some(next), Some(Acquired::Granted(_))) = (next, claimed) {
                self.mailbox.settled(&next.owner);
            }
        }
        answer
    }

    /// Ends a lease beside the driver of its key, and so without a number: it is no part of the order
    /// in which that asks.
    pub(crate) async fn release_detached(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        let mut ending = Ending {
            mailbox: &self.mailbox,
            owner,
            is_over: false,
        };
        let release = Release::new(key.clone(), owner.clone());
        let answer = self.backend.release(&release).await;
        ending.is_over = matches!(answer, Ok(Released::Released(_)));
        answer
    }

    /// Without a number, since it may go on beside the next driver of its key: it concerns no claim
    /// but its own, which is not asked for again.
    pub(crate) async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        // What is handed to it from now on is given back.
        self.mailbox.forget(&claim.owner);
        let mut claim = claim.clone();
        claim.number = 0;
        self.backend.abandon(&claim).await
    }

    /// Resolves when the queued `claim` may have been granted; at once, if it is not waiting.
    ///
    /// News that came after the claim was made are kept for it. Two futures may wait for one claim, of
    /// which the older is not polled any more.
    pub(crate) fn changed<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Wakeup> {
        Box::pin(self.mailbox.changed(&claim.owner))
    }

    pub(crate) fn close(&self) -> BoxFuture<'_, ()> {
        self.backend.close()
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}

/// A lease that is being released.
struct Ending<'a> {
    mailbox: &'a Mailbox,
    owner: &'a OwnerToken,
    is_over: bool,
}

impl Drop for Ending<'_> {
    /// Not before: a late message must not have given the lock back by then.
    fn drop(&mut self) {
        if self.is_over {
            self.mailbox.forget(self.owner);
        } else {
            self.mailbox.released_in_vain(self.owner);
        }
    }
}

/// Every claim that may be handed a lock.
///
/// It stays until its grant has been told, or it cannot come any more.
///
/// A std mutex, since nothing waits while it is held. Only claims of this process get in, so nobody
/// fills it with equal hashes.
#[derive(Default)]
struct Mailbox(Mutex<Waiters>);

type Waiters = FxHashMap<OwnerToken, Waiter>;

struct Waiter {
    /// An instant before the claim was made.
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

impl News for Mailbox {
    fn granted(
        &self,
        _key: &LockKey,
        owner: &str,
        grant: Grant,
        since: lock_protocol::Instant,
    ) -> bool {
        match self.waiters().get_mut(owner) {
            Some(waiter) => {
                // The grant is also younger than the claim.
                let since = from_seam(since).max(waiter.since);
                waiter.news = Some(Wakeup::Granted { grant, since });
                waiter.ring();
                true
            }
            None => false,
        }
    }

    fn ask_at(&self, _key: &LockKey, owner: &OwnerToken, at: lock_protocol::Instant) {
        if let Some(waiter) = self.waiters().get_mut(owner) {
            waiter.look_at = Some(from_seam(at));
            waiter.ring();
        }
    }

    fn ask_all(&self) {
        for waiter in self.waiters().values_mut() {
            // A grant that is already here says more.
            waiter.news.get_or_insert(Wakeup::Ask);
            waiter.ring();
        }
    }
}

impl Mailbox {
    /// From now on, news for `owner` is kept. Whether it was not before.
    fn expect(&self, owner: &OwnerToken) -> bool {
        let mut waiters = self.waiters();
        let Entry::Vacant(place) = waiters.entry(owner.clone()) else {
            return false;
        };
        place.insert(Waiter {
            since: Instant::now(),
            settled: false,
            news: None,
            look_at: None,
            bell: None,
        });
        true
    }

    /// Nothing is handed to the claim any more, unless it is queued or may be. `is_new` if nobody had asked for it before.
    fn answered(&self, owner: &OwnerToken, is_new: bool, answer: &Result<Acquired, BackendError>) {
        match answer {
            // It may have been handed over before, and the message be slower than the answer, on another connection: what nobody
            // expects is given back.
            Ok(Acquired::Granted(_)) if !is_new => self.settled(owner),
            Ok(Acquired::Granted(_) | Acquired::Taken(_)) => self.forget(owner),
            // An earlier question may have queued it.
            Err(error) if is_new && error.is_denied() => self.forget(owner),
            Ok(_) | Err(_) => {}
        }
    }

    /// The claim has its answer, or wants none.
    fn forget(&self, owner: &OwnerToken) {
        if let Some(waiter) = self.waiters().remove(owner) {
            waiter.ring();
        }
    }

    /// An answer has granted the claim, while the message of the same grant may be under way: it is expected until the release.
    fn settled(&self, owner: &OwnerToken) {
        if let Some(waiter) = self.waiters().get_mut(owner) {
            waiter.settled = true;
        }
    }

    /// A release found no lease: the claim has ended, unless it is one that still waits.
    fn released_in_vain(&self, owner: &OwnerToken) {
        let mut waiters = self.waiters();
        if waiters.get(owner).is_some_and(|waiter| waiter.settled) {
            waiters.remove(owner);
        }
    }

    /// Resolves with the news for `owner`; at once, if it is not waiting.
    async fn changed(&self, owner: &OwnerToken) -> Wakeup {
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
        let mailbox = Mailbox::default();
        let (waiting, held) = (OwnerToken::unique("w"), OwnerToken::unique("h"));
        let is_expected = |owner: &OwnerToken| mailbox.waiters().contains_key(owner);
        mailbox.expect(&waiting);
        mailbox.expect(&held);
        mailbox.settled(&held);

        mailbox.released_in_vain(&waiting);
        mailbox.released_in_vain(&held);
        assert!(is_expected(&waiting));
        assert!(!is_expected(&held));
    }
}
