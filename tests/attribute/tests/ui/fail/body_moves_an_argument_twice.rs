use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<name>")]
async fn claim(name: String) -> Result<String, LockError> {
    drop(name);
    Ok(name)
}

fn main() {}
