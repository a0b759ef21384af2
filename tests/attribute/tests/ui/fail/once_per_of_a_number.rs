use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", once_per = "1h")]
async fn job(id: u64) -> Result<u64, LockError> {
    Ok(id)
}

fn main() {}
