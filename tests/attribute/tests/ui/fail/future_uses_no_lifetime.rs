use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "length:all")]
fn length(text: &str) -> impl Future<Output = Result<usize, LockError>> + use<> {
    let length = text.len();
    async move { Ok(length) }
}

fn main() {
    let _: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
}
