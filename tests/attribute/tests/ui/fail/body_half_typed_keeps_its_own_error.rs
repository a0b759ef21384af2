use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, LockError> {
    let text = String::new();
    drop(text.);
    Ok(id)
}

fn main() {}
