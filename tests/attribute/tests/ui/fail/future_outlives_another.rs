use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "length:<x>")]
fn length<'a>(x: &'a str, y: &str) -> impl Future<Output = Result<usize, LockError>> + 'a {
    let length = y.len();
    async move { Ok(x.len() + length) }
}

fn main() {
    let _: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
}
