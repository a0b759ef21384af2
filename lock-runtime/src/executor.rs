//! Where background work runs.

use std::future::Future;
use std::mem::replace;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::unconstrained;

use crate::sync::lock;

/// Runs the tasks of one lock runtime.
#[derive(Clone)]
pub(crate) enum Executor {
    /// On the backend's own thread, which goes on while callers block theirs.
    Backend(Arc<dyn lock_protocol::Executor>),
    /// On the tokio runtime of whoever causes the work, so that a paused clock applies to it; on
    /// the one that built the lock runtime when there is none, as in the drop of a guard on another
    /// thread.
    Caller { built_on: Handle },
}

impl Executor {
    /// Starts `task`, which is dropped unfinished if its executor shuts down.
    ///
    /// It is polled once before this returns: an in-memory backend is done by then, and what is
    /// sent goes ahead of what the caller sends next. No mutex may be held that the task takes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            // Nothing can be entered any more.
            Executor::Backend(executor) if thread_is_ending() => executor.spawn(Box::pin(task)),
            Executor::Backend(executor) => Sleeper::begin(executor, task),
            Executor::Caller { built_on } => {
                let handle = Handle::try_current().unwrap_or_else(|_| built_on.clone());
                let entered = handle.enter();
                let rest = begin(Box::pin(task), Waker::noop());
                drop(entered);
                if let Some(rest) = rest {
                    handle.spawn(rest);
                }
            }
        }
    }

    /// Starts `task` where the lock runtime was built, or on the backend's own thread: it outlives
    /// whatever runtime the caller is on. It is not polled before this returns.
    pub(crate) fn spawn_outliving_caller(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Executor::Backend(executor) => executor.spawn(Box::pin(task)),
            Executor::Caller { built_on } => drop(built_on.spawn(task)),
        }
    }
}

/// Whether this is called by a destructor of a thread local.
fn thread_is_ending() -> bool {
    Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed())
}

/// A tokio runtime as the executor of a backend.
#[cfg(any(test, feature = "redis"))]
pub(crate) struct OnTokio(pub(crate) Handle);

#[cfg(any(test, feature = "redis"))]
impl lock_protocol::Executor for OnTokio {
    fn spawn(&self, task: Task) {
        self.0.spawn(task);
    }

    fn enter(&self, work: &mut dyn FnMut()) {
        let _entered = self.0.enter();
        work();
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls `task` once where the caller is, and returns it if there is more to do.
fn begin(mut task: Task, waker: &Waker) -> Option<Task> {
    // Without tokio's cooperative budget, with which it might do nothing.
    let poll = pin!(unconstrained(&mut task)).poll(&mut Context::from_waker(waker));
    poll.is_pending().then_some(task)
}

/// A task that its executor hears of when there is something to do: to wake a thread costs more
/// than most of these tasks.
///
/// For an executor that outlives its tasks: one that ends meanwhile would not know what to drop.
struct Sleeper {
    executor: Arc<dyn lock_protocol::Executor>,
    state: Mutex<State>,
}

enum State {
    /// Its first poll is not over.
    Polled,
    Asleep(Task),
    Woken,
}

impl Sleeper {
    /// Polls `task` once where the caller is.
    fn begin(
        executor: &Arc<dyn lock_protocol::Executor>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let sleeper = Arc::new(Sleeper {
            executor: Arc::clone(executor),
            state: Mutex::new(State::Polled),
        });
        let waker = Waker::from(Arc::clone(&sleeper));
        let mut task: Option<Task> = Some(Box::pin(task));
        executor.enter(&mut || task = task.take().and_then(|task| begin(task, &waker)));
        let Some(task) = task else {
            return;
        };
        let mut state = lock(&sleeper.state);
        if let State::Woken = *state {
            drop(state);
            executor.spawn(task);
        } else {
            *state = State::Asleep(task);
        }
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Sleeper>) {
        let state = replace(&mut *lock(&self.state), State::Woken);
        if let State::Asleep(task) = state {
            self.executor.spawn(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    /// An executor with a thread of its own.
    fn elsewhere() -> (tokio::runtime::Runtime, Executor) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a thread");
        let executor = Executor::Backend(Arc::new(OnTokio(runtime.handle().clone())));
        (runtime, executor)
    }

    #[test]
    fn a_task_begins_where_it_is_spawned_and_goes_on_where_it_belongs() {
        let (_runtime, executor) = elsewhere();
        let (wake, woken) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        executor.spawn(async move {
            let began = thread::current().id();
            let _ = woken.await;
            let _ = tell.send((began, thread::current().id()));
        });
        wake.send(()).expect("it waits");
        let (began, went_on) = told.blocking_recv().expect("it ends");
        assert_eq!(began, thread::current().id());
        assert_ne!(went_on, began);
    }

    #[test]
    fn a_thread_that_ends_can_spawn() {
        struct Last(Option<(Executor, oneshot::Sender<()>)>);
        impl Drop for Last {
            fn drop(&mut self) {
                let (executor, tell) = self.0.take().expect("it is dropped once");
                executor.spawn(async move {
                    let _ = tell.send(());
                });
            }
        }
        thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
        let (_runtime, executor) = elsewhere();
        let (tell, told) = oneshot::channel();
        let ending = thread::spawn(move || {
            // What is made first is destroyed last.
            LAST.with_borrow_mut(|last| *last = Some(Last(Some((executor, tell)))));
            assert!(Handle::try_current().is_err());
        });
        ending.join().expect("it ends");
        told.blocking_recv().expect("it is spawned");
    }

    #[test]
    fn a_task_that_is_woken_in_its_first_poll_goes_on() {
        let (_runtime, executor) = elsewhere();
        let (tell, told) = oneshot::channel();
        executor.spawn(async move {
            let mut again = true;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if replace(&mut again, false) {
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            let _ = tell.send(());
        });
        told.blocking_recv().expect("it ends");
    }
}
