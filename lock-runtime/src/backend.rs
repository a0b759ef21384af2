//! The seam between the lock and the stores that can hold one.
//!
//! Everything that waits, retries, renews, times out or is cancelled is written once, in front of this trait. A backend is only round
//! trips: it turns four verbs into commands of its store and the replies into words.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::BoxError;
use crate::fence::FenceBlock;
use crate::key::LockKey;
use crate::owner::OwnerToken;

/// A store that can hold locks.
///
/// # The contract
///
/// 1. At any instant of the store's clock a key has at most one live lease.
/// 2. Every grant of a key carries larger fencing tokens than every earlier grant of it, also across expiry. A hand-over within
///    [`release`](Backend::release) is a grant.
/// 3. Every verb may be repeated: an [`acquire`](Backend::acquire) with the same claim never queues twice, and one that has been granted
///    already is granted again, with its full ttl and tokens of the same grant or later ones. It is also the poll of a waiter: it answers owner,
///    queued, or, if the store has forgotten the claim, queues it again.
/// 4. [`abandon`](Backend::abandon) undoes an `acquire` whether or not that was answered, and may come twice or first.
/// 5. `Err` means "not known". Refusal is never an error, and a timeout is never [`Renewed::Lost`] or [`Released::NotHeld`].
/// 6. Claims that wait are served in the order in which the store first heard of them. When a lease ends without a release, whoever
///    asks next is served only after those who wait already.
/// 7. Verbs for one key take effect in the order in which their futures were first polled, as far as the connection lives.
/// 8. Dropping the future of a verb leaves its outcome unknown, and nothing else broken.
///
/// A lease is counted by the caller, on its own monotonic clock, from before the verb was called; no backend reads a wall clock.
///
/// The conformance suite of the project (`tests/src/conformance.rs`) checks each clause and can be mounted on any backend.
pub trait Backend: Send + Sync + 'static {
    /// Takes the lock for `claim`, or else puts the claim into the queue of its key if it [may wait](Claim::queue).
    fn acquire(&self, claim: &Claim)
    -> impl Future<Output = Result<Acquired, BackendError>> + Send;

    /// Extends each of `leases` that its owner still holds to its full ttl, and never creates one.
    ///
    /// The answers have the order and the number of `leases`.
    fn renew(
        &self,
        leases: &[Renewal],
    ) -> impl Future<Output = Vec<Result<Renewed, BackendError>>> + Send;

    /// Ends the lease of `owner`, if it still holds `key`, and makes the claim that has waited longest the owner, for its grace.
    ///
    /// `next`, a claim of the releasing process for the same key, is queued behind those that wait already, or granted if there are none; one that
    /// does not wait is then [`Acquired::Taken`].
    fn release(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
        next: Option<&Claim>,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send;

    /// Withdraws `claim`: out of the queue and, if it has been granted, released.
    ///
    /// Whatever the answer, the claim is not asked for again: a withdrawal that comes late would end what had been granted to it since.
    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Resolves when the queued `claim` may have been granted.
    ///
    /// News that came after the claim was queued and before this call is kept for it. A wake-up may be spurious or missing: it saves
    /// time and proves nothing, so the caller asks again by itself at the latest after the claim's [heartbeat](Claim::heartbeat).
    /// Dropping the future loses no news. For a claim that is not queued it resolves at once with [`Wakeup::Ask`]. Two futures may wait for one
    /// claim, of which the older is not polled any more.
    fn changed(&self, claim: &Claim) -> impl Future<Output = Wakeup> + Send;

    /// Where the timers and background work for this backend run: the caller's tokio runtime, unless the backend has one of its own, which
    /// then lives as long as the backend does.
    fn executor(&self) -> Option<Handle> {
        None
    }

    /// Closes what is open. Called after the last lease ended, perhaps more than once; verbs called later answer with an error.
    fn close(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A request for a lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Which lock.
    pub key: LockKey,
    /// Who asks; unique to this claim.
    pub owner: OwnerToken,
    /// How long the lease lives unless it is renewed; whole milliseconds, never zero.
    pub ttl: Duration,
    /// Whether the claim waits in the store's queue when the lock is taken.
    pub queue: bool,
    /// How long the lease lives that a release hands over to this claim, until its first renewal; not longer than `ttl`.
    pub grace: Duration,
    /// How many fencing tokens to reserve with the grant; at least 1. A backend may reserve fewer.
    pub tokens: u32,
    /// While it waits, the claim asks again at least this often; a store may forget a claim that did not for twice as long.
    pub heartbeat: Duration,
}

impl Claim {
    /// A claim that does not wait, with one fencing token.
    pub fn new(key: LockKey, owner: OwnerToken, ttl: Duration) -> Claim {
        Claim {
            key,
            owner,
            ttl,
            queue: false,
            grace: ttl,
            tokens: 1,
            heartbeat: Duration::from_secs(10),
        }
    }

    /// The same claim, ready to wait in the store's queue.
    #[must_use]
    pub fn queued(mut self) -> Claim {
        self.queue = true;
        self
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The claim owns the lock.
    Granted(Grant),
    /// Another owns it; the claim waits in the store's queue.
    Queued(Holder),
    /// Another owns it; the claim does not wait.
    Taken(Holder),
}

/// A lease as the store gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing tokens reserved with the lease.
    pub tokens: FenceBlock,
    /// How long the lease lives from the moment the store answered.
    pub valid_for: Duration,
}

/// What is known of the present owner of a taken lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What is left of its lease; `None` if it never ends.
    pub remaining: Option<Duration>,
    /// Whether the owner is no claim of this crate: it will not hand the lock over, and may free it without a word.
    pub foreign: bool,
}

