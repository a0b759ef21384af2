use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[derive(Debug)]
enum ClaimError {
    Lock(LockError),
    SoldOut,
}

impl From<LockError> for ClaimError {
    fn from(error: LockError) -> ClaimError {
        ClaimError::Lock(error)
    }
}

#[distributed_lock(key = "coupon:<id>", ttl = "5s", wait = "2s")]
async fn claim(id: u64, left: u32) -> Result<u32, ClaimError> {
    left.checked_sub(1).ok_or(ClaimError::SoldOut)
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    assert!(matches!(claim(1, 1).await, Err(ClaimError::Lock(error)) if error.is_not_installed()));
    let locks = LockRuntime::in_memory().build().await?;
    LockRuntime::scope(locks, async {
        assert!(matches!(claim(1, 1).await, Ok(0)));
        assert!(matches!(claim(1, 0).await, Err(ClaimError::SoldOut)));
    })
    .await;
    Ok(())
}
