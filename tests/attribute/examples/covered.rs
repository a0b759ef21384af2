//! Functions whose coverage is measured: each line that says `counted` is expected to be.

use std::future::Future;
use std::pin::Pin;

use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "function:<id>")]
async fn function(id: u8) -> Result<u8, LockError> {
    if id == 0 {
        return Ok(1); // counted
    }
    tokio::task::yield_now().await; // counted
    Ok(id) // counted
}

struct Shop;

impl Shop {
    #[distributed_lock(key = "method", guard = lock)]
    async fn method(&self) -> Result<u64, LockError> {
        let token = lock.fencing_token(); // counted
        Ok(token.as_u64()) // counted
    }
}

#[distributed_lock(key = "boxed:<id>")]
fn boxed(id: u8) -> Pin<Box<dyn Future<Output = Result<u8, LockError>> + Send>> {
    Box::pin(async move {
        let id = id + 1; // counted
        Ok(id) // counted
    })
}

#[distributed_lock(key = "called:<id>")]
fn called(id: u8) -> impl Future<Output = Result<u8, LockError>> {
    let id = id + 1; // counted
    async move {
        Ok(id) // counted
    }
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    LockRuntime::in_memory().build().await?.install()?;
    function(0).await?;
    function(1).await?;
    Shop.method().await?;
    boxed(1).await?;
    called(1).await?;
    LockRuntime::global()?.shutdown().await
}
