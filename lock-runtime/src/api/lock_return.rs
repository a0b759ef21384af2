//! Return types of annotated functions.

use crate::error::LockError;

/// A return type that can carry a [`LockError`]: `Result<T, E>` with `E: From<LockError>`, under
/// any alias.
///
/// A function with another return type sets `on_error = path` for the value to return without a
/// lock.
///
/// # Examples
///
/// A response type of your own can carry the error itself:
///
/// ```
/// use lock_runtime::{LockError, LockReturn};
///
/// enum Reply { Done, Busy, Broken }
///
/// impl LockReturn for Reply {
///     fn from_lock_error(error: LockError) -> Reply {
///         if error.is_retryable() { Reply::Busy } else { Reply::Broken }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a locked function must be able to return a `LockError`",
    label = "`{Self}` cannot carry one",
    note = "return `Result<T, E>` with `E: From<LockError>`, or say what to return instead: `on_error = path`"
)]
pub trait LockReturn {
    /// The value to return instead of the body's.
    fn from_lock_error(error: LockError) -> Self;
}

// Not recommended, so that the error names what is asked for, and both ways to it, instead of
// `From` alone: the error type may be of another crate.
#[diagnostic::do_not_recommend]
impl<T, E: From<LockError>> LockReturn for Result<T, E> {
    fn from_lock_error(error: LockError) -> Self {
        Err(error.into())
    }
}
