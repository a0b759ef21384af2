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
    /// In the body of an annotated function, and of [`Lock::run`](crate::Lock::run), that is the
    /// runtime of its own lock; in a [scope](LockRuntime::scope), that of the scope. Whichever is
    /// the innermost counts. Elsewhere it is the installed one.
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

    /// Runs `future` with `runtime` in the place of the installed one, so that tests run side by
    /// side.
    ///
    /// The scope is that of the task. [`LockRuntime::spawn`] carries it to another; `tokio::spawn`
    /// does not, so neither do the handlers of a running web server, which take a runtime by the
    /// attribute's `runtime = expression`. A test that calls a router by itself, as
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

    /// Spawns `future` on the tokio runtime of the caller, in the [scope](LockRuntime::scope) that
    /// the caller is in: annotated functions that it calls use the same runtime.
    ///
    /// The locks of the caller are not carried: the task holds none of them, and takes its own as
    /// any other task does. A body that waits for the task while that wants the body's lock waits
    /// for itself.
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
