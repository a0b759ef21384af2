//! Running a body while holding a lock: ending it when the lock is lost, and running nested calls under the lock they already have.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::api::guard::LockHandle;
use crate::api::options::LockOptions;
use crate::api::runtime::LockRuntime;
use crate::backend::BoxFuture;
use crate::clock;
use crate::engine::{Engine, Hold};
use crate::error::LockError;
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
        options: &LockOptions,
        cancel: bool,
    ) -> Result<Box<Entered>, LockError> {
        let (terms, wait) = options.resolve(&engine.settings)?;
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
                (outer.handle.nested(options.max_hold), Right::Nested(turn))
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

    /// Polls the body while the lock is held. An error is the end of the body, and makes its output void.
    fn poll(&mut self, body: &mut dyn Body, cx: &mut Context<'_>) -> Poll<Result<(), LockError>> {
        // Before the body runs: it may have lost the lock while its process was stopped.
        self.check()?;
        let frame = self.frame.clone();
        match CURRENT.sync_scope(frame, || body.poll(cx)) {
            // A body that outran its lock did not succeed, whatever it says.
            Poll::Ready(()) => Poll::Ready(self.check()),
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
    async fn leave(self: Box<Self>) -> Result<Next, LockError> {
        if let Right::Own(hold) = self.right
            && let Err(error) = hold.release().await
            && self.cancel
            && (error.is_lost() || error.is_max_hold())
        {
            return Err(error);
        }
        Ok(Next::Return)
    }
}

/// A call of a locked function, from the acquisition to the release.
///
/// A shell that is compiled anew for every body, and therefore holds nothing that does not depend on
/// its type: all that happens is in [`Call`], which sees the body through [`Body`].
#[must_use = "a call does nothing until it is awaited"]
pub struct Run<'a, F: Future> {
    // Before `call`: locals and arguments go before the lock that protected them.
    body: Place<'a, F>,
    call: Call,
    refuse: fn(LockError) -> F::Output,
}

impl<'a, F: Future> Run<'a, F> {
    pub(crate) fn new(
        call: Call,
        body: Pin<&'a mut Option<F>>,
        refuse: fn(LockError) -> F::Output,
    ) -> Run<'a, F> {
        let output = None;
        let body = Place { body, output };
        Run { body, call, refuse }
    }
}

/// The output is moved, the body pinned elsewhere.
impl<F: Future> Unpin for Run<'_, F> {}

impl<F: Future> Future for Run<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        match this.call.poll(&mut this.body, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready((this.refuse)(error)),
            Poll::Ready(Ok(())) => match this.body.output.take() {
                Some(output) => Poll::Ready(output),
                None => unfinished(),
            },
        }
    }
}

impl<F: Future> fmt::Debug for Run<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}

/// Not in the shell, because the text would be there once for each body.
#[cold]
fn unfinished() -> ! {
    unreachable!("a call that succeeds has polled its body to the end")
}

/// What a [`Call`] does to a body.
trait Body {
    /// Polls it, and keeps the output.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Drops it, unless that has been done.
    fn end(&mut self);
}

/// Where a body and later its output are.
struct Place<'a, F: Future> {
    body: Pin<&'a mut Option<F>>,
    output: Option<F::Output>,
}

impl<F: Future> Body for Place<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(body) = self.body.as_mut().as_pin_mut() else {
            unfinished()
        };
        match body.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(output) => {
                self.output = Some(output);
                Poll::Ready(())
            }
        }
    }

    fn end(&mut self) {
        self.body.set(None);
    }
}

impl<F: Future> Drop for Place<'_, F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A call of a locked function, from the acquisition of its lock to the release.
pub(crate) enum Call {
    /// Acquiring or releasing.
    Busy(BoxFuture<'static, Result<Next, LockError>>),
    /// Running the body; `None` once that has ended.
    Running(Option<Box<Entered>>),
}

/// What comes after acquiring or releasing.
pub(crate) enum Next {
    Body(Box<Entered>),
    Return,
}

impl Call {
    /// A call that begins with `enter`, which acquires the lock.
    pub(crate) fn new(
        enter: impl Future<Output = Result<Next, LockError>> + Send + 'static,
    ) -> Call {
        Call::Busy(Box::pin(enter))
    }

    /// Resolves when the lock has been released after the body; an error is what the function returns instead of the body's output.
    fn poll(&mut self, body: &mut dyn Body, cx: &mut Context<'_>) -> Poll<Result<(), LockError>> {
        loop {
            match self {
                Call::Busy(work) => match ready!(work.as_mut().poll(cx))? {
                    Next::Body(entered) => *self = Call::Running(Some(entered)),
                    Next::Return => return Poll::Ready(Ok(())),
                },
                Call::Running(running) => {
                    let Some(entered) = running else { unfinished() };
                    let outcome = ready!(entered.poll(body, cx));
                    body.end();
                    let entered = running.take();
                    outcome?;
                    if let Some(entered) = entered {
                        *self = Call::Busy(Box::pin(entered.leave()));
                    }
                }
            }
        }
    }
}
