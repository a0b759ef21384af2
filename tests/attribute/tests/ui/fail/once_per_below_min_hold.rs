use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", min_hold = "2h", once_per = "1h")]
async fn job(id: u64) -> Result<(), LockError> {
    assert!(id > 0);
    Ok(())
}

fn main() {}
