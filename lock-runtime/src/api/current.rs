//! Which runtime annotated functions use: the installed one, or that of a scope.

use std::future::Future;
use std::sync::Arc;

use once_cell::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::api::frame::Frame;
use crate::api::runtime::LockRuntime;
use crate::error::LockError;

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

impl LockRuntime {
    /// Makes this the runtime of the process, which annotated functions use.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyInstalled`] if there is one already: two would not exclude each other.
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
    /// It is that of the innermost body or scope: in the body of an annotated function and of
    /// [`Lock::run`](crate::Lock::run), the runtime of its own lock; in a
    /// [scope](LockRuntime::scope), that of the scope. Elsewhere it is the installed one.
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

    /// Runs `future` with `runtime` instead of the installed one, so that tests can run side by
    /// side.
    ///
    /// The scope belongs to the task. [`LockRuntime::spawn`] inherits it. `tokio::spawn` does not
    /// inherit it, so handlers of a running web server do not either. They take a runtime by the
    /// attribute's `runtime = expression`. A test that calls a router directly, as
    /// `Router::oneshot` does, runs the handler in the scope.
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

    /// Spawns `future` on the tokio runtime of the caller, in the [scope](LockRuntime::scope) of
    /// the caller: annotated functions that it calls use the same runtime.
    ///
    /// The task does not inherit the locks of the caller. It acquires its own like any other task.
    /// If a body waits for a task that wants the body's lock, neither makes progress.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    ///
    /// # Cancel safety
    ///
    /// The task goes on if the handle is dropped.
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
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let locks = LockRuntime::in_memory().build().await?;
    /// let greeting = LockRuntime::scope(locks, async { LockRuntime::spawn(greet()).await });
    /// assert_eq!(greeting.await??, "hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match LockRuntime::current() {
            Ok(runtime) => tokio::spawn(LockRuntime::scope(runtime, future)),
            // Whoever installs one meanwhile is found.
            Err(_) => tokio::spawn(future),
        }
    }
}
