//! A store whose fencing tokens are raised by a number, for who comes from a store with larger
//! ones.

use std::sync::{Arc, Mutex, Weak};

use lock_protocol::{
    Acquired, BackendError, Card, Claim, Condition, Executor, FenceBlock, FencingToken, Grant,
    Inspected, Instant, Limits, LockKey, News, Note, OwnerToken, Release, Released, Renewal,
    Renewed,
};

use crate::backend::{BoxFuture, ErasedBackend};
use crate::sync::lock;

/// The largest floor: with it, tokens of every store are below 2^53.
pub(crate) const MAX_FLOOR: u64 = 1 << 52;

/// A store, and what is added to its tokens.
pub(crate) struct Raised {
    store: Arc<dyn ErasedBackend>,
    floor: u64,
    /// The sinks between the store and those that are told: it holds them weakly.
    sinks: Mutex<Vec<Arc<RaisedNews>>>,
}

struct RaisedNews {
    news: Weak<dyn News>,
    floor: u64,
}

impl Raised {
    pub(crate) fn new(store: Arc<dyn ErasedBackend>, floor: u64) -> Raised {
        Raised {
            store,
            floor,
            sinks: Mutex::default(),
        }
    }
}

impl ErasedBackend for Raised {
    fn limits(&self) -> Limits {
        self.store.limits()
    }

    fn attach(&self, news: Weak<dyn News>) {
        let raised = Arc::new(RaisedNews {
            news,
            floor: self.floor,
        });
        let weak: Weak<RaisedNews> = Arc::downgrade(&raised);
        lock(&self.sinks).push(raised);
        self.store.attach(weak);
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired, BackendError>> {
        Box::pin(async move { Ok(acquired(self.store.acquire(claim).await?, self.floor)) })
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>> {
        Box::pin(async move {
            let answers = self.store.renew(leases).await.into_iter();
            answers
                .map(|answer| answer.map(|answer| renewed(answer, self.floor)))
                .collect()
        })
    }

    fn release<'a>(
        &'a self,
        release: &'a Release,
    ) -> BoxFuture<'a, Result<Released, BackendError>> {
        Box::pin(async move {
            Ok(match self.store.release(release).await? {
                Released::Released(Some(next)) => {
                    Released::Released(Some(acquired(next, self.floor)))
                }
                other => other,
            })
        })
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>> {
        self.store.abandon(claim)
    }

    fn acquire_all<'a>(
        &'a self,
        claims: &'a [Claim],
    ) -> BoxFuture<'a, Result<Option<Vec<Grant>>, BackendError>> {
        Box::pin(async move {
            let grants = self.store.acquire_all(claims).await?;
            let raise = |grants: Vec<Grant>| {
                let grants = grants.into_iter().map(|grant| granted(grant, self.floor));
                grants.collect()
            };
            Ok(grants.map(raise))
        })
    }

    fn inspect<'a>(
        &'a self,
        key: &'a LockKey,
    ) -> BoxFuture<'a, Result<Option<Inspected>, BackendError>> {
        self.store.inspect(key)
    }

    fn cards<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Card>, BackendError>> {
        self.store.cards(prefix)
    }

    fn break_lock<'a>(
        &'a self,
        key: &'a LockKey,
        owner: &'a OwnerToken,
    ) -> BoxFuture<'a, Result<Released, BackendError>> {
        self.store.break_lock(key, owner)
    }

    fn condition(&self) -> BoxFuture<'_, Result<Condition, BackendError>> {
        self.store.condition()
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        self.store.executor()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}

fn renewed(renewed: Renewed, floor: u64) -> Renewed {
    match renewed {
        Renewed::Held(mut extension) => {
            extension.tokens = extension.tokens.map(|tokens| block(tokens, floor));
            Renewed::Held(extension)
        }
        lost => lost,
    }
}

fn block(block: FenceBlock, floor: u64) -> FenceBlock {
    let raised = |token: FencingToken| FencingToken::new(token.as_u64().saturating_add(floor));
    FenceBlock {
        first: raised(block.first),
        last: raised(block.last),
    }
}

fn granted(mut grant: Grant, floor: u64) -> Grant {
    grant.tokens = block(grant.tokens, floor);
    grant
}

fn acquired(acquired: Acquired, floor: u64) -> Acquired {
    match acquired {
        Acquired::Granted(grant) => Acquired::Granted(granted(grant, floor)),
        other => other,
    }
}

impl News for RaisedNews {
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let grant = granted(grant, self.floor);
        self.news
            .upgrade()
            .is_some_and(|news| news.granted(key, owner, grant, since))
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        if let Some(news) = self.news.upgrade() {
            news.ask_at(key, owner, at);
        }
    }

    fn ask_all(&self) {
        if let Some(news) = self.news.upgrade() {
            news.ask_all();
        }
    }

    fn card(&self) -> Option<Card> {
        self.news.upgrade()?.card()
    }

    fn noted(&self, note: &Note) {
        if let Some(news) = self.news.upgrade() {
            news.noted(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::LockRuntime;
    use crate::stores::memory::MemoryBackend;

    #[tokio::test]
    async fn every_token_is_raised_by_the_floor() {
        const FLOOR: u64 = 1 << 51;
        let store = MemoryBackend::new();
        let locks = |floor| {
            let locks = LockRuntime::backend(store.clone()).fence_floor(floor);
            locks.local_passes(0).build()
        };
        let (plain, raised) = (locks(0).await, locks(FLOOR).await);
        let (plain, raised) = (plain.expect("built"), raised.expect("built"));
        let guard = plain.lock("k").acquire().await.expect("free");
        let first = u64::from(guard.fencing_token());
        assert!(first < FLOOR);
        // By a hand-over, then by an answer.
        let waiting = raised.lock("k").wait(Duration::from_secs(60)).acquire();
        let waiting = tokio::spawn(waiting);
        while store.queue_len("k") == 0 {
            tokio::task::yield_now().await;
        }
        guard.release().await.expect("held");
        let guard = waiting.await.expect("no panic").expect("its turn");
        let second = u64::from(guard.fencing_token());
        assert!(second > FLOOR + first);
        guard.release().await.expect("held");
        let guard = raised.lock("k").acquire().await.expect("free");
        assert!(u64::from(guard.fencing_token()) > second);
        let error = locks(super::MAX_FLOOR + 1).await.expect_err("too high");
        assert!(error.to_string().contains("`fence_floor`"), "{error}");
    }
}
