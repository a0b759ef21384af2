use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "catalog", mode = "shared")]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
