use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<a>0<b>")]
async fn claim(a: u64, b: u64) -> Result<u64, LockError> {
    Ok(a + b)
}

fn main() {}
