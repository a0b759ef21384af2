//! The runtime: one configuration, its backend and its watchdog.

use std::future::Future;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use crate::backend::Backend;
use crate::builder::LockRuntimeBuilder;
use crate::engine::Engine;
use crate::environment;
use crate::error::LockError;
use crate::lock::Lock;
use crate::run::Frame;

static GLOBAL: OnceCell<LockRuntime> = OnceCell::new();

tokio::task_local! {
    static SCOPED: Scope;
}

/// The place of a runtime given to a task.
struct Scope {
    runtime: LockRuntime,
    /// The innermost body that the scope was opened in.
    within: Option<Arc<Frame>>,
}

impl Scope {
    /// Whether no body began within the scope that is still being polled: `body` is the innermost
    /// of all.
    fn is_inside(&self, body: &Arc<Frame>) -> bool {
        let within = self.within.as_ref();
        within.is_some_and(|within| Arc::ptr_eq(within, body))
    }
}

/// What annotated functions acquire their locks from: a backend, its connections, a watchdog and the defaults.
///
/// Built once at startup and [installed](LockRuntime::install) for the whole process, or passed around. Cloning is cheap, and all clones are
/// the same runtime.
///
/// # Examples
///
/// ```no_run
/// use lock_runtime::LockRuntime;
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     LockRuntime::redis("redis://127.0.0.1/").build().await?.install()?;
///     // … serve …
///     LockRuntime::global()?.shutdown().await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct LockRuntime {
    pub(crate) engine: Arc<Engine>,
}

impl LockRuntime {
    /// Locks on one Redis server: `redis://[user:password@]host[:port][/db]`, `rediss://…` (with the feature `tls`) or `unix://path`.
    #[cfg(feature = "redis")]
    pub fn redis(url: impl Into<String>) -> LockRuntimeBuilder {
        LockRuntimeBuilder::redis(url.into())
    }

    /// Locks on the Redis server of a deadpool configuration, whose pool settings are kept.
    #[cfg(feature = "redis")]
    pub fn from_config(config: deadpool_redis::Config) -> LockRuntimeBuilder {
        LockRuntimeBuilder::config(config)
    }

    /// Locks within this process: for development, tests, and programs that have only one process.
    pub fn in_memory() -> LockRuntimeBuilder {
        LockRuntimeBuilder::backend(crate::memory::MemoryBackend::new())
    }

    /// Locks on any store: your own, or a [`MemoryBackend`](crate::memory::MemoryBackend) of which a test keeps a clone.
    pub fn backend(backend: impl Backend) -> LockRuntimeBuilder {
        LockRuntimeBuilder::backend(backend)
    }

    /// A runtime as the environment describes it.
    ///
    /// | variable | what it sets |
    /// |---|---|
    /// | `LOCK_URL` | the store: `redis://…`, `rediss://…`, `unix://…` or `memory:`; required |
    /// | `LOCK_PREFIX` | [`key_prefix`](LockRuntimeBuilder::key_prefix) |
    /// | `LOCK_TTL` | [`default_ttl`](LockRuntimeBuilder::default_ttl) |
    /// | `LOCK_WAIT` | [`default_wait`](LockRuntimeBuilder::default_wait) |
    /// | `LOCK_RENEW_EVERY` | [`renew_every`](LockRuntimeBuilder::renew_every) |
    /// | `LOCK_COMMAND_TIMEOUT` | [`command_timeout`](LockRuntimeBuilder::command_timeout) |
    /// | `LOCK_SHUTDOWN_TIMEOUT` | [`shutdown_timeout`](LockRuntimeBuilder::shutdown_timeout) |
    /// | `LOCK_GRACE` | [`grace`](LockRuntimeBuilder::grace) |
    /// | `LOCK_HEARTBEAT` | [`heartbeat`](LockRuntimeBuilder::heartbeat) |
    /// | `LOCK_LOCAL_PASSES` | [`local_passes`](LockRuntimeBuilder::local_passes) |
    /// | `LOCK_LOCAL_SHARE` | [`local_share`](LockRuntimeBuilder::local_share) |
    /// | `LOCK_LANES` | `lanes`, with the feature `redis` |
    /// | `LOCK_CONNECT_LAZILY` | `connect_lazily`: `true` or `false`, with the feature `redis` |
    /// | `LOCK_TLS_ROOT_CERTIFICATES` | `tls_root_certificates`: the path of the file, with the feature `tls` |
    ///
    /// A duration is text, as in `500ms`, `5s` or `1m 30s`. What is set on the builder afterwards
    /// counts more than the environment. A value that cannot be used is an error of
    /// [`build`](LockRuntimeBuilder::build), and so is a missing `LOCK_URL`.
    pub fn from_env() -> LockRuntimeBuilder {
        environment::read(|name| std::env::var_os(name))
    }

