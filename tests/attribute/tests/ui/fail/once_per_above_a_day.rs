use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", once_per = "7d")]
async fn job(id: u64) -> Result<(), LockError> {
    assert!(id > 0);
    Ok(())
}

fn main() {}
