use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, LockError> {
    id += 1;
    Ok(id)
}

fn main() {}
