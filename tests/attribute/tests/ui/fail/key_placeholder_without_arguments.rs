use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn sweep() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
