use std::io;

use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> io::Result<u64> {
    Ok(id)
}

fn main() {}
