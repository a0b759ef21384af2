//! A service that calls `lock-runtime` by a name of its own.

use locks::{LockError, distributed_lock};

/// Doubles a number under a lock.
///
/// # Errors
///
/// The lock was not taken.
#[distributed_lock(key = "renamed:<id>", crate = locks)]
pub async fn double(id: u8) -> Result<u16, LockError> {
    Ok(u16::from(id) * 2)
}
