use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = format!("report:{year}-{month:02}"), guard = lock)]
async fn report(year: u32, month: u32) -> Result<String, LockError> {
    Ok(lock.key().as_str().to_owned())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert_eq!(LockRuntime::scope(locks, report(2026, 3)).await?, "report:2026-03");
    Ok(())
}
