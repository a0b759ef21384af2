//! Whether a function succeeded, for `once_per`.

/// A return type that says whether a call succeeded, for `once_per`: `()` always did, `Option<T>`
/// if it is `Some`, and `Result<T, E>` if it is `Ok`.
///
/// # Examples
///
/// A type of your own can implement it as well:
///
/// ```
/// use lock_runtime::LockDone;
///
/// enum Run { Done, Postponed }
///
/// impl LockDone for Run {
///     fn is_done(&self) -> bool {
///         matches!(self, Run::Done)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say whether a call did what it is for",
    label = "nothing tells whether the next call is to try again",
    note = "with `once_per` return `()`, `Option<T>` or `Result<T, E>`, or implement `LockDone`"
)]
pub trait LockDone {
    /// Whether it succeeded. If not, the next call may try again at once.
    fn is_done(&self) -> bool;
}

#[diagnostic::do_not_recommend]
impl LockDone for () {
    fn is_done(&self) -> bool {
        true
    }
}

#[diagnostic::do_not_recommend]
impl<T> LockDone for Option<T> {
    fn is_done(&self) -> bool {
        self.is_some()
    }
}

#[diagnostic::do_not_recommend]
impl<T, E> LockDone for Result<T, E> {
    fn is_done(&self) -> bool {
        self.is_ok()
    }
}
