//! The runtime: one configuration, its store, and the engine that performs the protocol on it.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::LockError;
use crate::settings::kept_for;

/// What annotated functions acquire their locks from: a backend, its connections, a watchdog and
/// the defaults.
///
/// Build it once at startup, and [install](LockRuntime::install) it for the whole process or pass
/// it around. Cloning is cheap, and all clones are the same runtime.
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
    /// Longest time that others wait for a lock with this `ttl` after its process died.
    ///
    /// It is the ttl as the store keeps it, the time to notice its end, and the time for which the
    /// store keeps others out after that. If the leader of etcd or Consul changes meanwhile, it may
    /// be twice as long.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let ttl = std::time::Duration::from_secs(5);
    /// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// assert_eq!(locks.takeover_after(ttl), ttl);
    /// # Ok(())
    /// # }
    /// ```
    pub fn takeover_after(&self, ttl: Duration) -> Duration {
        let limits = self.engine.backend.limits();
        let delay = if limits.lock_delay {
            ttl
        } else {
            Duration::ZERO
        };
        kept_for(&limits, ttl).saturating_add(limits.lateness.saturating_add(delay))
    }

    /// Ends the runtime: refuses new claims, withdraws waiting ones, renews held locks until their
    /// guards end, and closes the connections.
    ///
    /// It waits for guards for the
    /// [`shutdown_timeout`](crate::LockRuntimeBuilder::shutdown_timeout). Then withdrawals and
    /// releases, and the closing of the connections, have one
    /// [`command_timeout`](crate::LockRuntimeBuilder::command_timeout) each. If the store does not
    /// answer, locks end with their ttl.
    ///
    /// # Errors
    ///
    /// [`LockError::StillHeld`] if guards were left after the `shutdown_timeout`. Their locks end
    /// with their ttl.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, new claims stay refused. It may be called again.
    pub async fn shutdown(&self) -> Result<(), LockError> {
        self.engine.shut_down().await
    }
}

impl AsRef<LockRuntime> for LockRuntime {
    fn as_ref(&self) -> &LockRuntime {
        self
    }
}
