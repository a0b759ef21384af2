use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<idd>", tll = "5s", wait = 2, renew = true, on_lost = stop)]
async fn claim(id: u64) -> Result<u64, LockError> {
    Ok(id)
}

fn main() {}
