use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "stock", shards = 16)]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
