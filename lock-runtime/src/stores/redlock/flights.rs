//! Questions to several nodes at once, of which it need not be waited for all.

use std::future::poll_fn;
use std::mem::take;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::task::unconstrained;

use crate::backend::BoxFuture;

/// What has been asked of several nodes. What has no answer when it is dropped goes on in the
/// background, where nobody waits for it.
pub(super) struct Flights<T: Send + 'static> {
    open: Vec<BoxFuture<'static, T>>,
    handle: Handle,
}

impl<T: Send + 'static> Flights<T> {
    pub(super) fn new(handle: &Handle, open: Vec<BoxFuture<'static, T>>) -> Flights<T> {
        Flights {
            open,
            handle: handle.clone(),
        }
    }

    /// Waits for answers, each of which `take` is given, until it says that they are enough, or
    /// there are no more. All are asked when this is first polled.
    pub(super) async fn until(&mut self, mut take: impl FnMut(T) -> bool) {
        // Without tokio's cooperative budget, which could make the first poll ask only some.
        let answers = poll_fn(|context| {
            let mut is_enough = false;
            self.open
                .retain_mut(|asked| match asked.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        is_enough |= take(answer);
                        false
                    }
                    Poll::Pending => true,
                });
            match is_enough || self.open.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        unconstrained(answers).await;
    }

    /// Asks, and waits for nothing.
    pub(super) async fn send(mut self) {
        let mut is_sent = false;
        let sending = poll_fn(|context| {
            if !is_sent {
                is_sent = true;
                self.open
                    .retain_mut(|asked| asked.as_mut().poll(context).is_pending());
            }
            Poll::Ready(())
        });
        unconstrained(sending).await;
    }
}

impl<T: Send + 'static> Drop for Flights<T> {
    fn drop(&mut self) {
        for asked in take(&mut self.open) {
            self.handle.spawn(async move { drop(asked.await) });
        }
    }
}
