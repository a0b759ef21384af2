use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "once", ttl = "1m 30s", renew = false, on_lost = continue)]
async fn once() -> Result<(), LockError> {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    LockRuntime::scope(locks, once()).await
}
