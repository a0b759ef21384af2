//! The guard of a held lock, and its handle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::FencingToken;
use lock_protocol::LockKey;
use lock_protocol::Mode;
use lock_protocol::OwnerToken;

use crate::api::runtime::LockRuntime;
use crate::engine::{Begins, Engine, Hold, View};
use crate::error::LockError;
use crate::observe::HoldSpan;

/// A held lock.
///
/// [`release`](LockGuard::release) it to learn whether it was held to the end. Dropping it releases
/// it in the background. While the guard lives, the watchdog renews the lease. The lease may still
/// be lost: the store did not answer for too long, forgot the lock, or gave it to another after a
/// pause of this process. [`is_held`](LockGuard::is_held) and [`lost`](LockGuard::lost) report
/// that. From then on, do not touch what the lock protects.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
///
/// let guard = locks.lock("report:2026-11").acquire().await?;
/// assert!(guard.is_held());
/// assert!(locks.lock("report:2026-11").try_acquire().await?.is_none());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct LockGuard {
    hold: Hold,
}

impl LockGuard {
    pub(crate) fn new(hold: Hold) -> LockGuard {
        LockGuard { hold }
    }

    /// The key that was asked for.
    pub fn key(&self) -> &LockKey {
        self.hold.view().key()
    }

    /// The value that names the owner in the store.
    pub fn owner_token(&self) -> &OwnerToken {
        self.hold.view().owner()
    }

    /// A number larger than that of every earlier holder. Send it to the resource that the lock
    /// protects.
    pub fn fencing_token(&self) -> FencingToken {
        self.hold.view().token()
    }

    /// The mode of the claim: [`shared`](crate::Lock::shared), [`permits`](crate::Lock::permits),
    /// [`shards`](crate::Lock::shards), or the whole key.
    pub fn mode(&self) -> Mode {
        self.hold.view().mode()
    }

    /// The part of the key, from 0 to one less than the number of its
    /// [`shards`](crate::Lock::shards); 0 if it has none.
    pub fn shard(&self) -> u32 {
        self.hold.view().shard().into()
    }

    /// Time for which the lock is still held at least, unless it is renewed; zero once it is lost.
    pub fn remaining(&self) -> Duration {
        self.hold.view().remaining()
    }

    /// Whether the lock is certainly still held.
    ///
    /// The local clock and the answers to renewals decide. No question is sent.
    pub fn is_held(&self) -> bool {
        self.hold.view().check().is_ok()
    }

    /// Resolves when the lock is lost.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn lost(&self) {
        self.hold.view().ended().await;
    }

    /// Extends the lease to its full ttl now.
    ///
    /// # Errors
    ///
    /// [`is_lost`](LockError::is_lost) if the lock is no longer held;
    /// [`is_unavailable`](LockError::is_unavailable) if the store did not answer: the lock is then
    /// held for [`remaining`](LockGuard::remaining).
    ///
    /// # Cancel safety
    ///
    /// The renewal goes on if the future is dropped.
    pub async fn renew(&self) -> Result<(), LockError> {
        self.hold.view().renew().await
    }

    /// Releases the lock and waits until the store has confirmed it.
    ///
    /// # Errors
    ///
    /// [`is_lost`](LockError::is_lost) if the lock was not held to the end, so that another may
    /// have held it meanwhile; [`is_unavailable`](LockError::is_unavailable) if the store did not
    /// answer: the lock is then free after its ttl; [`LockError::Config`] outside of tokio: the
    /// lock is then released in the background.
    ///
    /// # Cancel safety
    ///
    /// The release goes on in the background if the future is dropped.
    pub async fn release(self) -> Result<(), LockError> {
        self.hold.release().await
    }

    /// A view of the lock, for code that may inspect it but not release it.
    pub fn handle(&self) -> LockHandle {
        LockHandle::new(self.hold.view())
    }
}

/// A view of a held lock. It owns nothing and cannot release. It may outlive the guard, and the
/// lock then counts as lost.
///
/// The attribute binds one with `guard = name`; [`LockGuard::handle`] returns others. Cloning is
/// cheap.
#[derive(Clone)]
pub struct LockHandle(
    /// One pointer, so that a body that has a handle stays thin.
    Arc<View>,
);

impl LockHandle {
    pub(crate) fn new(view: &Arc<View>) -> LockHandle {
        LockHandle(Arc::clone(view))
    }

    /// The handle of a body that begins now, nested in that of this one, and ends after `max_hold`.
    pub(crate) fn nested(&self, max_hold: Option<Duration>) -> LockHandle {
        match max_hold {
            Some(max_hold) => LockHandle(Arc::new(self.0.limited(max_hold))),
            None => self.clone(),
        }
    }

    /// The key that was asked for.
    pub fn key(&self) -> &LockKey {
        self.0.key()
    }

    /// The value that names the owner in the store.
    pub fn owner_token(&self) -> &OwnerToken {
        self.0.owner()
    }

    /// A number larger than that of every earlier holder. Send it to the resource that the lock
    /// protects.
    pub fn fencing_token(&self) -> FencingToken {
        self.0.token()
    }

    /// The mode of the claim; see [`LockGuard::mode`].
    pub fn mode(&self) -> Mode {
        self.0.mode()
    }

    /// The part of the key; see [`LockGuard::shard`].
    pub fn shard(&self) -> u32 {
        self.0.shard().into()
    }

    /// The handle of a body that wants the key in this `mode`, nested in that of this one.
    pub(crate) fn as_part(&self, mode: Mode, shard: u8) -> LockHandle {
        LockHandle(Arc::new(self.0.as_part(mode, shard)))
    }

    /// Time for which the lock is still held at least, unless it is renewed; zero once it is lost
    /// or released.
    pub fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    /// Whether the lock is certainly still held; see [`LockGuard::is_held`].
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// Resolves when the lock is lost or released.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn lost(&self) {
        self.0.ended().await;
    }

    /// Extends the lease to its full ttl now; see [`LockGuard::renew`].
    ///
    /// # Errors
    ///
    /// As [`LockGuard::renew`].
    pub async fn renew(&self) -> Result<(), LockError> {
        self.0.renew().await
    }

    /// Whether the key can be kept for `least` from now on: see [`View::keep`].
    pub(crate) fn keep(&self, least: Duration, begins: Begins) -> bool {
        self.0.keep(least, begins)
    }

    /// `Ok` while the lock is held, else the error that says why it is not.
    pub(crate) fn check(&self) -> Result<(), LockError> {
        self.0.check()
    }

    /// What the lock is called.
    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The span of a body that runs under the lock.
    pub(crate) fn span(&self) -> HoldSpan {
        let observers = &self.0.engine().settings.observers;
        HoldSpan::default().and(observers, self.0.name(), self.key(), self.fencing_token())
    }

    /// The runtime that the lock is of.
    pub(crate) fn runtime(&self) -> LockRuntime {
        LockRuntime {
            engine: self.0.engine().clone(),
        }
    }

    /// The engine that holds the lock.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.0.engine()
    }

    /// Whether this is a lock of that runtime.
    pub(crate) fn is_of(&self, engine: &Arc<Engine>) -> bool {
        self.0.is_of(engine)
    }
}

impl fmt::Debug for LockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
