//! The configuration of a runtime.

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
/// Every setting has a default that suits most services. [`build`](LockRuntimeBuilder::build)
/// checks the settings.
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

    /// A builder whose `build` returns this error.
    pub(crate) fn fault(error: LockError) -> LockRuntimeBuilder {
        LockRuntimeBuilder::new(Source::Fault(error))
    }

    /// Prefix of the names of all locks in the store. Default: `lock:`. Services that share a store
    /// and a prefix share their locks.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> LockRuntimeBuilder {
        self.settings.key_prefix = prefix.into();
        self
    }

    /// The ttl of locks that do not set one, from 10 ms to 24 h. Default: 30 s. A shorter ttl frees
    /// a crashed process's locks sooner. A longer one survives longer outages.
    pub fn default_ttl(mut self, ttl: Duration) -> LockRuntimeBuilder {
        self.settings.default_ttl = ttl;
        self
    }

    /// The wait of locks that do not set one. Default: 10 s. Zero tries once.
    pub fn default_wait(mut self, wait: Duration) -> LockRuntimeBuilder {
        self.settings.default_wait = wait;
        self
    }

    /// Period of renewals, from 1 ms to half of the default ttl. Default: a tenth of each lock's
    /// ttl, also where the ttl is shorter than twice this.
    pub fn renew_every(mut self, period: Duration) -> LockRuntimeBuilder {
        self.settings.renew_every = Some(period);
        self
    }

    /// Prefix of owner tokens. Default: a UUID v4. A host name helps whoever reads the store. The
    /// runtime appends a suffix that is unique to the claim. The function runs where claims are
    /// made, so it must not block.
    pub fn owner_tokens(
        mut self,
        tokens: impl Fn(&LockKey) -> String + Send + Sync + 'static,
    ) -> LockRuntimeBuilder {
        self.settings.owner_tokens = Some(Arc::new(tokens));
        self
    }

    /// Policy for retries after the store did not answer. Default: pauses of 50 ms to 1 s while
    /// somebody waits. The policy runs where claims are made, so it must not block.
    pub fn retry(mut self, retry: impl Retry) -> LockRuntimeBuilder {
        self.settings.retry = Arc::new(retry);
        self
    }

    /// Longest time that the answer to one question may take, from 10 ms to 24 h. Default: 1 s.
    /// Renewals take at most a quarter of the ttl.
    pub fn command_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.settings.command_timeout = timeout;
        self
    }

    /// Longest time that [`shutdown`](LockRuntime::shutdown) waits for guards. Default: 30 s. Set
    /// it below the time that your supervisor allows: Kubernetes allows 30 s for the whole
    /// shutdown.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// Lease of a lock that was just handed over, until its new owner renews it; from 10 ms to
    /// 24 h, at most the ttl. Default: 1 s. A process that dies at that moment costs this much.
    /// Raise it if processes pause for longer.
    pub fn grace(mut self, grace: Duration) -> LockRuntimeBuilder {
        self.settings.grace = grace;
        self
    }

    /// Interval at which a waiter asks again without news, from 10 ms to 24 h. Default: 10 s. It
    /// limits the cost of a lost wake-up, beside the ttl of the holder. Lower it if connections
    /// break often. Raise it if tens of thousands of processes wait.
    pub fn heartbeat(mut self, heartbeat: Duration) -> LockRuntimeBuilder {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Largest number of times that a lock is passed on within this process without asking the
    /// store, at most 10,000. Default: 1,000.
    ///
    /// If other processes may wait, it is passed on twice for each task of this process that waited
    /// when its first holder ended. So all tasks get the same share, in whichever process they are.
    /// Lower it for the latency of other processes. With 0, every lock passes through the store.
    pub fn local_passes(mut self, passes: u32) -> LockRuntimeBuilder {
        self.settings.local_passes = passes;
        self
    }

    /// Share of the ttl, from 0 to 1, during which a lock may be passed on within this process.
    /// Default: 0.1. It is a second limit beside
    /// [`local_passes`](LockRuntimeBuilder::local_passes), for bodies that take long. Lower it if
    /// other processes wait too long. With 0, every lock passes through the store.
    pub fn local_share(mut self, share: f64) -> LockRuntimeBuilder {
        self.settings.local_share = share;
        self
    }

    /// Offset added to every fencing token, at most 2^52. Default: 0. Set it to the largest token
    /// given before the store changed or was restored. Never lower it.
    pub fn fence_floor(mut self, floor: u64) -> LockRuntimeBuilder {
        self.settings.fence_floor = floor;
        self
    }

    /// Whether [`build`](LockRuntimeBuilder::build) and `acquire` refuse a ttl that the store would
    /// round up, with [`LockError::Config`]. Default: the store keeps the longer ttl. That delays
    /// only the takeover after a crash: see [`takeover_after`](LockRuntime::takeover_after).
    pub fn exact_ttl(mut self, exact: bool) -> LockRuntimeBuilder {
        self.settings.exact_ttl = exact;
        self
    }

    /// Name of this service on the card of its process. Default: the name of the program.
    pub fn service(mut self, name: impl Into<String>) -> LockRuntimeBuilder {
        self.settings.service = Some(name.into());
        self
    }

    /// Whether this process publishes a card every 10 s: service, host, and locks held for longer
    /// than 1 s. Default: true. [`processes`](LockRuntime::processes) and
    /// [`inspect`](LockRuntime::inspect) read it. It expires within 30 s of the process's end.
    pub fn process_card(mut self, leaves: bool) -> LockRuntimeBuilder {
        self.settings.process_card = leaves;
        self
    }

    /// Adds an `observer` of everything that happens to the locks of this runtime and to its store:
    /// see [`observe`](crate::observe). Several observers are called one after another.
    pub fn observer(mut self, observer: impl Observer) -> LockRuntimeBuilder {
        self.settings.observers.add(Arc::new(observer));
        self
    }

    /// Wait for a lock after which the log gets a line. Default: 2 s.
    #[cfg(feature = "tracing")]
    pub fn slow_wait(mut self, wait: Duration) -> LockRuntimeBuilder {
        self.settings.observers.slow_wait = wait;
        self
    }

    /// Whether spans and log lines contain keys. Default: true. With `false` they contain a hash of
    /// each key, which is the same in all processes that were built with the same version of Rust.
    /// The hash does not protect keys that can be guessed.
    #[cfg(feature = "tracing")]
    pub fn log_keys(mut self, keys: bool) -> LockRuntimeBuilder {
        self.settings.observers.log_keys = keys;
        self
    }

    /// Number of connections for commands. Default: 1. Raise it only if the thread `lock-runtime`
    /// fills a core. Each tokio runtime gets one more connection, if the pool has room. It has no
    /// effect on stores other than Redis.
    #[cfg(feature = "redis")]
    pub fn lanes(mut self, lanes: usize) -> LockRuntimeBuilder {
        self.redis.lanes = lanes;
        self
    }

    /// Leaves the lock free for `gap`, at most once per `every`, before a hand-over. Libraries that
    /// poll get a turn then. Default: off.
    ///
    /// While it is off, such libraries get the lock only when nobody waits for it here. The gap
    /// must be as long as their pause: redis-py sleeps 100 ms, so 150 ms is enough. It costs the
    /// waiters here `gap / every` of their time. Set it in all processes that use the lock. The gap
    /// is at least 1 ms and shorter than `every`, which is at most 24 h.
    ///
    /// Only the plain lock leaves a gap: the end of a share, of a permit or of a shard leaves none.
    ///
    /// It needs locks on one Redis server. On other stores [`build`](LockRuntimeBuilder::build)
    /// returns [`LockError::Config`].
    #[cfg(feature = "redis")]
    pub fn foreign_gap(mut self, every: Duration, gap: Duration) -> LockRuntimeBuilder {
        self.redis.foreign_gap = Some(ForeignGap { every, gap });
        self
    }

    /// For tests: the period at which the process writes its card.
    #[cfg(feature = "redis")]
    #[doc(hidden)]
    pub fn card_every(mut self, period: Duration) -> LockRuntimeBuilder {
        self.redis.card_every = period;
        self
    }

    /// Largest number of connections in all, from [`lanes`](LockRuntimeBuilder::lanes) to 65,536.
    /// Default: the size of the pool in the deadpool configuration, else room for 32 tokio runtimes
    /// beside the lanes, on every machine. It has no effect on stores other than Redis.
    #[cfg(feature = "redis")]
    pub fn pool_size(mut self, connections: usize) -> LockRuntimeBuilder {
        self.redis.pool_size = Some(connections);
        self
    }

    /// Longest time to open a connection, from 1 ms to 1 h. Default: 1 s. It has no effect on
    /// stores other than Redis.
    #[cfg(feature = "redis")]
    pub fn connect_timeout(mut self, timeout: Duration) -> LockRuntimeBuilder {
        self.redis.connect_timeout = timeout;
        self
    }

    /// Certificates of the authorities to trust, in PEM, for `rediss://`. Default: those of the
    /// system. It has no effect on stores other than Redis.
    #[cfg(feature = "tls")]
    pub fn tls_root_certificates(mut self, pem: impl Into<Vec<u8>>) -> LockRuntimeBuilder {
        self.redis.tls_root_certificates = Some(pem.into());
        self
    }

    /// Client certificate chain and private key, in PEM, for `rediss://`. It has no effect on
    /// stores other than Redis.
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

    /// User name and password for etcd. It has no effect on stores other than etcd.
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

    /// TLS settings for etcd. Default: `https` endpoints use the authorities of the system. It has
    /// no effect on stores other than etcd.
    #[cfg(feature = "etcd")]
    pub fn etcd_tls(mut self, tls: EtcdTls) -> LockRuntimeBuilder {
        if let Source::Etcd(etcd) = &mut self.source {
            etcd.tls = Some(tls);
        }
        self
    }

    /// Secret of an ACL token of Consul. It has no effect on stores other than Consul.
    #[cfg(feature = "consul")]
    pub fn consul_token(mut self, secret: impl Into<String>) -> LockRuntimeBuilder {
        if let Source::Consul(consul) = &mut self.source {
            consul.token = Some(secret.into());
        }
        self
    }

    /// TLS settings for Consul. Default: `https` agents use the authorities of the system. It has
    /// no effect on stores other than Consul.
    #[cfg(feature = "consul")]
    pub fn consul_tls(mut self, tls: ConsulTls) -> LockRuntimeBuilder {
        if let Source::Consul(consul) = &mut self.source {
            consul.tls = Some(tls);
        }
        self
    }

    /// Lets [`build`](LockRuntimeBuilder::build) succeed without a server, for services that start
    /// before their store. It has no effect in memory and on stores of your own.
    #[cfg(any(feature = "redis", feature = "etcd", feature = "consul"))]
    pub fn connect_lazily(mut self) -> LockRuntimeBuilder {
        self.lazily = true;
        self
    }

    /// Time during which a server that may have lost its data votes for nobody, and the longest ttl
    /// that a lock may have. Default: 30 s. Zero turns the rule off: see
    /// [`RedlockSettings::restart_delay`](crate::redlock::RedlockSettings::restart_delay) for the
    /// cost. It has no effect on locks other than those of [`redlock`](LockRuntime::redlock).
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
    /// [`is_denied`](LockError::is_denied) if the server refuses, or is not Valkey or Redis 6.2 or
    /// newer.
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

    /// Locks held by a majority of several Redis servers that know nothing of each other. It takes
    /// an odd number of URLs, at least 3, in the form of [`redis`](LockRuntime::redis). The locks
    /// survive as long as any majority of the servers does.
    ///
    /// New servers vote only after [`restart_delay`](LockRuntimeBuilder::restart_delay).
    /// [`build`](LockRuntimeBuilder::build) does not wait for that, but claims do.
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

    /// Locks on the Redis server of a deadpool configuration. Its pool settings are kept.
    #[cfg(feature = "redis")]
    pub fn from_config(config: deadpool_redis::Config) -> LockRuntimeBuilder {
        LockRuntimeBuilder::config(config)
    }

    /// Locks on etcd, 3.4 or newer: the members of a cluster, as `host:port`, `http://…` or
    /// `https://…`. One member is asked at a time.
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

    /// Locks on Consul, 1.12 or newer: the agents, as `host:port`, `http://…` or `https://…`. One
    /// agent is asked at a time; the agent of this machine is the best. A ttl is at most 60 s.
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
