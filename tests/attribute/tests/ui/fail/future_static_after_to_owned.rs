use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "length:all")]
fn length(text: &str) -> impl Future<Output = Result<usize, LockError>> + 'static {
    let text = text.to_owned();
    async move { Ok(text.len()) }
}

fn main() {
    let _: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
}
