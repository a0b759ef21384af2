use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", lock_at_least_for = "55s")]
async fn job(id: u64) -> Result<(), LockError> {
    assert!(id > 0);
    Ok(())
}

fn main() {}
