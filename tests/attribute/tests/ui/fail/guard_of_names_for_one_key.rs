use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "account:<from>", guard = [a, b])]
async fn transfer(from: u64, to: u64) -> Result<u64, LockError> {
    drop((a, b,));
    Ok(from + to)
}

fn main() {}
