//! The seam between the lock and the stores that can hold one.
//!
//! Everything that waits, retries, renews, times out or is cancelled is written once, in front of
//! this trait. A backend is only round trips: it turns four verbs into commands of its store and
//! the replies into words.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;

use crate::backend_error::BackendError;
use crate::claim::{Acquired, Claim, Grant, Release, Released, Renewal, Renewed};
use crate::inspection::{Card, Condition, Inspected};
use crate::limits::Limits;
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::OwnerToken;

/// A store that can hold locks.
///
/// # The contract
///
/// 1. At any instant of the store's clock a key has at most one live lease; or, where
///    [`limits`](Backend::limits) have modes, several of one [kind](crate::Kind): any number of
///    shares, of permits no more than the last claim that was granted says there are, of each shard
///    one.
/// 2. Every grant of a key carries larger fencing tokens than every earlier grant of it, also
///    across expiry. A hand-over within [`release`](Backend::release) is a grant. Leases that share
///    a key at one time carry the same, single token.
/// 3. Every verb may be repeated: an [`acquire`](Backend::acquire) with the same claim never queues
///    twice, and one that has been granted already is granted again, with its full ttl and tokens
///    of the same grant or later ones. It is also the poll of a waiter: it answers owner, queued,
///    or, if the store has forgotten the claim, queues it again.
/// 4. [`abandon`](Backend::abandon) undoes an `acquire` whether or not that was answered, and may
///    come twice or first: a claim that was withdrawn before the store heard of it, or
///    [in doubt](Claim::in_doubt), is neither granted nor queued when it comes within the next half
///    minute.
/// 5. `Err` means "not known". Refusal is never an error, and a timeout is never
///    [`Renewed::Lost`] or [`Released::NotHeld`].
/// 6. A backend may ignore the [mode](Claim::mode) of claims and grant each of them the key alone;
///    else a claim that waits is not passed by one that comes later, whatever there is for that.
///    Claims that wait are served in the order in which the store first heard of them, where
///    [`limits`](Backend::limits) say so. When a lease ends without a release, whoever asks next is
///    served only after those who wait already. A store that orders them by tickets which follow
///    its clock may let newcomers pass after it has lost its data and its clock was set back.
/// 7. The numbers of claims and releases order the acquires, releases and abandons of one key, as
///    far as the connection lives: one that is first polled after another with a larger number was
///    is answered "not known", at once, and takes no effect. Those without a number take effect in
///    the order in which they were first polled. A backend need remember the numbers only of the
///    keys that were asked of last: whoever is overtaken is so within moments.
/// 8. Dropping the future of a verb leaves its outcome unknown, and nothing else broken.
/// 9. A call that had no answer may take effect late, and then undoes nothing of what later calls
///    of the same owner did. No `acquire` brings the end of a lease nearer. One that comes after
///    its claim has ended finds that it was abandoned: whoever had no answer to an `acquire`
///    abandons the claim in the end, in doubt, and does so after its release as well; where that
///    was refused and should have [kept](Release::keep) the key, when it need not stay taken. A
///    late [`renew`](Backend::renew) leaves the lease what its caller counts on, since no renewal
///    of an owner has a longer ttl than those before it; a late `release` or `abandon` finds that
///    the claim has ended, since nobody asks for it again.
///
/// A lease is counted by the caller, on its own monotonic clock, from before the verb was called;
/// no backend reads a wall clock.
///
/// The crate `lock-conformance` checks each clause, on any backend.
///
/// # Examples
///
/// A backend for a [store](crate::store::Store) in the memory of the process: it gives each verb to
/// the store, refuses what was overtaken, and tells of hand-overs.
///
#[cfg_attr(feature = "std", doc = "```")]
#[cfg_attr(not(feature = "std"), doc = "```ignore")]
#[doc = include_str!("../doc/backend.rs")]
///
/// # use std::pin::pin;
/// # use std::task::{Context, Poll, Waker};
/// # fn answer<T>(verb: impl Future<Output = T>) -> T {
/// #     let Poll::Ready(answer) = pin!(verb).poll(&mut Context::from_waker(Waker::noop())) else {
/// #         panic!("a store in memory answers at once");
/// #     };
/// #     answer
/// # }
/// let here = Memory::default();
/// let there = Memory { store: Arc::clone(&here.store), ..Memory::default() };
///
/// let ttl = std::time::Duration::from_secs(5);
/// let key = LockKey::new("lock:", "coupon:42")?;
/// let holder = Claim::new(key.clone(), OwnerToken::unique("one"), ttl);
/// let waiter = Claim::new(key.clone(), OwnerToken::unique("two"), ttl).queued();
/// let release = Release::new(key.clone(), holder.owner.clone());
/// let Acquired::Granted(first) = answer(here.acquire(&holder))? else { panic!("it is free") };
/// assert!(matches!(answer(there.acquire(&waiter))?, Acquired::Queued(_)));
/// answer(here.release(&release))?;
/// let Acquired::Granted(second) = answer(there.acquire(&waiter))? else { panic!("its turn") };
/// assert!(second.tokens.first > first.tokens.last);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Backend: Send + Sync + 'static {
    /// What the store can do.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Tells `news` from now on of what happens to the claims of this backend, also of those that
    /// were made before. A backend may be attached to several sinks, each of which knows its own
    /// claims; it holds them weakly.
    ///
    /// A hand-over that none of the sinks [expected](News::granted) is given back, as by
    /// [`abandon`](Backend::abandon). Where there is no sink it stays, for its grace.
    ///
    /// A backend that hears of nothing ignores it: waiters ask by themselves.
    fn attach(&self, news: Weak<dyn News>) {
        let _ = news;
    }

    /// Takes the lock for `claim`, or else puts the claim into the queue of its key if it
    /// [may wait](Claim::queue).
    fn acquire(&self, claim: &Claim)
    -> impl Future<Output = Result<Acquired, BackendError>> + Send;

    /// Extends each of `leases` that its owner still holds to its full ttl, and never creates one.
    ///
    /// The answers have the order and the number of `leases`.
    fn renew(
        &self,
        leases: &[Renewal],
    ) -> impl Future<Output = Vec<Result<Renewed, BackendError>>> + Send;

    /// Ends a lease, if its owner still holds the key, and makes the claim that has waited longest
    /// the owner, for its grace.
    ///
    /// With [`keep`](Release::keep) the key stays taken for so long, by an owner that nobody is; then
    /// it is as if a lease had ended without a release. The first waiter is told when to look, as of
    /// every other lease. Nothing that the owner of the lease asked for before, or asks for later,
    /// changes that.
    ///
    /// The [`next`](Release::next) claim is queued behind those that wait already, or granted if
    /// there are none; one that does not wait is then [`Acquired::Taken`].
    fn release(
        &self,
        release: &Release,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send;

    /// Withdraws `claim`: out of the queue and, if it has been granted, released.
    ///
    /// A claim that is [in doubt](Claim::in_doubt), or that the store does not know, is remembered
    /// for half a minute: an acquire of it that comes later does nothing.
    ///
    /// Whatever the answer, the claim is not asked for again: a withdrawal that comes late would
    /// end what had been granted to it since.
    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes all of `claims`, each of another key, or none, and queues nothing. `None`: not now, or
    /// not here.
    fn acquire_all(
        &self,
        claims: &[Claim],
    ) -> impl Future<Output = Result<Option<Vec<Grant>>, BackendError>> + Send {
        let _ = claims;
        core::future::ready(Ok(None))
    }

    /// Tells who holds the lock, and who waits for it; `None` if nobody holds it. Nothing is changed
    /// by it.
    ///
    /// A store that cannot do this, nor the three verbs that follow, says that it is
    /// [unsupported](BackendError::unsupported).
    fn inspect(
        &self,
        key: &LockKey,
    ) -> impl Future<Output = Result<Option<Inspected>, BackendError>> + Send {
        let _ = key;
        core::future::ready(Err(BackendError::unsupported("tell who holds a lock")))
    }

    /// Tells the cards of the processes whose locks have this prefix. A store that keeps cards asks
    /// its sinks for [theirs](News::card), every [`Card::PERIOD`].
    fn cards(&self, prefix: &str) -> impl Future<Output = Result<Vec<Card>, BackendError>> + Send {
        let _ = prefix;
        core::future::ready(Err(BackendError::unsupported(
            "tell which processes use it",
        )))
    }

    /// Ends the lease of `owner`, whoever asks, as a [`release`](Backend::release) by it would. What
    /// is not its lease is left alone.
    fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send {
        let _ = (key, owner);
        core::future::ready(Err(BackendError::unsupported("end the lease of another")))
    }

    /// Tells whether a claim could be granted now, without taking a lock. A member that gives no
    /// answer is one that is away; what is an error is an error of all.
    fn condition(&self) -> impl Future<Output = Result<Condition, BackendError>> + Send {
        core::future::ready(Err(BackendError::unsupported("tell how it is")))
    }

    /// Where the timers and background work for this backend run: where the caller is, unless the
    /// backend has an executor of its own, which then lives as long as the backend does.
    fn executor(&self) -> Option<Arc<dyn Executor>> {
        None
    }

    /// Closes what is open. Called after the last lease ended, perhaps more than once; verbs called
    /// later answer with an error.
    fn close(&self) -> impl Future<Output = ()> + Send {
        core::future::ready(())
    }
}

