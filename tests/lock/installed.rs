//! The runtime that a process installs.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[tokio::test]
async fn one_runtime_is_installed_for_good() {
    let missing = LockRuntime::global().unwrap_err();
    assert!(missing.is_not_installed(), "{missing:?}");

    #[distributed_lock(key = "k")]
    async fn annotated() -> Result<(), LockError> {
        Ok(())
    }
    assert!(annotated().await.unwrap_err().is_not_installed());

    let first = LockRuntime::in_memory().build().await.unwrap();
    first.install().unwrap();
    annotated().await.unwrap();
    let second = LockRuntime::in_memory().build().await.unwrap();
    assert!(matches!(second.install(), Err(LockError::AlreadyInstalled)));
}
