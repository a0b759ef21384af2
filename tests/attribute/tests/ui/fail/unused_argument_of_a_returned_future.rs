#![deny(unused_variables)]

use std::future::Future;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "door:<door>")]
fn open(tenant: u64, door: u8) -> impl Future<Output = Result<u8, LockError>> {
    async move { Ok(door) }
}

fn main() {}
