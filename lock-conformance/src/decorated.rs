//! A backend in front of another: what it does not say otherwise goes to that. A test notes there
//! what goes by, takes its time, or makes a mistake.

use std::sync::{Arc, Weak};

use lock_protocol::{
    Acquired, Backend, BackendError, Claim, Executor, Grant, Limits, News, Release, Released,
    Renewal, Renewed,
};

/// What stands in front of a backend; it changes what it overrides.
///
/// What a backend need not be able to do it cannot do, unless it says so: several keys at once
/// ([`Backend::acquire_all`]), and the verbs of those who look after locks, from
/// [`Backend::inspect`] on. So it is also a store that knows no more than how to lock.
///
/// # Examples
///
/// A store that counts the questions:
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use lock_conformance::{Decorated, Decorator};
/// use lock_protocol::Backend;
///
/// struct Counting<B> {
///     store: B,
///     asked: AtomicU32,
/// }
///
/// impl<B: Backend> Decorator for Counting<B> {
///     type Inner = B;
///
///     fn inner(&self) -> &B {
///         &self.store
///     }
///
///     async fn before(&self) {
///         self.asked.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// fn counting(store: impl Backend) -> impl Backend {
///     Decorated(Counting { store, asked: AtomicU32::new(0) })
/// }
/// ```
pub trait Decorator: Send + Sync + 'static {
    /// The backend behind it.
    type Inner: Backend;

    /// The backend behind it.
    fn inner(&self) -> &Self::Inner;

    /// Comes before each verb.
    fn before(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Comes after each verb, before its answer is told.
    fn after(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// [`Backend::limits`].
    fn limits(&self) -> Limits {
        self.inner().limits()
    }

    /// [`Backend::attach`].
    fn attach(&self, news: Weak<dyn News>) {
        self.inner().attach(news);
    }

    /// [`Backend::executor`].
    fn executor(&self) -> Option<Arc<dyn Executor>> {
        self.inner().executor()
    }

    /// [`Backend::acquire`].
    fn acquire(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<Acquired, BackendError>> + Send {
        self.inner().acquire(claim)
    }

    /// [`Backend::renew`].
    fn renew(
        &self,
        leases: &[Renewal],
    ) -> impl Future<Output = Vec<Result<Renewed, BackendError>>> + Send {
        self.inner().renew(leases)
    }

    /// [`Backend::release`].
    fn release(
        &self,
        release: &Release,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send {
        self.inner().release(release)
    }

    /// [`Backend::abandon`].
    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), BackendError>> + Send {
        self.inner().abandon(claim)
    }

    /// [`Backend::acquire_all`]; not here, so that each key goes through [`Decorator::acquire`].
    fn acquire_all(
        &self,
        claims: &[Claim],
    ) -> impl Future<Output = Result<Option<Vec<Grant>>, BackendError>> + Send {
        let _ = claims;
        async { Ok(None) }
    }
}

/// The backend that a [`Decorator`] makes of the one behind it.
#[derive(Clone, Debug)]
pub struct Decorated<D>(pub D);

impl<D: Decorator> Backend for Decorated<D> {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.0.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.0.before().await;
        let answer = self.0.acquire(claim).await;
        self.0.after().await;
        answer
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        self.0.before().await;
        let answers = self.0.renew(leases).await;
        self.0.after().await;
        answers
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.0.before().await;
        let answer = self.0.release(release).await;
        self.0.after().await;
        answer
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.0.before().await;
        let answer = self.0.abandon(claim).await;
        self.0.after().await;
        answer
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        self.0.before().await;
        let answer = self.0.acquire_all(claims).await;
        self.0.after().await;
        answer
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        self.0.executor()
    }

    async fn close(&self) {
        self.0.inner().close().await;
    }
}
