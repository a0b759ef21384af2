//! Who holds a lock, in whichever process, and how the store is.

use lock_protocol::{BackendError, LockKey, OwnerToken, Released};
use tokio::time::timeout;

use crate::api::runtime::LockRuntime;
use crate::clock;
use crate::engine::within_tokio;
use crate::error::LockError;
use crate::observe::{Broken, Health, LockInfo, MemberHealth, ProcessInfo};

/// For those who look after locks: each asks the store once. The answer of a server may take the
/// [`command_timeout`](crate::LockRuntimeBuilder::command_timeout), and all twice as long.
impl LockRuntime {
    /// Who holds the lock, and who waits for it; `None` if nobody holds it. Nothing is changed by
    /// it.
    ///
    /// On Redis it takes the permissions of an operator, which the error of a missing one names.
    ///
    /// # Errors
    ///
    /// [`is_unsupported`](LockError::is_unsupported) on stores that cannot tell;
    /// [`is_unavailable`](LockError::is_unavailable) and [`is_denied`](LockError::is_denied) as of
    /// a lock; [`LockError::InvalidKey`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// use lock_runtime::Process;
    ///
    /// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// assert_eq!(locks.inspect("coupon:42").await?, None);
    ///
    /// let guard = locks.lock("coupon:42").acquire().await?;
    /// let info = locks.inspect("coupon:42").await?.expect("it is held");
    /// assert_eq!((&info.owner, info.process), (guard.owner_token(), Some(Process::current())));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn inspect(&self, key: impl AsRef<str>) -> Result<Option<LockInfo>, LockError> {
        let key = self.key_of(key.as_ref())?;
        let inspected = self.asked(self.engine.backend.inspect(&key)).await?;
        Ok(inspected.map(|inspected| LockInfo::of(&key, inspected)))
    }

    /// The processes that use locks with the prefix of this runtime, those that have been there
    /// longest first: by the cards that they leave in the store every 10 s, so that nothing is
    /// searched. One that has just begun is there after 10 s, and one that died is so for up to 30
    /// s.
    ///
    /// # Errors
    ///
    /// As of [`inspect`](LockRuntime::inspect).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let locks = lock_runtime::LockRuntime::in_memory().service("checkout").build().await?;
    /// let processes = locks.processes().await?;
    /// assert_eq!(processes[0].service, "checkout");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, LockError> {
        let prefix = &self.engine.settings.key_prefix;
        let cards = self.asked(self.engine.backend.cards(prefix)).await?;
        let mut processes: Vec<_> = cards.iter().filter_map(ProcessInfo::of).collect();
        processes.sort_by_key(|process| std::cmp::Reverse(process.up));
        Ok(processes)
    }

    /// Ends the lease of `owner`, which [`inspect`](LockRuntime::inspect) told, and hands the lock
    /// to whoever waits. It never ends the lease of the next holder: that has another owner.
    ///
    /// The holder learns of it by its next renewal, after a tenth of its ttl if nothing else was
    /// set, and works on until then: only what compares its
    /// [fencing token](crate::FencingToken) keeps it out meanwhile.
    ///
    /// # Errors
    ///
    /// As of [`inspect`](LockRuntime::inspect).
    ///
    /// # Cancel safety
    ///
    /// Whether the lease has ended is not known if the future is dropped, nor after an error that
    /// [`is_unavailable`](LockError::is_unavailable).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// use lock_runtime::observe::Broken;
    ///
    /// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let guard = locks.lock("coupon:42").acquire().await?;
    /// let info = locks.inspect("coupon:42").await?.expect("it is held");
    /// assert_eq!(locks.break_lock("coupon:42", &info.owner).await?, Broken::Broken);
    /// guard.lost().await;
    /// assert_eq!(locks.break_lock("coupon:42", &info.owner).await?, Broken::NotHeld);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn break_lock(
        &self,
        key: impl AsRef<str>,
        owner: &OwnerToken,
    ) -> Result<Broken, LockError> {
        let key = self.key_of(key.as_ref())?;
        let released = self
            .asked(self.engine.backend.break_lock(&key, owner))
            .await?;
        Ok(match released {
            Released::NotHeld => Broken::NotHeld,
            _ => Broken::Broken,
        })
    }

    /// Whether a lock could be had now, and which servers are away. It takes no lock, so it is for
    /// the readiness of a service: one that asks every few seconds disturbs nobody.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](LockError::is_unavailable) where the store as a whole gives no answer in
    /// time, [`is_unsupported`](LockError::is_unsupported) on a store of your own that cannot tell.
    /// A server that is away is no error.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let health = locks.health().await?;
    /// assert!(health.can_grant);
    /// assert_eq!(health.away().count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn health(&self) -> Result<Health, LockError> {
        let since = clock::now();
        let condition = self.asked(self.engine.backend.condition()).await?;
        let members = condition.members.into_iter().map(|member| MemberHealth {
            address: member.address,
            trouble: member.trouble,
        });
        Ok(Health {
            can_grant: condition.can_grant && !self.engine.is_shut_down(),
            members: members.collect(),
            took: clock::now().since(since),
        })
    }

    fn key_of(&self, key: &str) -> Result<LockKey, LockError> {
        Ok(LockKey::new(&self.engine.settings.key_prefix, key)?)
    }

    /// The answer of the store, if it comes in time.
    async fn asked<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, LockError> {
        within_tokio()?;
        let within = self.engine.settings.command_timeout.saturating_mul(2);
        match timeout(within, answer).await {
            Ok(answer) => Ok(answer?),
            Err(elapsed) => Err(BackendError::timed_out(elapsed).into()),
        }
    }
}
