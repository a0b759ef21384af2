use lock_runtime::{KeyBuilder, KeyPart, LockError, LockRuntime, distributed_lock};

struct CustomerId(u64);

impl KeyPart for CustomerId {
    fn add(&self, key: &mut KeyBuilder) {
        key.part(&self.0);
    }
}

#[distributed_lock(key = "customer:<id>", guard = lock)]
async fn bill(id: CustomerId) -> Result<String, LockError> {
    drop(id);
    Ok(lock.key().to_string())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert_eq!(LockRuntime::scope(locks, bill(CustomerId(9))).await?, "customer:9");
    Ok(())
}
