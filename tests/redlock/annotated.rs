//! Annotated functions that take the lock `k` on a majority of five servers.

use std::time::{Duration, Instant};

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::redlock_store::urls;
use lock_tests::server::Server;
use tokio::time::sleep;

pub(crate) async fn runtime(servers: &[Server]) -> LockRuntime {
    let builder = LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO);
    builder.build().await.unwrap()
}

/// Ends with an instant when the lock was held.
#[distributed_lock(key = "k", ttl = "5s", wait = "15s", runtime = locks)]
pub(crate) async fn when_held(locks: &LockRuntime) -> Result<Instant, LockError> {
    Ok(Instant::now())
}

#[distributed_lock(key = "k", ttl = "1s", wait = "0s", runtime = locks)]
pub(crate) async fn hold(locks: &LockRuntime, time: Duration) -> Result<(), LockError> {
    sleep(time).await;
    Ok(())
}
