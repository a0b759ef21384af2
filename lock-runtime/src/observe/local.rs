//! What this process holds.

use std::time::Duration;

use lock_protocol::{FencingToken, LockKey};

/// A lock that this process holds, as [`LockRuntime::local`](crate::LockRuntime::local) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalLock {
    /// Its name: the template of the attribute, or `-`.
    pub name: &'static str,
    /// Its key.
    pub key: LockKey,
    /// The fencing token of its holder.
    pub fencing_token: FencingToken,
    /// Time for which it has been held.
    pub held: Duration,
    /// Time for which it is still held at least, unless it is renewed.
    pub remaining: Duration,
    /// Number of tasks of this process that wait for it.
    pub waiting: usize,
}
