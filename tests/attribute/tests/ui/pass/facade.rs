//! A crate that re-exports the runtime names its own path.
#![deny(warnings)]

mod facade {
    pub use lock_runtime;
}

use facade::lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "path", crate = crate::facade::lock_runtime)]
async fn by_path() -> Result<(), LockError> {
    Ok(())
}

#[distributed_lock(key = "text", crate = "crate::facade::lock_runtime")]
async fn by_text() -> Result<(), LockError> {
    Ok(())
}

fn main() {
    drop((by_path(), by_text()));
}
