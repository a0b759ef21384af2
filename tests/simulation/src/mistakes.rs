//! Mistakes of the simulation itself: of the resource, and of the client of the store.

macro_rules! mistakes {
    ($($(#[$doc:meta])* $name:ident: $mistake:ident,)*) => {
        $(
            $(#[$doc])*
            #[cfg(not(lock_mistakes))]
            pub(crate) const fn $name() -> bool {
                false
            }

            $(#[$doc])*
            #[cfg(lock_mistakes)]
            pub(crate) fn $name() -> bool {
                use lock_protocol::mistakes::{Mistake, made};
                made(Mistake::$mistake)
            }
        )*
    };
}

mistakes! {
    /// Whether the resource forgets to compare fencing tokens.
    resource_ignores_token: ResourceIgnoresToken,
}