/// A lease to extend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Renewal {
    /// Which lock.
    pub key: LockKey,
    /// Whose lease.
    pub owner: OwnerToken,
    /// How long the lease lives from now on.
    pub ttl: Duration,
    /// How many further fencing tokens to reserve; usually none.
    pub tokens: u32,
}

impl Renewal {
    /// A renewal that reserves no fencing tokens.
    pub fn new(key: LockKey, owner: OwnerToken, ttl: Duration) -> Renewal {
        Renewal {
            key,
            owner,
            ttl,
            tokens: 0,
        }
    }
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The owner holds the lock for the full ttl again; with the further tokens, if it asked for some.
    Held(Option<FenceBlock>),
    /// The owner does not hold the lock any more.
    Lost,
}

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The lease has ended, and this became of the `next` claim, if one was given.
    Released(Option<Acquired>),
    /// The owner did not hold the lock; a `next` claim was not looked at.
    NotHeld,
}

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The lock was handed over to the claim.
    Granted {
        /// The lease, for the grace of the claim.
        grant: Grant,
        /// An instant before the hand-over: what `grant.valid_for` is counted from.
        ///
        /// Not the arrival of the message, which may have lain in a buffer of a stopped process for any time.
        since: Instant,
    },
    /// Something happened; ask by [`Backend::acquire`].
    Ask,
}

/// Why a backend does not know.
#[derive(Debug, thiserror::Error)]
#[error("{}", if *.denied { "the store refuses" } else { "the store did not answer" })]
pub struct BackendError {
    /// Whether asking again is useless.
    denied: bool,
    source: BoxError,
}

impl BackendError {
    /// The store did not answer, or cannot at the moment: asking again may help.
    pub fn unavailable(source: impl Into<BoxError>) -> BackendError {
        BackendError {
            denied: false,
            source: source.into(),
        }
    }

    /// The store answered and will not do it, however often it is asked: a wrong password, a missing permission, a key that holds
    /// something else.
    pub fn denied(source: impl Into<BoxError>) -> BackendError {
        BackendError {
            denied: true,
            source: source.into(),
        }
    }

    /// Whether asking again is useless.
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// The cause.
    pub(crate) fn into_source(self) -> BoxError {
        self.source
    }
}

/// A boxed future, as the erased backend returns it.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Backend`] without type parameters, so that a runtime is one type whatever its store.
pub(crate) trait ErasedBackend: Send + Sync {
    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired, BackendError>>;
    fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>>;
    fn release<'a>(
        &'a self,
        key: &'a LockKey,
        owner: &'a OwnerToken,
        next: Option<&'a Claim>,
    ) -> BoxFuture<'a, Result<Released, BackendError>>;
    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>>;
    fn changed<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Wakeup>;
    fn executor(&self) -> Option<Handle>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<B: Backend> ErasedBackend for B {
    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired, BackendError>> {
        Box::pin(Backend::acquire(self, claim))
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Vec<Result<Renewed, BackendError>>> {
        Box::pin(Backend::renew(self, leases))
    }

    fn release<'a>(
        &'a self,
        key: &'a LockKey,
        owner: &'a OwnerToken,
        next: Option<&'a Claim>,
    ) -> BoxFuture<'a, Result<Released, BackendError>> {
        Box::pin(Backend::release(self, key, owner, next))
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(Backend::abandon(self, claim))
    }

    fn changed<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Wakeup> {
        Box::pin(Backend::changed(self, claim))
    }

    fn executor(&self) -> Option<Handle> {
        Backend::executor(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Backend::close(self))
    }
}

impl fmt::Debug for dyn ErasedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

/// A shared backend is a backend: a test keeps one handle and gives the runtime the other.
impl<B: Backend> Backend for Arc<B> {
    fn acquire(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<Acquired, BackendError>> + Send {
        B::acquire(self, claim)
    }

    fn renew(
        &self,
        leases: &[Renewal],
    ) -> impl Future<Output = Vec<Result<Renewed, BackendError>>> + Send {
        B::renew(self, leases)
    }

    fn release(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
        next: Option<&Claim>,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send {
        B::release(self, key, owner, next)
    }

    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), BackendError>> + Send {
        B::abandon(self, claim)
    }

    fn changed(&self, claim: &Claim) -> impl Future<Output = Wakeup> + Send {
        B::changed(self, claim)
    }

    fn executor(&self) -> Option<Handle> {
        B::executor(self)
    }

    fn close(&self) -> impl Future<Output = ()> + Send {
        B::close(self)
    }
}
