//! The return value of a skipped function, whose lock another holds.

/// A return type that can say that nothing was done, for `on_taken = skip`: `()`, `Option<T>`,
/// `Result<(), E>` and `Result<Option<T>, E>`.
///
/// Not every type with a default implements it: nobody could distinguish a skipped `Ok(0)` from a
/// result.
///
/// # Examples
///
/// A type of your own can implement it as well:
///
/// ```
/// use lock_runtime::{LockError, LockReturn, LockSkip};
///
/// enum Run { Done, Skipped, Failed(LockError) }
///
/// impl LockSkip for Run {
///     fn skipped() -> Run {
///         Run::Skipped
///     }
/// }
///
/// impl LockReturn for Run {
///     fn from_lock_error(error: LockError) -> Run {
///         Run::Failed(error)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that a call was skipped",
    label = "no value of it means that nothing was done",
    note = "with `on_taken = skip`, or `once_per`, return `()`, `Option<T>`, `Result<(), E>` or `Result<Option<T>, E>`"
)]
pub trait LockSkip {
    /// The value to return when another holds the lock.
    fn skipped() -> Self;
}

#[diagnostic::do_not_recommend]
impl LockSkip for () {
    fn skipped() {}
}

#[diagnostic::do_not_recommend]
impl<T> LockSkip for Option<T> {
    fn skipped() -> Option<T> {
        None
    }
}

#[diagnostic::do_not_recommend]
impl<E> LockSkip for Result<(), E> {
    fn skipped() -> Result<(), E> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T, E> LockSkip for Result<Option<T>, E> {
    fn skipped() -> Result<Option<T>, E> {
        Ok(None)
    }
}
