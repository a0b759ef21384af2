use locks::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "coupon:<id>", guard = lock, runtime = runtime)]
async fn claim(id: u64, runtime: LockRuntime) -> Result<u64, LockError> {
    drop((runtime, lock));
    Ok(id)
}

fn main() {}
