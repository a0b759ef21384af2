use lock_runtime::{LockError, LockRuntime, distributed_lock};

macro_rules! locked {
    ($name:ident, $argument:ident, $key:literal) => {
        #[distributed_lock(key = $key, guard = lock)]
        async fn $name($argument: u32) -> Result<String, LockError> {
            Ok(lock.key().to_string())
        }
    };
}

locked!(visit, page, "page:<page>");

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    assert_eq!(LockRuntime::scope(locks, visit(3)).await?, "page:3");
    Ok(())
}
