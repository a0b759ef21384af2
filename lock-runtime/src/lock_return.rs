//! What an annotated function must be able to return.

use crate::error::LockError;

/// A return type that can carry a [`LockError`].
pub trait LockReturn {
    /// The value to return instead of the body's.
    fn from_lock_error(error: LockError) -> Self;
}

impl<T, E: From<LockError>> LockReturn for Result<T, E> {
    fn from_lock_error(error: LockError) -> Self {
        Err(error.into())
    }
}
