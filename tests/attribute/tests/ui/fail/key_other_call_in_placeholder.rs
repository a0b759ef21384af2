use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<name.to_lowercase()>")]
async fn claim(name: &str) -> Result<usize, LockError> {
    Ok(name.len())
}

fn main() {}
