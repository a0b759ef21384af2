use lock_runtime::{KeyPart, LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "item:<id>")]
async fn touch<T, const N: usize>(id: T, data: [u8; N]) -> Result<usize, LockError>
where
    T: KeyPart + Send,
{
    drop(id);
    Ok(data.len())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert_eq!(LockRuntime::scope(locks, touch("a", [0; 3])).await?, 3);
    Ok(())
}
