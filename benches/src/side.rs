//! The sides of a comparison: ours, and what else one would use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::{Config, Pool, Runtime};
use lock_peers::{Peer, Terms};
use lock_runtime::backend::{
    Acquired, Backend, Claim, Executor, Grant, LockKey, Release, Released,
};
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_runtime::{LockGuard, LockRuntime, LockRuntimeBuilder};
use redis::Cmd;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

use crate::bare::{self, Bare};
use crate::board::ALONE;
use crate::raw::{Commands, owner};
pub use crate::raw::{Failure, POLL, TTL, multiplexed};

/// rslock sleeps at random up to this between two tries; its own default is 200 ms, and 1 ms would
/// make it spin.
pub const RSLOCK_DELAY: Duration = Duration::from_millis(10);

/// How many permits and parts a lock has.
pub const PARTS: u32 = 16;

/// How many readers there may be: as many as there are tasks.
pub const READERS: u64 = ALONE;

/// A way to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This crate, as it comes.
    Ours,
    /// This crate with local passing off: every hand-over goes through Redis.
    OursRemote,
    /// `ours`, with the tasks of the benchmark on the backend's own thread: no hand-over changes
    /// threads.
    OursInside,
    /// `ours-remote`, with the tasks of the benchmark on the backend's own thread.
    OursRemoteInside,
    /// The verbs of our backend, for locks that are free: what guard, local queue and watchdog cost
    /// is the difference.
    Backend,
    /// `SET NX PX` and a compare-and-delete by EVALSHA on one multiplexed connection.
    Raw,
    /// The raw commands, as many of them in one pipeline as there are tasks elsewhere: what they
    /// cost the server at the least.
    Pipeline,
    /// The raw commands, each on a connection from `pool.get()`.
    Pool,
    /// The crate rslock.
    Rslock,
    /// The crate rlock.
    Rlock,
    /// rueidislock, in a program of its own in Go.
    Rueidislock,
    /// Go's concurrency.Mutex on etcd, in a program of its own.
    Mutex,
    /// The transactions of ours on etcd by Go's client, in the same program, for locks that are
    /// free.
    EtcdRaw,
    /// Go's api.Lock on Consul, in a program of its own.
    ApiLock,
    /// The transactions of ours on Consul by Go's client, in the same program, for locks that are
    /// free.
    Bare,
    /// No lock at all.
    None,
    /// No lock either: the bare wake-up of a task by PUBLISH and a push.
    Publish,
    /// The same round a ring of processes, each one thread that blocks: no executor and no client
    /// library.
    Ring,
    /// This crate on a majority of five servers.
    Redlock,
    /// `redlock` with local passing off.
    RedlockRemote,
    /// `redlock` where two of the five refuse connections.
    RedlockTwoRefuse,
    /// `redlock` where two of the five do not answer.
    RedlockTwoHang,
    /// The raw commands on five servers at once, until three have answered.
    RedlockRaw,
    /// redsync on the same servers, in a program of its own in Go.
    Redsync,
    /// Our backend: a release with a next claim, which hands a lock of its own to the first of a
    /// queue, 16 long by default.
    HandOver,
    /// Readers, and now and then a writer.
    Shared,
    /// As many permits as there are parts.
    Permits,
    /// One lock in parts.
    Shards,
    /// The raw commands on as many keys.
    Parts,
    /// Our backend: one more permit, beside many that are taken.
    Crowd,
    /// Our backend: a permit that is handed on, with many that wait.
    CrowdQueue,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Ours => "ours",
            Side::OursRemote => "ours-remote",
            Side::OursInside => "ours-inside",
            Side::OursRemoteInside => "ours-remote-inside",
            Side::Rueidislock => "rueidislock",
            Side::Mutex => "mutex",
            Side::EtcdRaw => "etcd-raw",
            Side::ApiLock => "api-lock",
            Side::Bare => "bare",
            Side::Ring => "ring",
            Side::HandOver => "hand-over",
            Side::Backend => "backend",
            Side::Raw => "raw",
            Side::Pipeline => "pipeline",
            Side::Pool => "pool",
            Side::Rslock => "rslock",
            Side::Rlock => "rlock",
            Side::None => "none",
            Side::Publish => "publish",
            Side::Shared => "shared",
            Side::Permits => "permits",
            Side::Shards => "shards",
            Side::Parts => "parts",
            Side::Crowd => "crowd",
            Side::CrowdQueue => "crowd-queue",
            Side::Redlock => "redlock",
            Side::RedlockRemote => "redlock-remote",
            Side::RedlockTwoRefuse => "redlock-two-refuse",
            Side::RedlockTwoHang => "redlock-two-hang",
            Side::RedlockRaw => "redlock-raw",
            Side::Redsync => "redsync",
        }
    }

    pub async fn connect(self, url: &str) -> Result<Client, Failure> {
        Ok(match self {
            Side::Ours => Client::Ours(builder(url).build().await?, None),
            Side::OursRemote => {
                let locks = builder(url).local_passes(0);
                Client::Ours(locks.build().await?, None)
            }
            Side::OursInside | Side::OursRemoteInside => {
                let backend = backend(url).await?;
                let executor = backend.executor();
                let mut locks = LockRuntime::backend(backend);
                if self == Side::OursRemoteInside {
                    locks = locks.local_passes(0);
                }
                Client::Ours(locks.build().await?, executor)
            }
            Side::Backend => Client::Backend(Arc::new(backend(url).await?)),
            Side::Raw | Side::Pipeline | Side::Parts => {
                let mut connection = multiplexed(url).await?;
                let commands = Arc::new(Commands::load(&mut connection).await?);
                match self {
                    Side::Parts => Client::Parts(connection, commands, Arc::default()),
                    _ => Client::Raw(connection, commands),
                }
            }
            Side::Shared | Side::Permits | Side::Shards => {
                let locks = builder(url).build().await?;
                Client::Together(locks, self, Arc::default())
            }
            Side::Pool => {
                let pool = Config::from_url(url).create_pool(Some(Runtime::Tokio1))?;
                let commands = Commands::load(&mut pool.get().await?).await?;
                Client::Pool(pool, Arc::new(commands))
            }
            Side::Rslock => peer(Peer::Rslock, url).await?,
            Side::Rlock => peer(Peer::Rlock, url).await?,
            Side::None => Client::None,
            Side::Redlock | Side::RedlockTwoRefuse | Side::RedlockTwoHang => {
                Client::Ours(on_nodes(url).build().await?, None)
            }
            Side::RedlockRemote => {
                let locks = on_nodes(url).local_passes(0);
                Client::Ours(locks.build().await?, None)
            }
            Side::RedlockRaw => Client::Nodes(Bare::connect(url).await?),
            Side::Rueidislock
            | Side::Redsync
            | Side::Mutex
            | Side::EtcdRaw
            | Side::ApiLock
            | Side::Bare
            | Side::Publish
            | Side::Ring
            | Side::HandOver
            | Side::Crowd
            | Side::CrowdQueue => {
                return Err("no client of this process".into());
            }
        })
    }
}

