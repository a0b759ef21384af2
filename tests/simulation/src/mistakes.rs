//! Mistakes of the simulation itself.

/// Whether the resource forgets to compare fencing tokens.
#[cfg(not(lock_mistakes))]
pub(crate) const fn resource_ignores_token() -> bool {
    false
}

/// Whether the resource forgets to compare fencing tokens.
#[cfg(lock_mistakes)]
pub(crate) fn resource_ignores_token() -> bool {
    use lock_protocol::mistakes::{Mistake, made};
    made(Mistake::ResourceIgnoresToken)
}
