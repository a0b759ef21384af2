//! The Redis backend: one server, or whatever looks like one from here.
//!
//! A lock is the owner token as the value of a key with a time to live; waiters stand in a sorted set, and a release hands the lock over to
//! the first of them and tells its process by pub/sub, in one script. What a script promises is said at its top (`scripts/*.lua`).
//!
//! ```text
//! verbs (here) ── scripts: typed questions and answers ──┬─ lanes: renewals, repair ───────┬── messages ── connections ── pool
//!                                                        └─ direct, live: the short way ────┘                   │
//!                                                           wakeups ◄── pushes ◄───────────────────────────────┘
//! ```

mod call;
mod companion;
mod config;
mod connection;
mod direct;
mod fault;
mod lane;
mod live;
mod message;
mod pulse;
mod pushes;
mod scripts;
mod thread;
mod wakeups;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_redis::redis::Value;
use deadpool_redis::{Config, Pool};
use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Executor, LockKey, News, Release, Released,
    Renewal, Renewed,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use self::call::{Call, Reply};
pub use self::config::RedisSettings;
use self::connection::Connector;
use self::direct::{Direct, Ways};
use self::fault::Fault;
use self::lane::Lane;
use self::message::{Replies, Unheard};
use self::pushes::Pushes;
use self::thread::{Running, Thread};
use self::wakeups::Wakeups;
use crate::error::LockError;
use crate::executor::OnTokio;
/// The pool that a [`RedisBackend`] is configured by, and the Redis client below it.
pub use deadpool_redis;

/// However long commands may take, [`RedisBackend::connect`] fails by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Locks held by a Redis server (6.2 or newer) or Valkey.
///
/// The connections, the commands and the repairs run on a thread of their own: the verbs may be awaited on any executor. Dropping
/// the backend ends the thread, without waiting for it.
pub struct RedisBackend {
    lanes: Vec<Lane>,
    direct: Direct,
    wakeups: Arc<Wakeups>,
    pool: Pool,
    acl_rule: String,
    executor: Arc<OnTokio>,
    closing: watch::Sender<bool>,
    _thread: Running,
}

impl RedisBackend {
    /// Connects, and checks that the server can hold locks.
    ///
    /// # Errors
    ///
    /// Within 5 s: [`is_unavailable`](LockError::is_unavailable) if there is no server, [`is_denied`](LockError::is_denied) if it is none that
    /// can hold locks or refuses, [`LockError::Config`] if the configuration is wrong.
    pub async fn connect(
        config: Config,
        settings: RedisSettings,
    ) -> Result<RedisBackend, LockError> {
        let within = CONNECT_LIMIT.min(
            settings
                .command_timeout
                .saturating_add(settings.connect_timeout),
        );
        let backend = RedisBackend::connect_lazily(config, settings)?;
        let pings: Vec<_> = backend.lanes.iter().map(|lane| lane.ping(within)).collect();
        for mut ping in pings {
            let pong = ping
                .reply()
                .await
                .and_then(|reply| reply.map_err(Fault::Refused));
            pong.map_err(|fault| backend.error(fault))?;
        }
        Ok(backend)
    }

    /// Starts without waiting for a server; it connects in the background.
    ///
    /// # Errors
    ///
    /// [`LockError::Config`] if the configuration is wrong.
    pub fn connect_lazily(
        config: Config,
        settings: RedisSettings,
    ) -> Result<RedisBackend, LockError> {
        let wakeups = Arc::new(Wakeups::default());
        let ways = Ways::default();
        let pushes = Arc::new(Pushes::new(
            Arc::clone(&wakeups),
            Arc::clone(&ways),
            settings.command_timeout,
        ));
        let receiver = Arc::clone(&pushes);
        let (pool, address) = config::pool(&config, &settings, move |push| {
            receiver.receive(&push);
            Ok(())
        })?;

        let thread = Thread::start().map_err(BackendError::unavailable)?;
        let (closing, closed) = watch::channel(false);
        let channel_prefix = settings.channel_prefix();
        let (address, backend) = (Arc::<str>::from(address), Uuid::new_v4().simple());
        let probe = LockKey::new(&settings.key_prefix, &format!("probe:{backend}")).ok();
        let connector = |index| Connector {
            probe: probe.clone(),
            pool: pool.clone(),
            address: Arc::clone(&address),
            channel: format!("{channel_prefix}{backend}:{index}").into(),
            command_timeout: settings.command_timeout,
        };
        let (lanes, tasks): (Vec<_>, Vec<_>) = (0..settings.lanes)
            .map(|index| Lane::new(connector(index), Arc::clone(&wakeups), closed.clone()))
            .unzip();
        pushes.connect(&lanes);
        let executor = thread.handle().clone();
        let room = pool.status().max_size - settings.lanes;
        let direct = Direct::new(&executor, connector(0), room, ways, closed);
        Ok(RedisBackend {
            lanes,
            direct,
            wakeups,
            pool,
            acl_rule: scripts::acl_rule(&settings.key_prefix, &channel_prefix),
            executor: Arc::new(OnTokio(executor)),
            closing,
            _thread: thread.run(tasks.into_iter().map(lane::Task::run)),
        })
    }

