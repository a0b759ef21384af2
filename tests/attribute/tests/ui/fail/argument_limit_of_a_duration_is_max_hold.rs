use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "render", limit = "5s")]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
