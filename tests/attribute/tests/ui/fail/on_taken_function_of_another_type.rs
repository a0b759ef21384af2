use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", on_taken = busy)]
async fn job(id: u64) -> Result<u64, LockError> {
    Ok(id)
}

fn busy(_: LockError) -> u64 {
    0
}

fn main() {}
