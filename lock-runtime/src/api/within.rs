//! A body within a hold that was acquired by hand.

use crate::api::body::{Call, Run};
use crate::api::entered::Entered;
use crate::api::guard::{LockGuard, LockHandle};
use crate::error::LockError;

impl LockGuard {
    /// Runs `body` within this hold: annotated functions of the same key that it calls run under
    /// it, as in [`Lock::run`](crate::Lock::run), instead of waiting for it in vain. The body is
    /// dropped at its current `.await` if the lock is lost. The guard stays held.
    ///
    /// # Errors
    ///
    /// [`is_lost`](LockError::is_lost), or [`is_max_hold`](LockError::is_max_hold), if the lock was
    /// not held until `body` had ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `body`.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::{LockError, LockRuntime, distributed_lock};
    ///
    /// #[distributed_lock(key = "stock", wait = "0s")]
    /// async fn count() -> Result<u32, LockError> {
    ///     Ok(7)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), LockError> {
    /// # let locks = LockRuntime::in_memory().build().await?;
    /// let mut guard = locks.lock("stock").acquire().await?;
    /// assert_eq!(guard.run(async |_| count().await).await??, 7);
    /// guard.release().await
    /// # }
    /// ```
    pub async fn run<T>(
        &mut self,
        body: impl AsyncFnOnce(LockHandle) -> T,
    ) -> Result<T, LockError> {
        let entered = Entered::within(self.handle());
        let body = body(self.handle());
        let body = std::pin::pin!(Some(async { Ok(body.await) }));
        Run::new(Call::Running(Some(entered)), body, Err).await
    }
}
