//! The seam between the lock and the stores that can hold one.
//!
//! It is the crate `lock-protocol`, whose words are here under the names that users of this crate
//! know. A store that is a crate of its own needs that crate alone.

pub(crate) mod raised;

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;

pub use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, BoxError, Card, Claim, Condition, Contended,
    Executor, Extension, FenceBlock, GraceBy, Grant, Holder, Inspected, Instant, InvalidKey,
    Limits, LockKey, MAX_TTL, MIN_TTL, Member, Mode, News, Note, Order, OwnerToken, Process,
    Release, Released, Renewal, Renewed, Waiting,
};

/// A boxed future, as the erased backend returns it.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Backend`] without type parameters, so that a runtime is one type whatever its store.
pub(crate) trait ErasedBackend: Send + Sync {
    fn limits(&self) -> Limits;
    fn attach(&self, news: Weak<dyn News>);
    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired, BackendError>>;
    fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>>;
    fn release<'a>(&'a self, release: &'a Release)
    -> BoxFuture<'a, Result<Released, BackendError>>;
    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>>;
    fn acquire_all<'a>(
        &'a self,
        claims: &'a [Claim],
    ) -> BoxFuture<'a, Result<Option<Vec<Grant>>, BackendError>>;
    fn inspect<'a>(
        &'a self,
        key: &'a LockKey,
    ) -> BoxFuture<'a, Result<Option<Inspected>, BackendError>>;
    fn cards<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Card>, BackendError>>;
    fn break_lock<'a>(
        &'a self,
        key: &'a LockKey,
        owner: &'a OwnerToken,
    ) -> BoxFuture<'a, Result<Released, BackendError>>;
    fn condition(&self) -> BoxFuture<'_, Result<Condition, BackendError>>;
    fn executor(&self) -> Option<Arc<dyn Executor>>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<B: Backend> ErasedBackend for B {
    fn limits(&self) -> Limits {
        Backend::limits(self)
    }

    fn attach(&self, news: Weak<dyn News>) {
        Backend::attach(self, news);
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired, BackendError>> {
        Box::pin(async move { caught(|| Backend::acquire(self, claim)).await? })
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>> {
        Box::pin(async move {
            let answers = caught(|| Backend::renew(self, leases)).await;
            answers.unwrap_or_else(|_| leases.iter().map(|_| Err(panicked())).collect())
        })
    }

    fn release<'a>(
        &'a self,
        release: &'a Release,
    ) -> BoxFuture<'a, Result<Released, BackendError>> {
        Box::pin(async move { caught(|| Backend::release(self, release)).await? })
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { caught(|| Backend::abandon(self, claim)).await? })
    }

    fn acquire_all<'a>(
        &'a self,
        claims: &'a [Claim],
    ) -> BoxFuture<'a, Result<Option<Vec<Grant>>, BackendError>> {
        Box::pin(async move { caught(|| Backend::acquire_all(self, claims)).await? })
    }

    fn inspect<'a>(
        &'a self,
        key: &'a LockKey,
    ) -> BoxFuture<'a, Result<Option<Inspected>, BackendError>> {
        Box::pin(async move { caught(|| Backend::inspect(self, key)).await? })
    }

    fn cards<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Card>, BackendError>> {
        Box::pin(async move { caught(|| Backend::cards(self, prefix)).await? })
    }

    fn break_lock<'a>(
        &'a self,
        key: &'a LockKey,
        owner: &'a OwnerToken,
    ) -> BoxFuture<'a, Result<Released, BackendError>> {
        Box::pin(async move { caught(|| Backend::break_lock(self, key, owner)).await? })
    }

    fn condition(&self) -> BoxFuture<'_, Result<Condition, BackendError>> {
        Box::pin(async move { caught(|| Backend::condition(self)).await? })
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        Backend::executor(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Backend::close(self))
    }
}

/// What `verb` answers, unless it panics: a backend is code of a user, and is asked where a panic
/// would end the process, as in the drop of a guard.
async fn caught<F: Future>(verb: impl FnOnce() -> F) -> Result<F::Output, BackendError> {
    let mut answer = pin!(async move { verb().await });
    let poll = poll_fn(|context| {
        let poll = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
        match poll {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(panicked())),
        }
    });
    poll.await
}

fn panicked() -> BackendError {
    BackendError::unavailable("the backend panicked")
}

impl fmt::Debug for dyn ErasedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}
