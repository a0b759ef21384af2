//! Several locks, acquired together or not at all.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::api::body::{Call, Run};
use crate::api::entered::{self, Entered, Holds};
use crate::api::guard::LockHandle;
use crate::api::options::{LockOptions, Names, OnLost, Renew};
use crate::api::runtime::LockRuntime;
use crate::engine::{Engine, Hold};
use crate::error::LockError;

/// Several locks to be acquired together, made by
/// [`LockRuntime::lock_all`](crate::LockRuntime::lock_all).
///
/// All of them are acquired, or none: a caller that gets one and waits too long for another gives
/// the first one back. They are acquired in the order of their names in the store, whatever the
/// order of the arguments. So two callers that want the same two never wait for each other. A key
/// that is given twice is one lock.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
/// let guard = locks.lock_all(["account:2", "account:1"]).acquire().await?;
/// println!("debiting with {}", guard.handles()[0].fencing_token());
/// println!("crediting with {}", guard.handles()[1].fencing_token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "locks do nothing until they are acquired"]
pub struct LockAll {
    engine: Arc<Engine>,
    keys: Vec<String>,
    options: LockOptions,
}

impl LockRuntime {
    /// Locks on all of `keys`, to be acquired together: see [`LockAll`].
    ///
    /// The keys are used as they are, as by [`lock`](LockRuntime::lock).
    pub fn lock_all<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> LockAll {
        LockAll {
            engine: self.engine.clone(),
            keys: keys.into_iter().map(Into::into).collect(),
            options: LockOptions::default(),
        }
    }
}

impl LockAll {
    /// Lifetime of the leases unless they are renewed: see [`Lock::ttl`](crate::Lock::ttl).
    pub fn ttl(mut self, ttl: Duration) -> LockAll {
        self.options.ttl = Some(ttl);
        self
    }

    /// Longest time that [`acquire`](LockAll::acquire) waits, for all locks together. Zero tries
    /// once. Default: the runtime's `default_wait`.
    pub fn wait(mut self, wait: Duration) -> LockAll {
        self.options.wait = Some(wait);
        self
    }

    /// Period at which the watchdog renews the leases: see [`Lock::renew`](crate::Lock::renew).
    pub fn renew(mut self, renew: impl Into<Renew>) -> LockAll {
        self.options.renew = renew.into();
        self
    }

    /// Longest time that the locks may be held, counted from when all of them are: see
    /// [`Lock::max_hold`](crate::Lock::max_hold).
    pub fn max_hold(mut self, limit: Duration) -> LockAll {
        self.options.max_hold = Some(limit);
        self
    }

    /// Shortest time that the keys stay taken, counted from when all locks are held: see
    /// [`Lock::min_hold`](crate::Lock::min_hold).
    pub fn min_hold(mut self, least: Duration) -> LockAll {
        self.options.min_hold = Some(least);
        self
    }

    /// Name of these locks in logs and metrics, instead of `-`. Use few names, such as
    /// `report:<month>`, never a key. The attribute uses the template of the key.
    pub fn name(mut self, name: &'static str) -> LockAll {
        self.options.names = Names::One(name);
        self
    }

    /// Acquires all locks, waiting for those that others hold.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`](crate::Lock::acquire), about the key that could not be acquired;
    /// [`LockError::Config`] if there is no key. None of the locks is then held.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and releases in the background the
    /// locks that were already acquired.
    pub async fn acquire(self) -> Result<LockAllGuard, LockError> {
        let keys = entered::checked(&self.engine, &self.keys)?;
        let holds = entered::acquire_all(&self.engine, &keys, &self.options).await?;
        let handle = |key| {
            let mut holds = holds.iter().map(Hold::view);
            holds.find(|view| view.key() == key).map(LockHandle::new)
        };
        let handles = keys.iter().filter_map(handle).collect();
        Ok(LockAllGuard { handles, holds })
    }

    /// Acquires all locks if nobody holds one of them; `None` if another does.
    ///
    /// # Errors
    ///
    /// As [`acquire`](LockAll::acquire), but a lock held by another is no error.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](LockAll::acquire).
    pub async fn try_acquire(self) -> Result<Option<LockAllGuard>, LockError> {
        match self.wait(Duration::ZERO).acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Taken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body` while holding all locks, as [`Lock::run`](crate::Lock::run) does with one. It
    /// gets their handles, in the order of the keys.
    ///
    /// A lock that a body around this call already holds is not acquired again.
    ///
    /// # Errors
    ///
    /// As [`acquire`](LockAll::acquire), and [`is_lost`](LockError::is_lost) if one of the locks
    /// was lost before `body` ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `body`, then releases the locks in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let keys = ["account:2", "account:1", "account:2"];
    /// let names = async |locks: Vec<lock_runtime::LockHandle>| locks[0].key().to_string();
    /// assert_eq!(locks.lock_all(keys).run(names).await?, "account:2");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run<T>(
        self,
        body: impl AsyncFnOnce(Vec<LockHandle>) -> T,
    ) -> Result<T, LockError> {
        let keys = entered::checked(&self.engine, &self.keys)?;
        let entered = Entered::enter(&self.engine, &keys, &self.options, OnLost::Cancel).await?;
        let body = body(entered.handles_of(&keys));
        let body = std::pin::pin!(Some(async { Ok(body.await) }));
        Run::new(Call::Running(Some(entered)), body, Err).await
    }
}

/// Several held locks.
///
/// [`release`](LockAllGuard::release) them to learn whether all were held to the end. Dropping the
/// guard releases them in the background. If one is lost, do not touch what they protect together
/// any more, although the others are still held.
#[derive(Debug)]
#[must_use = "the locks are released as soon as the guard is dropped"]
pub struct LockAllGuard {
    /// In the order in which the keys were given.
    handles: SmallVec<[LockHandle; 2]>,
    /// In the order in which they were taken.
    holds: Holds,
}

impl LockAllGuard {
    /// A view of each lock, in the order of the keys. Each has its own fencing token, for the
    /// writes that this lock protects.
    pub fn handles(&self) -> &[LockHandle] {
        &self.handles
    }

    /// Time for which all locks are still held at least, unless they are renewed; zero once one is
    /// lost.
    pub fn remaining(&self) -> Duration {
        let remaining = self.handles.iter().map(LockHandle::remaining);
        remaining.min().unwrap_or_default()
    }

    /// Whether all locks are certainly still held.
    pub fn is_held(&self) -> bool {
        self.handles.iter().all(LockHandle::is_held)
    }

    /// Resolves when one of the locks is lost.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn lost(&self) {
        entered::any_lost(self.handles.iter().cloned().collect()).await;
    }

    /// Releases all locks and waits until the store has confirmed it.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`](crate::LockGuard::release), for any of the locks. A loss is
    /// reported before a missing answer.
    ///
    /// # Cancel safety
    ///
    /// The releases go on in the background if the future is dropped.
    pub async fn release(self) -> Result<(), LockError> {
        entered::release_all(self.holds.into_iter()).await
    }
}
