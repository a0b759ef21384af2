//! What a store does with claims, noted for the log: callers do not see when a claim takes its
//! place in the queue of the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lock_conformance::Decorator;
use lock_runtime::FencingToken;
use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, Grant, Instant, LockKey, News, OwnerToken, Release,
    Released,
};
use lock_tests::checker::{Fault, Nanos, Place, Recorder, What, now};

use crate::plan::HEARTBEAT;

/// Passes everything on, and notes which claims are queued and served.
pub(crate) struct Witness<B> {
    inner: B,
    seen: Arc<Claims>,
    /// What stands between the store and those who hear its news.
    listeners: Mutex<Vec<Arc<Listener>>>,
}

/// What has been seen of the claims.
struct Claims {
    log: Arc<Recorder>,
    claims: Mutex<HashMap<OwnerToken, Seen>>,
}

/// Notes the news on their way to `sink`.
struct Listener {
    sink: Weak<dyn News>,
    seen: Arc<Claims>,
}

impl News for Listener {
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let sink = self.sink.upgrade();
        let expected = sink.is_some_and(|sink| sink.granted(key, owner, grant, since));
        if expected {
            self.seen.is_served(owner, grant.tokens.first);
        }
        expected
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        if let Some(sink) = self.sink.upgrade() {
            sink.ask_at(key, owner, at);
        }
    }

    fn ask_all(&self) {
        if let Some(sink) = self.sink.upgrade() {
            sink.ask_all();
        }
    }
}

/// A claim that has been made, and neither withdrawn nor released.
struct Seen {
    /// The lock, as the claim names it: news know it by the name in the store.
    key: LockKey,
    /// An instant before the store heard of it.
    asked: Nanos,
    /// An instant before the store last heard of it while it was queued.
    queued: Option<Nanos>,
    served: bool,
    /// An instant after the store made it the owner, if it has.
    served_at: Nanos,
    /// How often it had been served before it took its present place.
    missed: u32,
}

impl Seen {
    fn new(key: LockKey, asked: Nanos) -> Seen {
        Seen {
            key,
            asked,
            queued: None,
            served: false,
            served_at: 0,
            missed: 0,
        }
    }

    /// It missed what it was handed, and is queued again: since a question at `since`, or since one
    /// before, which was answered when the message of the hand-over had not been read yet.
    fn queued_again(&self, since: Nanos) -> Seen {
        Seen {
            missed: self.missed + 1,
            ..Seen::new(self.key.clone(), self.queued.unwrap_or(since))
        }
    }

    /// The name of the claim for its present place: one that missed what it was handed asks again,
    /// and then stands behind those who came meanwhile.
    fn name(&self, owner: &str) -> String {
        format!("{owner}@{}", self.missed)
    }
}

impl<B> Witness<B> {
    pub(crate) fn new(inner: B, log: Arc<Recorder>) -> Witness<B> {
        Witness {
            inner,
            seen: Arc::new(Claims {
                log,
                claims: Mutex::default(),
            }),
            listeners: Mutex::default(),
        }
    }
}

impl Claims {
    /// The claim is about to be made, perhaps once more. The present instant.
    fn asks(&self, claim: &Claim) -> Nanos {
        let now = now();
        let mut claims = self.claims();
        claims
            .entry(claim.owner.clone())
            .or_insert_with(|| Seen::new(claim.key.clone(), now));
        now
    }

    /// The claim has been answered that was made, or repeated, at `since`.
    fn hears(&self, claim: &Claim, since: Nanos, answer: &Acquired) {
        match answer {
            Acquired::Granted(grant) => {
                self.is_served(claim.owner.as_str(), grant.tokens.first);
            }
            Acquired::Queued(_) => self.is_queued(claim, since),
            _ => self.forgets(&claim.owner),
        }
    }

    fn is_queued(&self, claim: &Claim, since: Nanos) {
        let mut claims = self.claims();
        let Some(seen) = claims.get_mut(&claim.owner) else {
            return;
        };
        if seen.served && since < seen.served_at {
            // The news of the hand-over went past this answer, on another connection.
            return;
        }
        if seen.served {
            *seen = seen.queued_again(since);
        }
        let what = match seen.queued.replace(since) {
            None => Some((
                seen.asked,
                What::Queued {
                    claim: seen.name(claim.owner.as_str()),
                    place: Place::Store,
                },
            )),
            // So long after its last question a store may forget a queue.
            Some(before) if now() - before >= nanos_of_two_heartbeats() => Some((
                before,
                What::Fault {
                    fault: Fault::PlaceLost,
                },
            )),
            Some(_) => None,
        };
        drop(claims);
        if let Some((invoke, what)) = what {
            self.record(&claim.key, invoke, what);
        }
    }

    fn is_served(&self, owner: &str, token: FencingToken) {
        let mut claims = self.claims();
        let Some(seen) = claims.get_mut(owner).filter(|seen| !seen.served) else {
            return;
        };
        seen.served = true;
        seen.served_at = now();
        let (key, asked, name) = (seen.key.clone(), seen.asked, seen.name(owner));
        drop(claims);
        let what = What::Served {
            claim: name,
            token: token.as_u64(),
        };
        self.record(&key, asked, what);
    }

    fn forgets(&self, owner: &OwnerToken) {
        self.claims().remove(owner);
    }

    fn record(&self, key: &LockKey, invoke: Nanos, what: What) {
        // Without its log a run proves nothing.
        self.log
            .record(key.as_str(), invoke, what)
            .expect("the log can be written");
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<OwnerToken, Seen>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Decorator for Witness<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    fn attach(&self, sink: Weak<dyn News>) {
        let listener = Arc::new(Listener {
            sink,
            seen: Arc::clone(&self.seen),
        });
        let news: Weak<Listener> = Arc::downgrade(&listener);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.push(listener);
        drop(listeners);
        self.inner.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let since = self.seen.asks(claim);
        let answer = self.inner.acquire(claim).await?;
        self.seen.hears(claim, since, &answer);
        Ok(answer)
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.seen.forgets(&release.owner);
        let asking = release
            .next
            .as_ref()
            .map(|next| (next, self.seen.asks(next)));
        let released = self.inner.release(release).await?;
        if let (Some((next, since)), Released::Released(Some(answer))) = (asking, &released) {
            self.seen.hears(next, since, answer);
        }
        Ok(released)
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.seen.forgets(&claim.owner);
        self.inner.abandon(claim).await
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        for claim in claims {
            self.seen.asks(claim);
        }
        let grants = self.inner.acquire_all(claims).await?;
        for (place, claim) in claims.iter().enumerate() {
            match grants.as_ref().and_then(|grants| grants.get(place)) {
                Some(grant) => self
                    .seen
                    .is_served(claim.owner.as_str(), grant.tokens.first),
                None => self.seen.forgets(&claim.owner),
            }
        }
        Ok(grants)
    }
}

fn nanos_of_two_heartbeats() -> Nanos {
    Nanos::try_from(HEARTBEAT.as_nanos() * 2).unwrap_or(Nanos::MAX)
}
