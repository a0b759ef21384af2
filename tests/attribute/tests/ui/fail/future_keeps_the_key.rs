use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "length:<text>")]
#[allow(unused_variables)]
fn length(text: &str, length: usize) -> Pin<Box<dyn Future<Output = Result<usize, LockError>>>> {
    Box::pin(async move { Ok(length) })
}

fn main() {
    let _: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
}
