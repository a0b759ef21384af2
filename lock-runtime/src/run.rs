//! Running a body while holding a lock: ending it when the lock is lost, and running nested calls under the lock they already have.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::backend::BoxFuture;
use crate::clock;
use crate::engine::{Engine, Hold};
use crate::error::LockError;
use crate::guard::LockHandle;
use crate::lock::Wish;
use crate::runtime::LockRuntime;
use lock_protocol::LockKey;

tokio::task_local! {
    /// The innermost body that is being polled.
    static CURRENT: Arc<Frame>;
}

/// A body that runs while holding a lock, and those around it.
#[derive(Debug)]
pub(crate) struct Frame {
    handle: LockHandle,
    outer: Option<Arc<Frame>>,
    /// Lets one nested call of the same key run at a time; made when the first comes.
    turn: OnceLock<Arc<Semaphore>>,
}

impl Frame {
    fn new(handle: LockHandle) -> Arc<Frame> {
        Arc::new(Frame {
            handle,
            outer: Frame::current(),
            turn: OnceLock::new(),
        })
    }

    /// The innermost body around this call.
    pub(crate) fn current() -> Option<Arc<Frame>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The runtime whose lock it holds.
    pub(crate) fn runtime(&self) -> LockRuntime {
        self.handle.runtime()
    }

    /// The innermost body around this call that holds `key`.
    fn holding(engine: &Arc<Engine>, key: &LockKey) -> Option<Arc<Frame>> {
        let mut frame = Frame::current();
        while let Some(inner) = frame {
            if inner.handle.is_of(engine) && inner.handle.key() == key {
                return Some(inner);
            }
            frame = inner.outer.clone();
        }
        None
    }

    fn turn(&self) -> Arc<Semaphore> {
        self.turn
            .get_or_init(|| Arc::new(Semaphore::new(1)))
            .clone()
    }
}

/// The right to run one body: a hold of its own, or the turn of a nested call under the hold of a body around it.
pub(crate) struct Entered {
    frame: Arc<Frame>,
    right: Right,
    /// Whether the body is dropped when the lock is lost.
    cancel: bool,
    /// Resolves when the lock is lost; made when the body first has to wait.
    lost: Option<BoxFuture<'static, ()>>,
}

enum Right {
    Own(Hold),
    /// Held for its drop.
    Nested(
        #[expect(dead_code, reason = "gives the turn to the next when dropped")]
        OwnedSemaphorePermit,
    ),
}

impl Entered {
    pub(crate) async fn enter(
        engine: &Arc<Engine>,
        key: &str,
        wish: &Wish,
        cancel: bool,
    ) -> Result<Box<Entered>, LockError> {
        let (terms, wait) = wish.resolve(&engine.settings)?;
        let key = LockKey::new(&engine.settings.key_prefix, key)?;
        let (handle, right) = match Frame::holding(engine, &key) {
            Some(outer) => {
                let started = Instant::now();
                let turn = match outer.turn().try_acquire_owned() {
                    Ok(turn) => turn,
                    Err(_) if wait.is_zero() => {
                        return Err(LockError::Taken {
                            key,
                            remaining: Some(outer.handle.remaining()),
                        });
                    }
                    Err(_) => timeout_at(
                        started + wait.min(clock::AGES),
                        outer.turn().acquire_owned(),
                    )
                    .await
                    .map_err(|_| LockError::Timeout {
                        key,
                        waited: started.elapsed(),
                    })?
                    .map_err(|_| LockError::ShutDown)?,
                };
                outer.handle.check()?;
                (outer.handle.nested(wish.max_hold), Right::Nested(turn))
            }
            None => {
                let hold = engine.acquire(&key, terms, wait).await?;
                (LockHandle::new(hold.view()), Right::Own(hold))
            }
        };
        Ok(Box::new(Entered {
            frame: Frame::new(handle),
            right,
            cancel,
            lost: None,
        }))
    }

    pub(crate) fn handle(&self) -> LockHandle {
        self.frame.handle.clone()
    }

    /// Runs the body to its end, or to that of the lock, drops it, and then releases the lock.
    pub(crate) async fn run<F: Future>(
        mut self: Box<Self>,
        mut body: Body<'_, F>,
    ) -> Result<F::Output, LockError> {
        let output = poll_fn(|cx| self.poll(&mut body, cx)).await;
        drop(body);
        let output = output?;
        match Box::pin(self.leave()).await {
            Some(lost) => Err(lost),
            None => Ok(output),
        }
    }

    fn poll<F: Future>(
        &mut self,
        body: &mut Body<'_, F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, LockError>> {
        // Before the body runs: it may have lost the lock while its process was stopped.
        self.check()?;
        let frame = self.frame.clone();
        match CURRENT.sync_scope(frame, || body.poll(cx)) {
            // A body that outran its lock did not succeed, whatever it says.
            Poll::Ready(output) => Poll::Ready(self.check().map(|()| output)),
            Poll::Pending if self.cancel => {
                let handle = &self.frame.handle;
                let lost = self.lost.get_or_insert_with(|| {
                    let handle = handle.clone();
                    Box::pin(async move { handle.lost().await })
                });
                ready!(lost.as_mut().poll(cx));
                self.lost = None;
                self.check()?;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Why the body has to end, if it has to.
    fn check(&self) -> Result<(), LockError> {
        if self.cancel {
            self.frame.handle.check()
        } else {
            Ok(())
        }
    }

    /// Releases the lock after the body. An error only if the body cannot have been alone; not if the store did not answer.
    async fn leave(self) -> Option<LockError> {
        match self.right {
            Right::Own(hold) => hold
                .release()
                .await
                .err()
                .filter(|error| self.cancel && (error.is_lost() || error.is_max_hold())),
            Right::Nested(_) => None,
        }
    }
}

/// A body that has not been dropped yet: at the latest this does it.
pub(crate) struct Body<'a, F>(pub(crate) Pin<&'a mut Option<F>>);

impl<F: Future> Body<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let body = self
            .0
            .as_mut()
            .as_pin_mut()
            .expect("a body is polled before it is dropped");
        body.poll(cx)
    }
}

impl<F> Drop for Body<'_, F> {
    fn drop(&mut self) {
        // Locals and arguments go before the lock that protected them.
        self.0.set(None);
    }
}