/// What a backend tells of its claims without being asked.
///
/// News save time and prove nothing: they may be missing, late, doubled or spurious, and whoever
/// waits asks at the latest after the [heartbeat](Claim::heartbeat) of its claim.
///
/// The methods may be called on any thread, within a verb, and under the backend's own locks: they
/// note what is told, and neither block nor call the backend.
pub trait News: Send + Sync {
    /// The lock was handed over to the claim `owner`. Whether the claim was expected: what was not
    /// is to be given back.
    ///
    /// `since` is an instant before the hand-over: what `grant.valid_for` is counted from. It is
    /// not the arrival of the message, which may have lain in a buffer of a stopped process for any
    /// time.
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool;

    /// Something may happen to the claim `owner` at this instant, or has already: it is time to
    /// ask then.
    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant);

    /// News may have been lost: it is time to ask for every claim that waits.
    fn ask_all(&self);

    /// What the process says of itself and of the locks that it holds, if it wants to.
    fn card(&self) -> Option<Card> {
        None
    }

    /// The store noticed something that those on call may want to know. Nothing is decided by it.
    fn noted(&self, note: &Note) {
        let _ = note;
    }
}

/// What a store noticed, for logs and metrics.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Note {
    /// A connection was opened.
    Connected {
        /// Where to: a host and a port, or a path; never a URL, which may have a password.
        address: Arc<str>,
        /// What the connection is for; the same few words for all connections of a store.
        way: &'static str,
    },
    /// A connection was given up, or could not be opened.
    Disconnected {
        /// Where to, as above.
        address: Arc<str>,
        /// What the connection was for, as above.
        way: &'static str,
        /// Whether it had been there.
        was_connected: bool,
        /// Why; `None` if it was closed on purpose.
        cause: Option<Arc<BackendError>>,
    },
}

