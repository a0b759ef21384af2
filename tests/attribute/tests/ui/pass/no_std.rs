#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[distributed_lock(key = "plain:<id>", ttl = "5s", guard = lock)]
async fn plain(id: u8) -> Result<u64, LockError> {
    Ok(lock.fencing_token().as_u64())
}

#[distributed_lock(key = "boxed:<id>")]
fn boxed(id: u8) -> BoxFuture<'static, Result<u8, LockError>> {
    if id == 0 {
        return Box::pin(async { Ok(1) });
    }
    Box::pin(async move { Ok(id) })
}

fn main() {
    drop((plain(1), boxed(1)));
}
