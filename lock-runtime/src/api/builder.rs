//! Configuring a runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::LockKey;
use tokio::runtime::Handle;

use crate::api::runtime::LockRuntime;
use crate::backend::raised::Raised;
use crate::backend::{Backend, ErasedBackend};
use crate::backoff::Retry;
use crate::engine::Engine;
use crate::error::LockError;
use crate::executor::Executor;
use crate::observe::Observer;
use crate::settings::Settings;
#[cfg(feature = "consul")]
use crate::stores::consul::{ConsulBackend, ConsulSettings, ConsulTls};
#[cfg(feature = "etcd")]
use crate::stores::etcd::{EtcdBackend, EtcdSettings, EtcdTls};
#[cfg(feature = "redis")]
use crate::stores::redis::{ForeignGap, RedisBackend, RedisSettings};
#[cfg(feature = "redis")]
use crate::stores::redlock::{RedlockBackend, RedlockSettings};

/// The configuration of a runtime, made by one of the constructors of [`LockRuntime`].
///
/// Every setting has a default that suits most services. Settings are checked by
/// [`build`](LockRuntimeBuilder::build).
#[must_use = "a builder does nothing until it is built"]
pub struct LockRuntimeBuilder {
    source: Source,
    settings: Settings,
    #[cfg(feature = "redis")]
    redis: RedisSettings,
    #[cfg(feature = "redis")]
    restart_delay: Option<Duration>,
    #[cfg(any(feature = "redis", feature = "etcd", feature = "consul"))]
    lazily: bool,
}

/// Where the locks are.
enum Source {
    Backend(Arc<dyn ErasedBackend>),
    #[cfg(feature = "redis")]
    Redis(Box<deadpool_redis::Config>),
    #[cfg(feature = "redis")]
    Redlock(Vec<deadpool_redis::Config>),
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdSettings>),
    #[cfg(feature = "consul")]
    Consul(Box<ConsulSettings>),
    Fault(LockError),
}

impl LockRuntimeBuilder {
    fn new(source: Source) -> LockRuntimeBuilder {
        LockRuntimeBuilder {
            source,
            settings: Settings::default(),
            #[cfg(feature = "redis")]
            redis: RedisSettings::default(),
            #[cfg(feature = "redis")]
            restart_delay: None,
            #[cfg(any(feature = "redis", feature = "etcd", feature = "consul"))]
            lazily: false,
        }
    }

