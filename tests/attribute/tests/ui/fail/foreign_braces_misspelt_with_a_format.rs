use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "order:{ordr:?}")]
async fn claim(order: u64) -> Result<u64, LockError> {
    Ok(order)
}

fn main() {}
