use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(keys = ["a", "b"], permits = 5)]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
