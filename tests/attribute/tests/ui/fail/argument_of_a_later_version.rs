use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", version = 3)]
async fn claim(id: u64) -> Result<u64, LockError> {
    Ok(id)
}

fn main() {}
