#![deny(unused_variables)]

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", ttl = "5s")]
#[allow(unused_mut)]
async fn claim(id: u64, mut tenant: String) -> Result<u64, LockError> {
    Ok(id)
}

fn main() {}
