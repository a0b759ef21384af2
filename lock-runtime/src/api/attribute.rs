//! Traits that the attribute requires of types, for its error messages.
//!
//! Users need not name or implement any of them. [`KeyPart`](crate::KeyPart) and
//! [`LockReturn`](crate::LockReturn) are for that.

use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8,
    NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize,
};
use std::sync::LazyLock;

use once_cell::sync::Lazy;

use crate::api::runtime::LockRuntime;

/// Types for `runtime = expression`: any `AsRef<LockRuntime>`, and a `LazyLock` of one.
///
/// `By` distinguishes the implementations, and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no `LockRuntime`, and has none",
    label = "given as the runtime",
    note = "`runtime` takes what is `AsRef<LockRuntime>`, or a `LazyLock` of it; of a pointer to that, as `Arc<App>`, write `runtime = *app`"
)]
pub trait HasRuntime<By> {
    /// The runtime.
    fn runtime(&self) -> &LockRuntime;
}

/// The runtime exists, or is a field of a value.
#[derive(Debug)]
pub enum ByReference {}

/// The runtime is made when it is first used.
#[derive(Debug)]
pub enum ByFirstUse {}

#[diagnostic::do_not_recommend]
impl<T: AsRef<LockRuntime> + ?Sized> HasRuntime<ByReference> for T {
    fn runtime(&self) -> &LockRuntime {
        self.as_ref()
    }
}

#[diagnostic::do_not_recommend]
impl<T: AsRef<LockRuntime>, F: FnOnce() -> T> HasRuntime<ByFirstUse> for LazyLock<T, F> {
    fn runtime(&self) -> &LockRuntime {
        (**self).as_ref()
    }
}

#[diagnostic::do_not_recommend]
impl<T: AsRef<LockRuntime>, F: FnOnce() -> T> HasRuntime<ByFirstUse> for Lazy<T, F> {
    fn runtime(&self) -> &LockRuntime {
        (**self).as_ref()
    }
}

#[diagnostic::do_not_recommend]
impl<T: HasRuntime<ByFirstUse> + ?Sized> HasRuntime<ByFirstUse> for &T {
    fn runtime(&self) -> &LockRuntime {
        (**self).runtime()
    }
}

/// Types for `keys = expression`: anything that yields texts, one after another.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not give texts, as keys are",
    label = "given as the keys",
    note = "`keys` takes a list of templates, or what can be iterated over and gives text, as `&names` or `ids.iter().map(|id| key!(\"account:<id>\"))`"
)]
pub trait Texts {
    /// The texts, in their order.
    fn texts(self) -> Vec<String>;
}

#[diagnostic::do_not_recommend]
impl<K: AsRef<str>, T: IntoIterator<Item = K>> Texts for T {
    fn texts(self) -> Vec<String> {
        let texts = self.into_iter();
        texts.map(|key| key.as_ref().to_owned()).collect()
    }
}

/// An integer, or a reference to one. In a template, its digits end where any other text begins.
///
/// Other values could go on there: only `:`, `{` and `}` never occur in them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an integer, so the text behind it does not separate it from the next value of the key",
    label = "not separated in the key",
    note = "values are kept apart by `:`, `{{` or `}}` in the template"
)]
pub trait Integer {
    /// Called by generated code, so that the compiler checks the type.
    #[doc(hidden)]
    fn check(&self) {}
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        #[diagnostic::do_not_recommend]
        impl Integer for $ty {}
    )*};
}

integers! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize
    NonZeroU8 NonZeroU16 NonZeroU32 NonZeroU64 NonZeroU128 NonZeroUsize
    NonZeroI8 NonZeroI16 NonZeroI32 NonZeroI64 NonZeroI128 NonZeroIsize
}

#[diagnostic::do_not_recommend]
impl<T: Integer + ?Sized> Integer for &T {}

#[diagnostic::do_not_recommend]
impl<T: Integer + ?Sized> Integer for &mut T {}

#[diagnostic::do_not_recommend]
impl<T: Integer + ?Sized> Integer for Box<T> {}
