use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(keys = ["a", "b"], shards = 4, guard = [a, b])]
async fn work() -> Result<(), LockError> {
    drop((a, b));
    Ok(())
}

fn main() {}
