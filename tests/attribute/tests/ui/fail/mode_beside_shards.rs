use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "catalog", mode = shared, shards = 4, guard = lock)]
async fn work() -> Result<(), LockError> {
    drop(lock);
    Ok(())
}

fn main() {}
