//! Protections that a test takes out, to show what they are for.

/// A protection that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(lock_mistakes), allow(dead_code, unreachable_pub))]
pub enum Mistake {
    /// A lease that lives renews the lock, whether or not its key is there.
    RenewsByTheLeaseAlone,
    /// A claim of which a question had no answer is deleted, and neither remembered nor its lease
    /// ended.
    WithdrawsByDeletionAlone,
}
