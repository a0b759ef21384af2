use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "render", permits = 1_000_001)]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
