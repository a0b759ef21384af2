use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "stock", shards = 65, guard = lock)]
async fn work() -> Result<(), LockError> {
    drop(lock);
    Ok(())
}

fn main() {}