/// A competitor that waits for as long as it takes.
async fn peer(peer: Peer, url: &str) -> Result<Client, Failure> {
    let client = peer.connect(url, Some(RSLOCK_DELAY)).await?;
    Ok(Client::Peer(client, Terms::new(TTL, None, Some(POLL))?))
}

/// Our runtime as it comes.
fn builder(url: &str) -> LockRuntimeBuilder {
    match url.split_once("://") {
        Some(("etcd", members)) => LockRuntime::etcd(members.split(',')),
        Some(("consul", agents)) => LockRuntime::consul(agents.split(',')),
        _ => LockRuntime::redis(url),
    }
}

/// Our runtime on several servers that vote, which have just started and so know nothing.
fn on_nodes(urls: &str) -> LockRuntimeBuilder {
    LockRuntime::redlock(urls.split(',')).restart_delay(Duration::ZERO)
}

/// Our backend as it comes.
pub async fn backend(url: &str) -> Result<RedisBackend, Failure> {
    Ok(RedisBackend::connect(Config::from_url(url), RedisSettings::default()).await?)
}

/// A claim for our backend, ready to wait.
pub fn claim(key: &LockKey) -> Claim {
    Claim::new(key.clone(), owner(), TTL).queued()
}

/// The client of one process.
#[derive(Clone)]
pub enum Client {
    /// And where its tasks are to run, if not on the caller's runtime.
    Ours(LockRuntime, Option<Arc<dyn Executor>>),
    Backend(Arc<RedisBackend>),
    /// With how many locks were asked for.
    Together(LockRuntime, Side, Arc<AtomicU64>),
    Parts(MultiplexedConnection, Arc<Commands>, Arc<AtomicU64>),
    Raw(MultiplexedConnection, Arc<Commands>),
    Pool(Pool, Arc<Commands>),
    Peer(lock_peers::Client, Terms),
    Nodes(Bare),
    None,
}

/// A lock that is held.
pub enum Held {
    Ours(LockGuard),
    /// And for how many there is room.
    Together(LockGuard, u64),
    Part(MultiplexedConnection, Cmd),
    Backend(Arc<RedisBackend>, Claim, Grant),
    Raw(MultiplexedConnection, Cmd),
    Pool(Pool, Cmd),
    Peer(lock_peers::Guard),
    Nodes(bare::Held),
    None,
}

