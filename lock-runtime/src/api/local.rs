//! What this process holds and waits for, without asking the store.

use crate::api::runtime::LockRuntime;
use crate::observe::LocalLock;

impl LockRuntime {
    /// The locks that this process holds by this runtime, the oldest first. It sends no question to
    /// the store, so it suits `/debug`, health checks and tests.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let guard = locks.lock("report:2026-11").name("report:<month>").acquire().await?;
    /// let held = locks.local();
    /// assert_eq!((held.len(), held[0].name), (1, "report:<month>"));
    /// assert_eq!(held[0].fencing_token, guard.fencing_token());
    /// guard.release().await?;
    /// assert!(locks.local().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn local(&self) -> Vec<LocalLock> {
        let mut locks = self.engine.local();
        locks.sort_by(|one, other| {
            other
                .held
                .cmp(&one.held)
                .then(one.key.as_str().cmp(other.key.as_str()))
        });
        locks
    }
}
