use std::time::Duration;

use lock_runtime::{LockError, LockRuntime, distributed_lock};

const TTL: Duration = Duration::from_secs(20);

#[distributed_lock(
    key = "coupon:{<tenant>}:<id>",
    ttl = TTL,
    wait = "1s 500ms",
    renew = "2s",
    max_hold = "1m",
    on_lost = cancel,
    on_taken = error,
    guard = lock,
    name = "coupon",
    runtime = locks,
    crate = ::lock_runtime,
)]
async fn claim(locks: &LockRuntime, tenant: &str, id: u64) -> Result<bool, LockError> {
    Ok(lock.remaining() <= TTL)
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert!(claim(&locks, "acme", 7).await?);
    Ok(())
}