    pub(crate) fn backend(backend: impl Backend) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Backend(Arc::new(backend)))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn config(config: deadpool_redis::Config) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Redis(Box::new(config)))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redis(url: String) -> LockRuntimeBuilder {
        LockRuntimeBuilder::config(deadpool_redis::Config::from_url(url))
    }

    #[cfg(feature = "etcd")]
    pub(crate) fn etcd(settings: EtcdSettings) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Etcd(Box::new(settings)))
    }

    #[cfg(feature = "consul")]
    pub(crate) fn consul(settings: ConsulSettings) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Consul(Box::new(settings)))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redlock(servers: Vec<deadpool_redis::Config>) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Redlock(servers))
    }

    /// A builder of which nothing becomes but this error.
    pub(crate) fn fault(error: LockError) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Fault(error))
    }

    /// What the names of all locks start with in the store; `lock:` if not set. Services that share
    /// a store and a prefix share their locks.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> LockRuntimeBuilder {
        self.settings.key_prefix = prefix.into();
        self
    }

    /// The ttl of locks that do not ask for one, from 10 ms to 24 h; 30 s if not set. Shorter frees
    /// the locks of a crashed process sooner, longer survives longer outages of the store.
    pub fn default_ttl(mut self, ttl: Duration) -> LockRuntimeBuilder {
        self.settings.default_ttl = ttl;
        self
    }

    /// The wait of locks that do not set one; 10 s if not set. Zero tries once.
    pub fn default_wait(mut self, wait: Duration) -> LockRuntimeBuilder {
        self.settings.default_wait = wait;
        self
    }

    /// The period of the watchdog, from 1 ms to half of the default ttl; a tenth of each lock's ttl
    /// if not set, and for locks whose ttl is shorter than twice this.
    pub fn renew_every(mut self, period: Duration) -> LockRuntimeBuilder {
        self.settings.renew_every = Some(period);
        self
    }

    /// What owner tokens start with, a UUID v4 if not set: for instance the name of the host, for
    /// whoever looks into the store. The runtime appends a suffix that is unique to the claim. The
    /// function runs where the claims are made: it must not block.
    pub fn owner_tokens(
        mut self,
        tokens: impl Fn(&LockKey) -> String + Send + Sync + 'static,
    ) -> LockRuntimeBuilder {
        self.settings.owner_tokens = Some(Arc::new(tokens));
        self
    }

    /// How to go on when the store does not answer; if not set, after pauses of 50 ms to 1 s for as
    /// long as somebody waits. The policy runs where the claims are made: it must not block.
    pub fn retry(mut self, retry: impl Retry) -> LockRuntimeBuilder {
        self.settings.retry = Arc::new(retry);
        self
    }

    /// How long the answer to one question may take; 1 s if not set. Renewals take at most a
    /// quarter of the ttl.
    pub fn command_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.settings.command_timeout = timeout;
        self
    }

    /// How long [`shutdown`](LockRuntime::shutdown) waits for guards; 30 s if not set.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// How long a lock that was handed to a waiting process is that process's until it shows a sign
    /// of life by a first renewal; 1 s if not set, and never longer than the ttl. It bounds what a
    /// process costs that dies in this instant. Raise it where processes pause for longer.
    pub fn grace(mut self, grace: Duration) -> LockRuntimeBuilder {
        self.settings.grace = grace;
        self
    }

    /// How often a waiter asks although nothing was heard; 10 s if not set. It bounds what a lost
    /// wake-up costs, beside the ttl of the holder. Lower it where connections break often, raise
    /// it where tens of thousands of processes wait.
    pub fn heartbeat(mut self, heartbeat: Duration) -> LockRuntimeBuilder {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// How often at the most a lock is passed on within this process, without asking the store;
    /// 1,000 if not set.
    ///
    /// Where other processes may wait it is passed on twice for each task of this process that
    /// waited when its first holder ended, so that all tasks have the same share, whatever their
    /// process. Lower it for the latency of other processes; 0 passes every lock through the store.
    pub fn local_passes(mut self, passes: u32) -> LockRuntimeBuilder {
        self.settings.local_passes = passes;
        self
    }

    /// For which share of its ttl a lock is passed on within this process, from 0 to 1; 0.1 if not
    /// set. The second bound beside [`local_passes`](LockRuntimeBuilder::local_passes), for bodies
    /// that take long: lower it where other processes wait too long, 0 passes every lock through
    /// the store.
    pub fn local_share(mut self, share: f64) -> LockRuntimeBuilder {
        self.settings.local_share = share;
        self
    }

    /// What is added to every fencing token; 0 if not set. For who changes the store, or restores
    /// an old one: what compares tokens refuses those that are smaller than the largest that it has
    /// seen, so set it to that. It must not be lowered again. At most 2^52.
    pub fn fence_floor(mut self, floor: u64) -> LockRuntimeBuilder {
        self.settings.fence_floor = floor;
        self
    }

    /// Makes a ttl that the store does not keep as it is an error with [`LockError::Config`]; if
    /// not set, the store keeps it for longer, where it has to, which delays only the takeover
    /// after a crash: see [`takeover_after`](LockRuntime::takeover_after).
    pub fn exact_ttl(mut self, exact: bool) -> LockRuntimeBuilder {
        self.settings.exact_ttl = exact;
        self
    }

    /// What this service is called on the card of its process; the name of the program if not set.
    pub fn service(mut self, name: impl Into<String>) -> LockRuntimeBuilder {
        self.settings.service = Some(name.into());
        self
    }

    /// Whether the process says in the store, every 10 s, which service it is, on which host, and
    /// which locks it has held for longer than a second, as it does if this is not set: it is what
    /// [`processes`](LockRuntime::processes) and [`inspect`](LockRuntime::inspect) tell. It ends
    /// with the process, at most 30 s later.
    pub fn process_card(mut self, leaves: bool) -> LockRuntimeBuilder {
        self.settings.process_card = leaves;
        self
    }

    /// Tells `observer` of everything that happens to the locks of this runtime and to its store:
    /// see
    /// [`observe`](crate::observe). Several are told one after the other.
    pub fn observer(mut self, observer: impl Observer) -> LockRuntimeBuilder {
        self.settings.observers.add(Arc::new(observer));
        self
    }

    /// How long a caller waits for its lock until that is worth a line in the log; 2 s if not set.
    #[cfg(feature = "tracing")]
    pub fn slow_wait(mut self, wait: Duration) -> LockRuntimeBuilder {
        self.settings.observers.slow_wait = wait;
        self
    }

    /// Whether spans and log lines name keys, as they do if it is not set. Else each has a hash in
    /// its place, the same in all processes that were built with the same version of Rust. It is no
    /// protection of keys that can be guessed.
    #[cfg(feature = "tracing")]
    pub fn log_keys(mut self, keys: bool) -> LockRuntimeBuilder {
        self.settings.observers.log_keys = keys;
        self
    }

    /// How many connections the commands are spread over; 1 if not set, which is the fastest until
    /// it fills a core: raise it where the thread `lock-runtime` does. Each tokio runtime gets one
    /// more, if the pool has room. No effect on other stores than Redis.
    #[cfg(feature = "redis")]
    pub fn lanes(mut self, lanes: usize) -> LockRuntimeBuilder {
        self.redis.lanes = lanes;
        self
    }

    /// Leaves a lock for which others wait free for `gap` before it is handed over, at most once in
    /// `every`, so that other libraries can take it, which ask again and again and stand in no
    /// queue: redis-py sleeps 100 ms in between, so 150 ms will do. Off if not set: then they have
    /// the lock when nobody of ours wants it. It costs those who wait here `gap / every` of their
    /// time. Set it in all processes that use the lock. From 1 ms on, and shorter than `every`,
    /// which is 24 h at most.
    ///
    /// Only whoever had the lock alone leaves a gap: the end of a share, of a permit or of a shard
    /// leaves none.
    ///
    /// It is for locks on one Redis server: elsewhere [`build`](LockRuntimeBuilder::build) says
    /// [`LockError::Config`].
    #[cfg(feature = "redis")]
    pub fn foreign_gap(mut self, every: Duration, gap: Duration) -> LockRuntimeBuilder {
        self.redis.foreign_gap = Some(ForeignGap { every, gap });
        self
    }

    /// For tests: how often the process leaves its card.
    #[cfg(feature = "redis")]
    #[doc(hidden)]
    pub fn card_every(mut self, period: Duration) -> LockRuntimeBuilder {
        self.redis.card_every = period;
        self
    }

    /// How many connections there may be in all, from [`lanes`](LockRuntimeBuilder::lanes) to
    /// 65,536. If not set, it is what the configuration says of its pool; if that says nothing,
    /// there is room for 32 tokio runtimes beside the lanes, on every machine. No effect on other
    /// stores than Redis.
    #[cfg(feature = "redis")]
    pub fn pool_size(mut self, connections: usize) -> LockRuntimeBuilder {
        self.redis.pool_size = Some(connections);
        self
    }

    /// How long it may take to open a connection, from 1 ms to 1 h; 1 s if not set. No effect on
    /// other stores than Redis.
    #[cfg(feature = "redis")]
    pub fn connect_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.redis.connect_timeout = timeout;
        self
    }

    /// PEM certificates of the authorities to trust for `rediss://`, instead of those of the
    /// system. No effect on other stores than Redis.
    #[cfg(feature = "tls")]
    pub fn tls_root_certificates(mut self, pem: impl Into<Vec<u8>>) -> LockRuntimeBuilder {
        self.redis.tls_root_certificates = Some(pem.into());
        self
    }

    /// The certificate in PEM format by which a server of `rediss://` knows its clients, with those
    /// that vouch for it, and its private key. No effect on other stores than Redis.
    #[cfg(feature = "tls")]
    pub fn tls_client_certificate(
        self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> LockRuntimeBuilder {
        self.tls_client(certificate.into())
            .tls_client_key(key.into())
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls_client(mut self, certificate: Vec<u8>) -> LockRuntimeBuilder {
        self.redis.tls_client_certificate = Some(certificate);
        self
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls_client_key(mut self, key: Vec<u8>) -> LockRuntimeBuilder {
        self.redis.tls_client_key = Some(key.into());
        self
    }

    /// The user of etcd, where it wants one. No effect on other stores than etcd.
    #[cfg(feature = "etcd")]
    pub fn etcd_user(
        mut self,
        name: impl Into<String>,
        password: impl Into<String>,
    ) -> LockRuntimeBuilder {
        if let Source::Etcd(etcd) = &mut self.source {
            etcd.user = Some((name.into(), password.into()));
        }
        self
    }

    /// How to speak TLS to etcd; without it endpoints that say `https` are spoken to with the
    /// authorities of the system. No effect on other stores than etcd.
    #[cfg(feature = "etcd")]
    pub fn etcd_tls(mut self, tls: EtcdTls) -> LockRuntimeBuilder {
        if let Source::Etcd(etcd) = &mut self.source {
            etcd.tls = Some(tls);
        }
        self
    }

    /// The secret of an ACL token of Consul, where it wants one. No effect on other stores than
    /// Consul.
    #[cfg(feature = "consul")]
    pub fn consul_token(mut self, secret: impl Into<String>) -> LockRuntimeBuilder {
        if let Source::Consul(consul) = &mut self.source {
            consul.token = Some(secret.into());
        }
        self
    }

    /// How to speak TLS to Consul; without it agents that say `https` are spoken to with the
    /// authorities of the system. No effect on other stores than Consul.
    #[cfg(feature = "consul")]
    pub fn consul_tls(mut self, tls: ConsulTls) -> LockRuntimeBuilder {
        if let Source::Consul(consul) = &mut self.source {
            consul.tls = Some(tls);
        }
        self
    }

    /// Lets [`build`](LockRuntimeBuilder::build) succeed without a server: for services that start
    /// before their store. No effect in memory, and on stores of your own.
    #[cfg(any(feature = "redis", feature = "etcd", feature = "consul"))]
    pub fn connect_lazily(mut self) -> LockRuntimeBuilder {
        self.lazily = true;
        self
    }

    /// For how long a server that may have lost its data votes for nobody, and the longest ttl that
    /// a lock may have; 30 s if not set. See
    /// [`RedlockSettings::restart_delay`](crate::redlock::RedlockSettings::restart_delay) for what
    /// it costs to turn it off by zero. No effect on other locks than those of
    /// [`redlock`](LockRuntime::redlock).
    #[cfg(feature = "redis")]
    pub fn restart_delay(mut self, delay: Duration) -> LockRuntimeBuilder {
        self.restart_delay = Some(delay);
        self
    }

    /// Checks the settings, connects, and checks the server.
    ///
    /// # Errors
    ///
    /// [`LockError::Config`] if a setting cannot be used;
    /// [`is_unavailable`](LockError::is_unavailable), within 5 s, if there is no server;
    /// [`is_denied`](LockError::is_denied) if it refuses, or is none of Redis 6.2 or newer and
    /// Valkey.
    pub async fn build(self) -> Result<LockRuntime, LockError> {
        let settings = self.settings.checked()?;
        let built_on = Handle::try_current().map_err(|_| {
            LockError::Config("a lock runtime must be built within a tokio runtime".to_owned())
        })?;
        #[cfg(feature = "redis")]
        if self.redis.foreign_gap.is_some()
            && !matches!(self.source, Source::Redis(_) | Source::Fault(_))
        {
            return Err(LockError::Config(
                "`foreign_gap` is for locks on one Redis server, and these are elsewhere"
                    .to_owned(),
            ));
        }
        let backend: Arc<dyn ErasedBackend> = match self.source {
            Source::Fault(error) => return Err(error),
            Source::Backend(backend) => backend,
            #[cfg(feature = "redis")]
            Source::Redis(config) => {
                let mut redis = self.redis;
                redis.key_prefix.clone_from(&settings.key_prefix);
                redis.command_timeout = settings.command_timeout;
                Arc::new(if self.lazily {
                    RedisBackend::connect_lazily(*config, redis)?
                } else {
                    RedisBackend::connect(*config, redis).await?
                })
            }
            #[cfg(feature = "redis")]
            Source::Redlock(servers) => {
                let mut redlock = RedlockSettings::of(self.redis);
                redlock.redis.key_prefix.clone_from(&settings.key_prefix);
                redlock.redis.command_timeout = settings.command_timeout;
                redlock.restart_delay = self.restart_delay.unwrap_or(redlock.restart_delay);
                redlock.allows(settings.default_ttl)?;
                Arc::new(if self.lazily {
                    RedlockBackend::connect_lazily(&servers, redlock)?
                } else {
                    RedlockBackend::connect(&servers, redlock).await?
                })
            }
            #[cfg(feature = "etcd")]
            Source::Etcd(mut etcd) => {
                etcd.key_prefix.clone_from(&settings.key_prefix);
                etcd.command_timeout = settings.command_timeout;
                Arc::new(if self.lazily {
                    EtcdBackend::connect_lazily(*etcd)?
                } else {
                    EtcdBackend::connect(*etcd).await?
                })
            }
            #[cfg(feature = "consul")]
            Source::Consul(mut consul) => {
                consul.key_prefix.clone_from(&settings.key_prefix);
                consul.command_timeout = settings.command_timeout;
                Arc::new(if self.lazily {
                    ConsulBackend::connect_lazily(*consul)?
                } else {
                    ConsulBackend::connect(*consul).await?
                })
            }
        };
        let settings = settings.on(backend.limits())?;
        let backend = match settings.fence_floor {
            0 => backend,
            floor => Arc::new(Raised::new(backend, floor)),
        };
        let executor = match backend.executor() {
            Some(own) => Executor::Backend(own),
            None => Executor::Caller { built_on },
        };
        Ok(LockRuntime {
            engine: Engine::new(backend, executor, settings),
        })
    }
}

/// Where the locks are.
impl LockRuntime {
    /// Locks on one Redis server: `redis://[user:password@]host[:port][/db]`, `rediss://…` (with
    /// the feature `tls`) or `unix://path`.
    #[cfg(feature = "redis")]
    pub fn redis(url: impl Into<String>) -> LockRuntimeBuilder {
        LockRuntimeBuilder::redis(url.into())
    }

    /// Locks held by a majority of several Redis servers that know nothing of each other: an odd
    /// number of URLs as [`redis`](LockRuntime::redis) takes them, 3 at least. The locks live on as
    /// long as a majority of the servers does, whichever it is.
    ///
    /// Servers that have never been seen before vote after
    /// [`restart_delay`](LockRuntimeBuilder::restart_delay): [`build`](LockRuntimeBuilder::build)
    /// does not wait for that, and claims do.
    ///
    /// ```no_run
    /// use lock_runtime::LockRuntime;
    ///
    /// # async fn example() -> Result<(), lock_runtime::LockError> {
    /// let urls = ["redis://one", "redis://two", "redis://three"];
    /// let locks = LockRuntime::redlock(urls).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "redis")]
    pub fn redlock(urls: impl IntoIterator<Item = impl Into<String>>) -> LockRuntimeBuilder {
        let servers = urls.into_iter().map(deadpool_redis::Config::from_url);
        LockRuntimeBuilder::redlock(servers.collect())
    }

    /// Locks on the Redis server of a deadpool configuration, whose pool settings are kept.
    #[cfg(feature = "redis")]
    pub fn from_config(config: deadpool_redis::Config) -> LockRuntimeBuilder {
        LockRuntimeBuilder::config(config)
    }

    /// Locks on etcd, 3.4 or newer: the members of a cluster, as `host:port`, `http://…` or
    /// `https://…`, of which one is asked at a time.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start() -> Result<(), lock_runtime::LockError> {
    /// use lock_runtime::LockRuntime;
    ///
    /// let members = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"];
    /// LockRuntime::etcd(members).build().await?.install()
    /// # }
    /// ```
    #[cfg(feature = "etcd")]
    pub fn etcd(endpoints: impl IntoIterator<Item = impl Into<String>>) -> LockRuntimeBuilder {
        LockRuntimeBuilder::etcd(EtcdSettings::new(endpoints))
    }

    /// Locks on Consul, 1.12 or newer: the agents, as `host:port`, `http://…` or `https://…`, of
    /// which one is asked at a time; the agent of the own machine is the best. A ttl is 60 s at the
    /// most.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start() -> Result<(), lock_runtime::LockError> {
    /// use lock_runtime::LockRuntime;
    ///
    /// LockRuntime::consul(["127.0.0.1:8500"]).build().await?.install()
    /// # }
    /// ```
    #[cfg(feature = "consul")]
    pub fn consul(endpoints: impl IntoIterator<Item = impl Into<String>>) -> LockRuntimeBuilder {
        LockRuntimeBuilder::consul(ConsulSettings::new(endpoints))
    }

    /// Locks within this process: for development, tests, and programs that have only one process.
    pub fn in_memory() -> LockRuntimeBuilder {
        LockRuntimeBuilder::backend(crate::stores::memory::MemoryBackend::new())
    }

    /// Locks on any store: your own, or a [`MemoryBackend`](crate::stores::memory::MemoryBackend)
    /// of which a test keeps a clone.
    pub fn backend(backend: impl Backend) -> LockRuntimeBuilder {
        LockRuntimeBuilder::backend(backend)
    }
}

impl fmt::Debug for LockRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRuntimeBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
