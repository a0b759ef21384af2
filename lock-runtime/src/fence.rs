//! Fencing tokens: numbers that grow with every grant of a key.

use std::fmt;

/// A number that grows with every grant of a key.
///
/// Give it to whatever the lock protects: a resource that remembers the largest token it has seen and refuses smaller ones is safe from
/// holders that lost their lease without noticing, which no lock can be by itself
/// (Kleppmann, *How to do distributed locking*, 2016).
///
/// Below 2^53, so that it survives JSON numbers, and a `BIGINT` holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number.
    pub const fn new(number: u64) -> FencingToken {
        FencingToken(number)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The token after this one.
    pub(crate) const fn next(self) -> FencingToken {
        FencingToken(self.0 + 1)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

/// The fencing tokens that a grant reserved: `first` for its holder, the rest for those to whom the holder's process passes the lease on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceBlock {
    /// The token of the claim that was granted.
    pub first: FencingToken,
    /// The last reserved token; not smaller than `first`.
    pub last: FencingToken,
}
