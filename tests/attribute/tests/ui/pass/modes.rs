use lock_runtime::{LockError, LockRuntime, distributed_lock};

const PERMITS: u32 = 5;

#[distributed_lock(key = "catalog", mode = shared, runtime = locks)]
async fn read(locks: &LockRuntime) -> Result<(), LockError> {
    Ok(())
}

#[distributed_lock(key = "catalog", mode = exclusive, runtime = locks)]
async fn write(locks: &LockRuntime) -> Result<(), LockError> {
    Ok(())
}

#[distributed_lock(key = "render", permits = PERMITS, min_hold = "10ms", runtime = locks)]
async fn render(locks: &LockRuntime) -> Result<(), LockError> {
    Ok(())
}

#[distributed_lock(key = "stock", shards = parts * 2, guard = lock, runtime = locks)]
async fn take(locks: &LockRuntime, parts: u32) -> Result<bool, LockError> {
    Ok(lock.shard() < 8)
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    read(&locks).await?;
    write(&locks).await?;
    render(&locks).await?;
    assert!(take(&locks, 4).await?);
    Ok(())
}
