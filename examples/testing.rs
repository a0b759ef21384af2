//! How do I unit-test a function that is annotated?
//!
//! In memory: `LockRuntime::scope` puts a runtime of the test's own in the place of the installed
//! one, so tests run side by side. A `MemoryBackend` plays the rest of the world: it steals a lock,
//! lets it expire, or does not answer. Under tokio's paused clock, waiting takes no time.
//!
//! ```text
//! $ cargo test --example testing
//! running 4 tests
//! test tests::an_account_is_settled_by_one_at_a_time ... ok
//! test tests::a_lost_lock_ends_the_settlement ... ok
//! test tests::an_outage_is_not_taken_for_contention ... ok
//! test tests::who_waits_too_long_is_told ... ok
//! ```

use std::time::Duration;

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::time::sleep;

/// What is tested: settles an account, which takes a while.
#[distributed_lock(key = "account:<id>", ttl = "5s", wait = "2s")]
async fn settle(id: u64) -> Result<String, LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(format!("account {id} is settled"))
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    LockRuntime::in_memory().build().await?.install()?;
    println!("{}", settle(7).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use lock_runtime::memory::{Fault, MemoryBackend};
    use tokio::time::Instant;

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

    /// A store to play with, and a runtime on it.
    async fn world() -> Result<(MemoryBackend, LockRuntime), LockError> {
        let store = MemoryBackend::new();
        let locks = LockRuntime::backend(store.clone()).build().await?;
        Ok((store, locks))
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_is_settled_by_one_at_a_time() -> TestResult {
        let (store, locks) = world().await?;
        let started = Instant::now();
        let (one, two) =
            LockRuntime::scope(locks, async { tokio::join!(settle(7), settle(7)) }).await;
        assert_eq!(one?, two?);
        assert_eq!(started.elapsed().as_secs(), 2);
        assert!(store.is_idle());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told() -> TestResult {
        let (store, locks) = world().await?;
        store.steal("account:7");
        let outcome = LockRuntime::scope(locks, settle(7)).await;
        assert!(outcome.is_err_and(|error| error.is_timeout()));
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_not_taken_for_contention() -> TestResult {
        let (store, locks) = world().await?;
        store.fail_next(usize::MAX, Fault::Unavailable);
        let outcome = LockRuntime::scope(locks, settle(7)).await;
        assert!(outcome.is_err_and(|error| error.is_unavailable()));
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lock_ends_the_settlement() -> TestResult {
        let (store, locks) = world().await?;
        let thief = async {
            sleep(Duration::from_millis(500)).await;
            assert!(store.is_held("account:7"));
            store.steal("account:7");
        };
        let (outcome, ()) =
            LockRuntime::scope(locks, async { tokio::join!(settle(7), thief) }).await;
        assert!(outcome.is_err_and(|error| error.is_lost()));
        Ok(())
    }
}
