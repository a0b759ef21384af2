//! The runtime: one configuration, its store, and the engine that performs the protocol on it.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::LockError;
use crate::settings::kept_for;

/// What annotated functions acquire their locks from: a backend, its connections, a watchdog and
/// the defaults.
///
/// Built once at startup and [installed](LockRuntime::install) for the whole process, or passed
/// around. Cloning is cheap, and all clones are the same runtime.
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
    /// How long others wait for a lock of this `ttl` at most after its process died: the ttl as the
    /// store keeps it, what it takes to notice, and for how long the store keeps others out after
    /// that. Where the leader of etcd or Consul changes meanwhile it may be twice that.
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
    /// [`LockError::StillHeld`] if guards were left after the `shutdown_timeout`. Their locks end
    /// with their ttl.
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
