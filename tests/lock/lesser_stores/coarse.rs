//! A store that counts in seconds, keeps the ttl of a lease as it was, tells but a bound of what is
//! left, and leaves graces to the processes: what a store of sessions makes of locks.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lock_conformance::{Remaining, Store};
use lock_protocol::{
    Acquired, Backend, BackendError, Claim, GraceBy, Grant, Holder, Instant, Limits, LockKey, Mode,
    News, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::memory::MemoryBackend;
use lock_tests::memory_store::MemoryStore;
use tokio::time::sleep;

use super::lock;

lock_conformance::conformance! { #[tokio::test(start_paused = true)] Coarse::default() }

mod controls {
    lock_conformance::controls! { #[tokio::test(start_paused = true)] super::Coarse::default() }
}

const SECOND: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_millis(1100);

#[derive(Default)]
struct Coarse {
    inner: MemoryStore,
    ttls: Arc<Mutex<HashMap<OwnerToken, Duration>>>,
}

impl Store for Coarse {
    type Backend = Client;

    const REMAINING: Remaining = Remaining::AtMost;
    const TTL_CHANGES: bool = false;

    async fn connect(&self) -> Client {
        Client {
            inner: self.inner.connect().await,
            ttls: Arc::clone(&self.ttls),
            relay: Arc::new(Relay {
                store: self.inner.memory.clone(),
                sinks: Mutex::default(),
                graces: Mutex::default(),
                heard: Arc::default(),
            }),
        }
    }

    async fn expire(&self, key: &LockKey) {
        self.inner.expire(key).await;
    }

    async fn go_dark(&self) {
        self.inner.go_dark().await;
    }

    async fn leftovers(&self) -> Vec<String> {
        self.inner.leftovers().await
    }
}

struct Client {
    inner: MemoryBackend,
    /// For how long the leases of each claim live in the store.
    ttls: Arc<Mutex<HashMap<OwnerToken, Duration>>>,
    relay: Arc<Relay>,
}

/// What a process does about the locks that it is handed.
struct Relay {
    store: MemoryBackend,
    sinks: Mutex<Vec<Weak<dyn News>>>,
    graces: Mutex<HashMap<OwnerToken, Duration>>,
    /// The claims that were heard of while they had the lock.
    heard: Arc<Mutex<HashSet<OwnerToken>>>,
}

impl News for Relay {
    fn granted(&self, key: &LockKey, owner: &str, mut grant: Grant, since: Instant) -> bool {
        let owner = OwnerToken::new(owner);
        let grace = lock(&self.graces)[&owner];
        grant.valid_for = grace;
        let sinks: Vec<_> = lock(&self.sinks).iter().filter_map(Weak::upgrade).collect();
        let mut told = sinks.iter();
        let is_expected = told.any(|sink| sink.granted(key, owner.as_str(), grant, since));
        let (store, heard) = (self.store.clone(), Arc::downgrade(&self.heard));
        let end = Release::new(key.clone(), owner);
        tokio::spawn(async move {
            sleep(grace).await;
            // A process that is gone ends nothing.
            if heard
                .upgrade()
                .is_some_and(|heard| !lock(&heard).contains(&end.owner))
            {
                let _ = store.release(&end).await;
            }
        });
        is_expected || sinks.is_empty()
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        for sink in lock(&self.sinks).iter().filter_map(Weak::upgrade) {
            sink.ask_at(key, owner, at);
        }
    }

    fn ask_all(&self) {
        for sink in lock(&self.sinks).iter().filter_map(Weak::upgrade) {
            sink.ask_all();
        }
    }
}

impl Client {
    /// The claim as the store has it.
    fn stored(&self, claim: &Claim) -> Claim {
        lock(&self.relay.graces).insert(claim.owner.clone(), claim.grace);
        let step = SECOND.as_millis();
        let millis = claim.ttl.max(2 * SECOND).as_millis().div_ceil(step) * step;
        let ttl = Duration::from_millis(u64::try_from(millis).unwrap()) + LATE;
        let mut claim = claim.clone();
        claim.mode = Mode::Exclusive;
        claim.ttl = *lock(&self.ttls).entry(claim.owner.clone()).or_insert(ttl);
        claim.grace = claim.ttl;
        claim
    }

    fn told(&self, answer: Acquired, claim: &Claim) -> Acquired {
        match answer {
            Acquired::Granted(mut grant) => {
                lock(&self.relay.heard).insert(claim.owner.clone());
                grant.valid_for = claim.ttl;
                Acquired::Granted(grant)
            }
            Acquired::Queued(holder) => Acquired::Queued(self.bounded(holder, &claim.key)),
            Acquired::Taken(holder) => Acquired::Taken(self.bounded(holder, &claim.key)),
            other => other,
        }
    }

    /// Of a lease is known how long it was.
    fn bounded(&self, mut holder: Holder, key: &LockKey) -> Holder {
        if let Some(owner) = self.inner.owner(key.as_str()) {
            holder.remaining = Some(lock(&self.ttls)[&owner]);
        }
        holder
    }
}

impl Backend for Client {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.min_ttl = 2 * SECOND;
        limits.ttl_step = SECOND;
        limits.lateness = LATE;
        limits.grace = GraceBy::Process;
        limits.foreign_holders = false;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        let mut sinks = lock(&self.relay.sinks);
        if sinks.is_empty() {
            let relay: Weak<Relay> = Arc::downgrade(&self.relay);
            self.inner.attach(relay);
        }
        sinks.push(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let answer = self.inner.acquire(&self.stored(claim)).await?;
        Ok(self.told(answer, claim))
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let mut stored = leases.to_vec();
        for lease in &mut stored {
            lock(&self.relay.heard).insert(lease.owner.clone());
            if let Some(ttl) = lock(&self.ttls).get(&lease.owner) {
                lease.ttl = *ttl;
            }
        }
        self.inner.renew(&stored).await
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let mut stored = release.clone();
        stored.next = release.next.as_ref().map(|next| self.stored(next));
        let answer = self.inner.release(&stored).await?;
        Ok(match (answer, &release.next) {
            (Released::Released(Some(answer)), Some(next)) => {
                Released::Released(Some(self.told(answer, next)))
            }
            (answer, _) => answer,
        })
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.inner.abandon(claim).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