impl Client {
    /// Waits for the lock on `key`, for as long as it takes.
    pub async fn acquire(&self, key: &str) -> Result<Held, Failure> {
        Ok(match self {
            Client::Ours(locks, _) => Held::Ours(locks.lock(key).wait(WAIT).acquire().await?),
            Client::Backend(backend) => {
                let claim = claim(&LockKey::new("lock:", key)?);
                match backend.acquire(&claim).await? {
                    Acquired::Granted(grant) => Held::Backend(backend.clone(), claim, grant),
                    _ => return Err("the lock is not free".into()),
                }
            }
            Client::Together(locks, side, asked) => {
                let lock = locks.lock(key).wait(WAIT);
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let (lock, room) = match side {
                    Side::Shared if number % 100 == 99 => {
                        return Ok(Held::Ours(lock.acquire().await?));
                    }
                    Side::Shared => (lock.shared(), READERS),
                    Side::Permits => (lock.permits(PARTS), PARTS.into()),
                    _ => (lock.shards(PARTS), PARTS.into()),
                };
                Held::Together(lock.acquire().await?, room)
            }
            Client::Parts(connection, commands, asked) => {
                let mut connection = connection.clone();
                let part = asked.fetch_add(1, Ordering::Relaxed) % u64::from(PARTS);
                let (take, give) = commands.of_claim(&format!("{key}:{part}"));
                while take
                    .query_async::<Option<String>>(&mut connection)
                    .await?
                    .is_none()
                {
                    tokio::time::sleep(POLL).await;
                }
                Held::Part(connection, give)
            }
            Client::Raw(connection, commands) => {
                let mut connection = connection.clone();
                let (take, give) = commands.of_claim(key);
                while take
                    .query_async::<Option<String>>(&mut connection)
                    .await?
                    .is_none()
                {
                    tokio::time::sleep(POLL).await;
                }
                Held::Raw(connection, give)
            }
            Client::Pool(pool, commands) => {
                let (take, give) = commands.of_claim(key);
                while take
                    .query_async::<Option<String>>(&mut pool.get().await?)
                    .await?
                    .is_none()
                {
                    tokio::time::sleep(POLL).await;
                }
                Held::Pool(pool.clone(), give)
            }
            Client::Peer(client, terms) => Held::Peer(client.acquire(key, terms).await?),
            Client::Nodes(bare) => Held::Nodes(bare.acquire(key).await?),
            Client::None => Held::None,
        })
    }

    /// Where the tasks are to run, if not on the caller's runtime.
    pub fn executor(&self) -> Option<Arc<dyn Executor>> {
        match self {
            Client::Ours(_, executor) => executor.clone(),
            _ => None,
        }
    }

    /// Ends what runs in the background.
    pub async fn close(self) -> Result<(), Failure> {
        match self {
            Client::Ours(locks, _) | Client::Together(locks, ..) => locks.shutdown().await?,
            Client::Backend(backend) => backend.close().await,
            Client::Peer(client, _) => client.close().await,
            _ => {}
        }
        Ok(())
    }
}

impl Held {
    /// For how many there is room with this lock; `None`: for its holder alone.
    pub fn room(&self) -> Option<u64> {
        match self {
            Held::Together(_, room) => Some(*room),
            Held::Part(..) => Some(PARTS.into()),
            _ => None,
        }
    }

    /// The fencing token, on the sides that have one.
    pub fn fence(&self) -> Option<u64> {
        match self {
            Held::Ours(guard) => Some(guard.fencing_token().as_u64()),
            Held::Backend(_, _, grant) => Some(grant.tokens.first.as_u64()),
            _ => None,
        }
    }

    pub async fn release(self) -> Result<(), Failure> {
        match self {
            Held::Ours(guard) | Held::Together(guard, _) => guard.release().await?,
            Held::Backend(backend, claim, _) => {
                let release = Release::new(claim.key, claim.owner);
                let outcome = backend.release(&release).await?;
                released(outcome != Released::NotHeld)?;
            }
            Held::Raw(mut connection, give) | Held::Part(mut connection, give) => {
                let deleted: u32 = give.query_async(&mut connection).await?;
                released(deleted == 1)?;
            }
            Held::Pool(pool, give) => {
                let deleted: u32 = give.query_async(&mut pool.get().await?).await?;
                released(deleted == 1)?;
            }
            Held::Peer(guard) => guard.release().await?,
            Held::Nodes(held) => held.release().await?,
            Held::None => tokio::task::yield_now().await,
        }
        Ok(())
    }
}

/// Long enough for whoever is served at all.
const WAIT: Duration = Duration::from_secs(120);

fn released(was_held: bool) -> Result<(), Failure> {
    match was_held {
        true => Ok(()),
        false => Err("the lock was not held when it was released".into()),
    }
}
