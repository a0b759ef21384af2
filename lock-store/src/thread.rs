//! The thread of a backend: renewals go on while callers block theirs, and the backend outlives the
//! tokio runtime that it was made in.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, mpsc};

use lock_protocol::Executor;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A tokio runtime on a thread of its own, which ends with this value.
pub struct Thread {
    handle: Handle,
    /// What is dropped tells the thread to end.
    _alive: oneshot::Sender<()>,
}

impl Thread {
    /// Starts a thread of this name.
    ///
    /// # Errors
    ///
    /// If the system gives no thread, or tokio no runtime.
    pub fn start(name: &str) -> io::Result<Thread> {
        let (built, handle) = mpsc::channel();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // It is built and dropped here, since a runtime must not be dropped where somebody
                // awaits.
                let runtime = Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => {
                        let _ = built.send(Ok(runtime.handle().clone()));
                        let _ = runtime.block_on(ended);
                    }
                    Err(error) => drop(built.send(Err(error))),
                }
            })?;
        let handle = handle
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Thread {
            handle,
            _alive: alive,
        })
    }

    /// The runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The thread as the place of background work.
    pub fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(OnThread(self.handle.clone()))
    }
}

struct OnThread(Handle);

impl Executor for OnThread {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }

    fn enter(&self, work: &mut dyn FnMut()) {
        let _entered = self.0.enter();
        work();
    }
}
