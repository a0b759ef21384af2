use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", tll = "5s")]
async fn claim(id: u64) -> Result<u64, LockError> {
    Ok(id)
}

async fn caller() -> Result<u64, LockError> {
    claim(1).await
}

fn main() {}