    /// Makes this the runtime of the process, which annotated functions use.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyInstalled`] if there is one: two would not exclude each other.
    pub fn install(self) -> Result<(), LockError> {
        GLOBAL.set(self).map_err(|_| LockError::AlreadyInstalled)
    }

    /// The installed runtime.
    ///
    /// # Errors
    ///
    /// [`is_not_installed`](LockError::is_not_installed) if there is none.
    pub fn global() -> Result<LockRuntime, LockError> {
        GLOBAL.get().cloned().ok_or(LockError::NotInstalled)
    }

    /// The runtime that annotated functions called here would use, unless they name one.
    ///
    /// In the body of an annotated function, and of [`Lock::run`], that is the runtime of its own
    /// lock; in a [scope](LockRuntime::scope), that of the scope. Whichever is the innermost
    /// counts. Elsewhere it is the installed one.
    ///
    /// # Errors
    ///
    /// [`is_not_installed`](LockError::is_not_installed) if there is none.
    pub fn current() -> Result<LockRuntime, LockError> {
        let body = Frame::current();
        let scoped = SCOPED.try_with(|scope| {
            let innermost = body.as_ref().is_none_or(|body| scope.is_inside(body));
            innermost.then(|| scope.runtime.clone())
        });
        match (scoped, body) {
            (Ok(Some(runtime)), _) => Ok(runtime),
            (_, Some(body)) => Ok(body.runtime()),
            (_, None) => LockRuntime::global(),
        }
    }

    /// Runs `future` with `runtime` in the place of the installed one, so that tests run side by side.
    ///
    /// The scope is that of the task. It does not reach what is given to `tokio::spawn`, so neither
    /// the handlers of a running web server, which take a runtime by the attribute's `runtime =
    /// expression`. A test that calls a router by itself, as `Router::oneshot` does, runs the
    /// handler in the scope.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::{LockError, LockRuntime, distributed_lock};
    ///
    /// #[distributed_lock(key = "greeting")]
    /// async fn greet() -> Result<&'static str, LockError> {
    ///     Ok("hello")
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), LockError> {
    /// let locks = LockRuntime::in_memory().build().await?;
    /// assert_eq!(LockRuntime::scope(locks, greet()).await?, "hello");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scope<F: Future>(runtime: LockRuntime, future: F) -> F::Output {
        let within = Frame::current();
        SCOPED.scope(Scope { runtime, within }, future).await
    }

    /// A lock on `key`, to be acquired.
    ///
    /// The key is taken as it is. To share a lock with an annotated function whose key is a
    /// template, make the key by `key!("file:<name>")`: values are escaped in a template.
    pub fn lock(&self, key: impl Into<String>) -> Lock {
        Lock::new(self.engine.clone(), key.into())
    }

    /// Ends the runtime: refuses new claims, withdraws those that wait, keeps renewing what is held
    /// until the guards end, and closes the connections.
    ///
    /// Guards have the [`shutdown_timeout`](crate::LockRuntimeBuilder::shutdown_timeout). What is
    /// to be withdrawn or released then, and the connections, have a
    /// [`command_timeout`](crate::LockRuntimeBuilder::command_timeout) each: where the store is
    /// away, locks end with their ttl.
    ///
    /// # Errors
    ///
    /// [`LockError::StillHeld`] if guards were left after the `shutdown_timeout`. Their locks end with their ttl.
    ///
    /// # Cancel safety
    ///
    /// New claims stay refused if the future is dropped. It may be called again.
    pub async fn shutdown(&self) -> Result<(), LockError> {
        self.engine.shut_down().await
    }
}

impl AsRef<LockRuntime> for LockRuntime {
    fn as_ref(&self) -> &LockRuntime {
        self
    }
}
