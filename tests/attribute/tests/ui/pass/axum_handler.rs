use axum::extract::Path;
use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "seat:<id>", ttl = "5s")]
async fn reserve(Path(id): Path<u64>) -> Result<String, LockError> {
    Ok(format!("seat {id}"))
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert_eq!(LockRuntime::scope(locks, reserve(Path(7))).await?, "seat 7");
    Ok(())
}