    /// The pool the connections are checked out of: for its [status](Pool::status), and to resize it.
    ///
    /// Its connections are meant for the lock. One that is checked out by somebody else is not used again.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The tokio runtime on the thread of the backend: for its metrics, and to run there what must not
    /// stop when callers block their threads.
    pub fn handle(&self) -> &Handle {
        &self.executor.0
    }

    /// The lane of the keys with this `hash`: always the same, so that whatever concerns one key stays in order.
    fn lane_of(&self, hash: u32) -> usize {
        hash as usize % self.lanes.len()
    }

    /// The lane of `key`.
    fn lane(&self, key: &LockKey) -> &Lane {
        &self.lanes[self.lane_of(key.hash_value())]
    }

    /// The reply to a script for `key`, which is the question of its caller with this `number`.
    async fn ask(
        &self,
        key: &LockKey,
        number: AskNumber,
        call: Call,
        unheard: Unheard,
    ) -> Result<Reply, Fault> {
        let lane = self.lane(key);
        let turn = self.direct.turn(key, number, lane)?;
        let reply = match &turn.via {
            Some(live) => live.ask(call, unheard).await,
            None => lane.send(vec![call], unheard).reply().await,
        };
        if reply.is_ok() {
            turn.answered();
        }
        reply
    }

    /// Takes in where the claim stands.
    fn heard(&self, claim: &Claim, answer: &Acquired) {
        match answer {
            Acquired::Queued(_) => self.wakeups.queued(&claim.owner, &claim.key),
            _ if claim.queue => self.wakeups.left(claim.owner.as_str()),
            // It never stood in a queue.
            _ => {}
        }
    }

    fn error(&self, fault: Fault) -> BackendError {
        fault.explained(&self.acl_rule).into()
    }
}

impl Backend for RedisBackend {
    fn attach(&self, news: Weak<dyn News>) {
        self.wakeups.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let call = scripts::acquire(claim, self.lane(&claim.key).channel());
        let reply = self
            .ask(&claim.key, claim.number, call, Unheard::Skip)
            .await;
        let answer = decode(reply, &claim.key, |reply| {
            scripts::acquired(reply, claim.ttl)
        });
        let answer = answer.map_err(|fault| self.error(fault))?;
        self.heard(claim, &answer);
        Ok(answer)
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let mut batches = vec![Vec::new(); self.lanes.len()];
        for (index, lease) in leases.iter().enumerate() {
            batches[self.lane_of(lease.key.hash_value())].push(index);
        }
        // All are on their way before the first answer is waited for.
        let sent: Vec<_> = batches
            .iter()
            .zip(&self.lanes)
            .map(|(batch, lane)| {
                lane.send(
                    batch
                        .iter()
                        .map(|index| scripts::renew(&leases[*index]))
                        .collect(),
                    Unheard::Skip,
                )
            })
            .collect();

        let mut answers = Vec::with_capacity(leases.len());
        for (batch, sent) in batches.iter().zip(sent) {
            let replies = sent.replies().await;
            let replies = every(replies, batch.len());
            answers.extend(batch.iter().zip(replies).map(|(index, reply)| {
                let answer = decode(reply, &leases[*index].key, scripts::renewed);
                (*index, answer.map_err(|fault| self.error(fault)))
            }));
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let Release {
            key, owner, next, ..
        } = release;
        self.wakeups.left(owner.as_str());
        let next = next.as_ref();
        let call = scripts::release(key, owner, next, self.lane(key).channel());
        let reply = self.ask(key, release.number, call, Unheard::Run).await;
        let answer = decode(reply, key, |reply| scripts::released(reply, next));
        let answer = answer.map_err(|fault| self.error(fault))?;
        if let (Some(next), Released::Released(Some(claimed))) = (next, &answer) {
            self.heard(next, claimed);
        }
        Ok(answer)
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.wakeups.left(claim.owner.as_str());
        let call = scripts::abandon(claim, self.lane(&claim.key).channel());
        let reply = self.ask(&claim.key, claim.number, call, Unheard::Run).await;
        // Once more: an acquire that went ahead may have been answered since.
        self.wakeups.left(claim.owner.as_str());
        decode(reply, &claim.key, scripts::abandoned).map_err(|fault| self.error(fault))
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        Some(Arc::clone(&self.executor) as Arc<dyn Executor>)
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        for lane in &self.lanes {
            lane.closed().await;
        }
        self.pool.close();
    }
}

/// The answer in `reply` to a script for `key`.
fn decode<T>(
    reply: Result<Reply, Fault>,
    key: &LockKey,
    answer: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, Fault> {
    let reply = reply?.map_err(|error| Fault::of_reply(error, key))?;
    answer(&reply).ok_or_else(|| Fault::bad_reply(&reply))
}

/// What each of `count` calls got, where they may all have got the same fault.
fn every(replies: Result<Replies, Fault>, count: usize) -> Vec<Result<Reply, Fault>> {
    match replies {
        Ok(replies) => replies.into_iter().map(Ok).collect(),
        Err(fault) => vec![Err(fault); count],
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("lanes", &self.lanes.len())
            .field("queued", &self.wakeups.count())
            .field("pool", &self.pool.status())
            .finish_non_exhaustive()
    }
}
