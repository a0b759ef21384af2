use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<name>-<id>")]
async fn claim(name: &str, id: u64) -> Result<u64, LockError> {
    Ok(id + name.len() as u64)
}

fn main() {}