/// Where the background work of a backend runs.
pub trait Executor: Send + Sync {
    /// Runs `task` to its end, unless the executor shuts down first and drops it.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Calls `work` on this thread, as if it were on the executor: timers that it makes belong to
    /// the executor.
    fn enter(&self, work: &mut dyn FnMut());
}

/// A shared backend is a backend: a test keeps one handle and gives the runtime the other.
impl<B: Backend> Backend for Arc<B> {
    fn limits(&self) -> Limits {
        B::limits(self)
    }

    fn attach(&self, news: Weak<dyn News>) {
        B::attach(self, news);
    }

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
        release: &Release,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send {
        B::release(self, release)
    }

    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), BackendError>> + Send {
        B::abandon(self, claim)
    }

    fn acquire_all(
        &self,
        claims: &[Claim],
    ) -> impl Future<Output = Result<Option<Vec<Grant>>, BackendError>> + Send {
        B::acquire_all(self, claims)
    }

    fn inspect(
        &self,
        key: &LockKey,
    ) -> impl Future<Output = Result<Option<Inspected>, BackendError>> + Send {
        B::inspect(self, key)
    }

    fn cards(&self, prefix: &str) -> impl Future<Output = Result<Vec<Card>, BackendError>> + Send {
        B::cards(self, prefix)
    }

    fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> impl Future<Output = Result<Released, BackendError>> + Send {
        B::break_lock(self, key, owner)
    }

    fn condition(&self) -> impl Future<Output = Result<Condition, BackendError>> + Send {
        B::condition(self)
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        B::executor(self)
    }

    fn close(&self) -> impl Future<Output = ()> + Send {
        B::close(self)
    }
}
