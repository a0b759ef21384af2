use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "length:all")]
fn length(text: &str) -> Pin<Box<dyn Future<Output = Result<usize, LockError>> + Send>> {
    let text = text.to_owned();
    Box::pin(async move { Ok(text.len()) })
}

fn main() {
    let _: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
}
