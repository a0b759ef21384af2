use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, LockError> {
    let text: String = id;
    Ok(text.len() as u64)
}

fn main() {}
