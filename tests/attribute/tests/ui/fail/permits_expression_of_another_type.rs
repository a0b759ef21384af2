use lock_runtime::{LockError, distributed_lock};

const LIMIT: usize = 5;

#[distributed_lock(key = "render", permits = LIMIT)]
async fn work() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
