use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(keys = ["a", "b"], mode = shared)]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
