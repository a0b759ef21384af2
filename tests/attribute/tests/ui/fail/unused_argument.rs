#![deny(unused_variables)]

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:all")]
async fn claim(id: u64, _user: u64) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
