use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "user:<user>")]
async fn visit(user: Option<u64>) -> Result<(), LockError> {
    drop(user);
    Ok(())
}

fn main() {}
