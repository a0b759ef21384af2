//! The thread on which the connections live, so that callers who block their executors do not stop
//! renewals, and so that the backend outlives the tokio runtime it was made in.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A tokio runtime on a thread of its own.
pub(super) struct Thread {
    handle: Handle,
    tasks: oneshot::Sender<Tasks>,
}

/// Ends the thread when it is dropped, as soon as the tasks of the lanes have ended.
pub(super) struct Running {
    _alive: oneshot::Sender<()>,
}

struct Tasks {
    tasks: JoinSet<()>,
    dropped: oneshot::Receiver<()>,
}

impl Thread {
    /// Starts the thread; it ends again if this is dropped.
    pub(super) fn start() -> io::Result<Thread> {
        let (started, handle) = mpsc::channel();
        let (tasks, received) = oneshot::channel();
        thread::Builder::new()
            .name("lock-runtime".to_owned())
            .spawn(move || run(&started, received))?;
        // Built over there, since a runtime must not be dropped where somebody awaits. It takes
        // some microseconds.
        let handle = handle
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Thread { handle, tasks })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs the lanes.
    pub(super) fn run(
        self,
        lanes: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>,
    ) -> Running {
        let mut tasks = JoinSet::new();
        for lane in lanes {
            tasks.spawn_on(lane, &self.handle);
        }
        let (alive, dropped) = oneshot::channel();
        // It fails only when the thread is gone, and with it the runtime that would run the lanes.
        let _ = self.tasks.send(Tasks { tasks, dropped });
        Running { _alive: alive }
    }
}

fn run(started: &mpsc::Sender<io::Result<Handle>>, tasks: oneshot::Receiver<Tasks>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(runtime.handle().clone()));
    runtime.block_on(async move {
        let Ok(Tasks { mut tasks, dropped }) = tasks.await else {
            return;
        };
        // Resolves when the backend is dropped; nothing is ever sent.
        let _ = dropped.await;
        while tasks.join_next().await.is_some() {}
    });
}
