use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(keys = ["account:<from>", "account:<to>"], guard = [a, b, c])]
async fn transfer(from: u64, to: u64) -> Result<u64, LockError> {
    drop((a, b, c,));
    Ok(from + to)
}

fn main() {}
