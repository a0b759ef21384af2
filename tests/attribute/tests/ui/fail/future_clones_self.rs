use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, distributed_lock};

#[derive(Clone)]
struct Service(u8);

impl Service {
    #[distributed_lock(key = "service")]
    fn call(&self) -> Pin<Box<dyn Future<Output = Result<u8, LockError>> + Send>> {
        let this = self.clone();
        Box::pin(async move { Ok(this.0) })
    }
}

fn main() {}
