//! Running a body while holding a lock, from the acquisition to the release.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::api::entered::Entered;
use crate::backend::BoxFuture;
use crate::error::LockError;

/// A call of a locked function, from the acquisition to the release.
///
/// A shell that is compiled anew for every body, and therefore holds nothing that does not depend
/// on its type: all that happens is in [`Call`], which sees the body through [`Body`].
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

/// What a [`Call`] does to a body.
trait Body {
    /// Polls it, and keeps the output.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Drops it, unless that has been done.
    fn end(&mut self);
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

    /// Resolves when the lock has been released after the body; an error is what the function
    /// returns instead of the body's output.
    fn poll(&mut self, body: &mut dyn Body, cx: &mut Context<'_>) -> Poll<Result<(), LockError>> {
        loop {
            match self {
                Call::Busy(work) => match ready!(work.as_mut().poll(cx))? {
                    Next::Body(entered) => *self = Call::Running(Some(entered)),
                    Next::Return => return Poll::Ready(Ok(())),
                },
                Call::Running(running) => {
                    let Some(entered) = running else { unfinished() };
                    let outcome = ready!(entered.poll(|cx| body.poll(cx), cx));
                    body.end();
                    let entered = running.take();
                    outcome?;
                    if let Some(entered) = entered {
                        *self = Call::Busy(Box::pin(async move {
                            entered.leave().await?;
                            Ok(Next::Return)
                        }));
                    }
                }
            }
        }
    }
}
