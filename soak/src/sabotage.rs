//! The backend with a protection removed: what a run must be able to notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lock_runtime::FencingToken;
use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, Executor, FenceBlock, Grant, LockKey, Mode, Release,
    Released,
};
use lock_tests::decorated::Decorator;

use crate::admin::queue;
use crate::plan::Sabotage;

/// One in so many calls does wrong.
const ONE_IN: u64 = 20;

/// Passes everything on, and does wrong now and then.
pub(crate) struct Saboteur<B> {
    inner: B,
    sabotage: Sabotage,
    /// The server itself.
    client: redis::Client,
    calls: AtomicU64,
}

impl<B> Saboteur<B> {
    pub(crate) fn new(inner: B, sabotage: Sabotage, client: redis::Client) -> Saboteur<B> {
        Saboteur {
            inner,
            sabotage,
            client,
            calls: AtomicU64::new(0),
        }
    }

    fn strikes(&self, sabotage: Sabotage) -> bool {
        self.sabotage == sabotage
            && self.calls.fetch_add(1, Ordering::Relaxed) % ONE_IN == ONE_IN - 1
    }

    /// Takes the ttl from the key of `lock`, if there is still one.
    async fn persist(&self, lock: &LockKey) -> bool {
        let Ok(mut connection) = self.client.get_multiplexed_async_connection().await else {
            return false;
        };
        let persisted = redis::cmd("PERSIST")
            .arg(lock.stored())
            .query_async(&mut connection)
            .await;
        persisted.unwrap_or(false)
    }

    /// Makes `claim`, if it still stands at the end of its queue, the first.
    async fn put_in_front(&self, claim: &Claim) -> Option<()> {
        let mut connection = self.client.get_multiplexed_async_connection().await.ok()?;
        let queue = queue(claim.key.as_str());
        let mut newest = redis::cmd("ZRANGE");
        newest.arg(&[&queue, "-1", "-1"]);
        let newest: Vec<String> = newest.query_async(&mut connection).await.ok()?;
        let own = newest
            .first()
            .filter(|it| it.starts_with(&format!("{}/", claim.owner)))?;
        let mut put = redis::cmd("ZADD");
        put.arg(&[&queue, "XX", "0", own.as_str()]);
        put.query_async(&mut connection).await.ok()
    }
}

impl<B: Backend> Decorator for Saboteur<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        if self.strikes(Sabotage::Hang) {
            std::thread::sleep(Duration::MAX);
        }
        let mut asked = claim.clone();
        if let (Sabotage::PermitTooMany, Mode::Permits { of, .. }) =
            (self.sabotage, &mut asked.mode)
        {
            *of += 1;
        }
        let answer = self.inner.acquire(&asked).await?;
        match answer {
            Acquired::Granted(grant) if self.strikes(Sabotage::LowFence) => {
                let earlier = |token: FencingToken| FencingToken::new(token.as_u64() - 60_000_000);
                let tokens = FenceBlock {
                    first: earlier(grant.tokens.first),
                    last: earlier(grant.tokens.last),
                };
                Ok(Acquired::Granted(Grant::new(tokens, grant.valid_for)))
            }
            Acquired::Queued(_) | Acquired::Taken(_) if self.strikes(Sabotage::DoubleGrant) => {
                self.inner.abandon(claim).await?;
                Ok(Acquired::Granted(Grant::new(one_token_of_now(), claim.ttl)))
            }
            Acquired::Queued(_) | Acquired::Taken(_)
                if claim.mode == Mode::Shared && self.strikes(Sabotage::ReaderBesideWriter) =>
            {
                self.inner.abandon(claim).await?;
                Ok(Acquired::Granted(Grant::new(one_token_of_now(), claim.ttl)))
            }
            Acquired::Granted(mut grant) if self.sabotage == Sabotage::ShardTwice => {
                grant.shard = 0;
                Ok(Acquired::Granted(grant))
            }
            // Every time: there is seldom more than one to overtake.
            Acquired::Queued(_) if self.sabotage == Sabotage::Overtake => {
                self.put_in_front(claim).await;
                Ok(answer)
            }
            answer => Ok(answer),
        }
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        if self.strikes(Sabotage::LeakKey) && self.persist(&release.key).await {
            return Ok(Released::Released(None));
        }
        if self.sabotage == Sabotage::ShortKeep && release.keep.is_some() {
            let mut release = release.clone();
            release.keep = None;
            return self.inner.release(&release).await;
        }
        self.inner.release(release).await
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        match self.sabotage {
            // So that it is a thread of the callers that blocks: the backend's own would cost only
            // what depends on it.
            Sabotage::Hang => None,
            _ => self.inner.executor(),
        }
    }
}

fn one_token_of_now() -> FenceBlock {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let token = FencingToken::new(u64::try_from(now.as_micros()).unwrap_or_default());
    FenceBlock {
        first: token,
        last: token,
    }
}
