use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", tll = "5s", guard = lock)]
async fn claim(id: u64) -> Result<u64, LockError> {
    let number = lock.fencing_token().as_u64();
    Ok(id + number)
}

fn main() {}
