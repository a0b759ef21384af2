//! Locks held by a majority of several Redis servers that know nothing of each other: Redlock.
//!
//! Each server is a [`RedisBackend`], with its links and scripts, and votes for one claim of a key
//! at a time. What the votes come to is decided by the tally, and what the claim then does by its
//! course; what a claim has at each node is kept among the claims, so that what is late is
//! harmless.
//!
//! ```text
//!   verbs (here) ── rounds ── flights ──► node 1 … node N: a vote is a script
//!                     │  │       │
//!          tally · course  claims ◄┘ ◄── news of votes that were handed over
//! ```

mod claims;
mod clock;
mod config;
mod course;
mod flights;
mod inspection;
#[cfg(test)]
mod mistakes;
mod news;
mod renewals;
mod rounds;
mod shared;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod simulation;
mod tally;

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use deadpool_redis::Config;
use lock_protocol::{
    Acquired, Backend, BackendError, Card, Claim, Condition, Executor, Inspected, Limits, LockKey,
    News, Numbers, OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::runtime::Handle;
use uuid::Uuid;

pub use self::config::RedlockSettings;
use self::flights::Flights;
use self::news::NodeNews;
use self::shared::Shared;
use self::tally::majority;
use crate::error::LockError;
use crate::executor::OnTokio;
use crate::stores::redis::RedisBackend;
use crate::stores::redis::voter::{Alive, Keepers, Together};
use crate::sync::lock;

/// However long commands may take, [`RedlockBackend::connect`] fails by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Enough that keys that are asked for at the same moment seldom share one.
const ROUTES: usize = 256;

/// Locks held by a majority of an odd number of Redis servers, each a master without replicas.
///
/// The lock exists as long as any majority of them answers and keeps its data. One question to all
/// servers at the same time acquires a lock, and another releases it. Waiters are served in no
/// reliable order.
///
/// A server that keeps its data over a restart must keep all of it (`appendfsync always`), or none
/// at all. In the second case it votes for nobody until the leases that it knew have ended.
pub struct RedlockBackend {
    shared: Arc<Shared>,
    /// The numbers that callers gave to their questions.
    numbers: Vec<Mutex<Numbers>>,
    executor: Arc<OnTokio>,
    _news: Vec<Arc<dyn News>>,
    _thread: Alive,
}

impl RedlockBackend {
    /// Connects, and checks that a majority of the servers can hold locks.
    ///
    /// # Errors
    ///
    /// Within 5 s: [`LockError::Config`] if the configuration is wrong, or two of the servers are
    /// the same; otherwise the error of the first server without which there is no majority.
    pub async fn connect(
        servers: &[Config],
        settings: RedlockSettings,
    ) -> Result<RedlockBackend, LockError> {
        let redis = &settings.redis;
        let within = CONNECT_LIMIT.min(redis.command_timeout.saturating_add(redis.connect_timeout));
        let name = LockKey::new(&redis.key_prefix, &format!("server:{}", Uuid::new_v4()))?;
        let backend = RedlockBackend::connect_lazily(servers, settings)?;
        backend.shared.meet(&name, within).await?;
        Ok(backend)
    }

    /// Starts without waiting for the servers; it connects in the background.
    ///
    /// # Errors
    ///
    /// [`LockError::Config`] if the configuration is wrong.
    pub fn connect_lazily(
        servers: &[Config],
        settings: RedlockSettings,
    ) -> Result<RedlockBackend, LockError> {
        settings.checked(servers)?;
        let thread = Together::start()?;
        let mut keepers = Keepers::default();
        let mut nodes = Vec::new();
        for (place, server) in servers.iter().enumerate() {
            let node = RedisBackend::on_thread(server, &settings.redis, &thread, &mut keepers);
            nodes.push(node.map_err(|error| match error {
                LockError::Config(fault) => {
                    LockError::Config(format!("server {}: {fault}", place + 1))
                }
                other => other,
            })?);
        }
        let handle = thread.handle().clone();
        let shared = Arc::new(Shared::new(nodes, settings, handle.clone()));
        let news = |node| Arc::new(NodeNews::new(node, &shared)) as Arc<dyn News>;
        let news: Vec<_> = (0..servers.len()).map(news).collect();
        for (node, news) in shared.nodes.iter().zip(&news) {
            node.attach(Arc::downgrade(news));
        }
        Ok(RedlockBackend {
            shared,
            numbers: (0..ROUTES).map(|_| Mutex::default()).collect(),
            executor: Arc::new(OnTokio(handle)),
            _news: news,
            _thread: thread.run(keepers),
        })
    }

    /// The tokio runtime on the thread of the backend: for its metrics, and to run tasks that must
    /// not stop when callers block their threads.
    pub fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Lets a question about `key` take its turn, unless a later one went ahead.
    fn admit(&self, key: &LockKey, number: u64) -> Result<(), BackendError> {
        let numbers = &self.numbers[key.hash_value() as usize % ROUTES];
        let admitted = lock(numbers).admit(key, number);
        admitted.map_err(BackendError::unavailable)
    }
}

impl Backend for RedlockBackend {
    fn limits(&self) -> Limits {
        self.shared.settings.limits()
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.shared.sinks.attach(Weak::clone(&news));
        if let Some(news) = news.upgrade() {
            for node in &self.shared.nodes {
                node.note_connections(&*news);
            }
        }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.admit(&claim.key, claim.number)?;
        self.shared.acquire(claim).await
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        self.shared.renew(leases).await
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.admit(&release.key, release.number)?;
        let answer = self.shared.release(&release.key, &release.owner).await?;
        match (answer, &release.next) {
            (Released::Released(_), Some(next)) => {
                let mut next = next.clone();
                next.number = release.number;
                self.admit(&next.key, next.number)?;
                Ok(Released::Released(Some(self.shared.acquire(&next).await?)))
            }
            (answer, _) => Ok(answer),
        }
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.admit(&claim.key, claim.number)?;
        self.shared.abandon(claim).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Inspected>, BackendError> {
        self.shared.inspect(key).await
    }

    async fn cards(&self, prefix: &str) -> Result<Vec<Card>, BackendError> {
        self.shared.cards(prefix).await
    }

    async fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        self.shared.release(key, owner).await
    }

    async fn condition(&self) -> Result<Condition, BackendError> {
        Ok(self.shared.condition().await)
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        Some(Arc::clone(&self.executor) as Arc<dyn Executor>)
    }

    async fn close(&self) {
        let shared = &self.shared;
        let closing = (0..shared.nodes.len()).map(|node| {
            let shared = Arc::clone(shared);
            Box::pin(async move { shared.nodes[node].close().await }) as _
        });
        let mut closing = Flights::new(&shared.handle, closing.collect());
        // Those that answer have done what was asked of them by then; those that hang end by
        // themselves.
        let (mut closed, count) = (0, majority(shared.nodes.len()));
        closing
            .until(|()| {
                closed += 1;
                closed >= count
            })
            .await;
    }
}

impl fmt::Debug for RedlockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.shared.nodes.iter().map(RedisBackend::address);
        f.debug_struct("RedlockBackend")
            .field("servers", &nodes.collect::<Vec<_>>())
            .field("claims", &self.shared.claims.count())
            .finish_non_exhaustive()
    }
}
