//! What this process holds.

use std::time::Duration;

use lock_protocol::{FencingToken, LockKey};

/// A lock that this process holds, as [`LockRuntime::local`](crate::LockRuntime::local) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalLock {
    /// What it is called: the template of the attribute, or `-`.
    pub name: &'static str,
    /// Its key.
    pub key: LockKey,
    /// The number of its holder.
    pub fencing_token: FencingToken,
    /// For how long it has been held.
    pub held: Duration,
    /// How long it is held at least, unless it is renewed.
    pub remaining: Duration,
    /// How many tasks of this process wait for it.
    pub waiting: usize,
}
