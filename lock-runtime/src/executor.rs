//! Where background work runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::runtime::Handle;

/// Runs the tasks of one lock runtime.
#[derive(Clone, Debug)]
pub(crate) enum Executor {
    /// On the backend's own thread, which goes on while callers block theirs.
    Backend(Handle),
    /// On the tokio runtime of whoever causes the work, so that a paused clock applies to it; on the one that built the lock runtime
    /// when there is none, as in the drop of a guard on another thread.
    Caller { built_on: Handle },
}

impl Executor {
    /// Starts `task`, which is dropped unfinished if its executor shuts down.
    ///
    /// On the caller's runtime it is polled once before this returns: an in-memory backend is done by then, and a guard that was
    /// dropped has been released. No lock may be held that the task takes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Executor::Backend(handle) => {
                handle.spawn(task);
            }
            Executor::Caller { built_on } => {
                let handle = Handle::try_current().unwrap_or_else(|_| built_on.clone());
                begin(&handle, task);
            }
        }
    }

    /// The same, but polled once before this returns on every executor: what it sends goes ahead of what the caller sends next.
    pub(crate) fn spawn_ahead(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Executor::Backend(handle) => begin(handle, task),
            Executor::Caller { .. } => self.spawn(task),
        }
    }

    /// Starts `task` where the lock runtime was built, or on the backend's own thread: it outlives whatever runtime the caller is on.
    pub(crate) fn spawn_at_home(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (Executor::Backend(home) | Executor::Caller { built_on: home }) = self;
        home.spawn(task);
    }
}

/// Polls `task` once where the caller is, and leaves the rest to the tokio runtime of `handle`.
fn begin(handle: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    let _entered = handle.enter();
    let mut task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
    let mut ignored = Context::from_waker(Waker::noop());
    if task.as_mut().poll(&mut ignored).is_pending() {
        handle.spawn(task);
    }
}
