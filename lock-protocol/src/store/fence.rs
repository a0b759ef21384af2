//! The source of fencing tokens.

use crate::mistakes::{Mistake, made};
use crate::token::{FenceBlock, FencingToken};

/// One for all keys, so that nothing need be kept for a key that nobody holds.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Fence {
    last: u64,
}

impl Fence {
    /// The last token that was given.
    pub(super) fn last(&self) -> FencingToken {
        FencingToken::new(self.last)
    }

    /// The next tokens, as many as wanted or fewer; none is below the time in `micros`.
    ///
    /// Where they run ahead of the time there is one token only, lest they outrun what makes them
    /// grow after a restart.
    pub(super) fn reserve(&mut self, wanted: u32, micros: u64) -> FenceBlock {
        let floor = if made(Mistake::TokensWithoutTime) {
            0
        } else {
            micros
        };
        let first = floor.max(self.last + 1);
        let further = if first > micros && !made(Mistake::BlocksOutrunTime) {
            0
        } else {
            wanted.saturating_sub(1)
        };
        self.last = first + u64::from(further);
        FenceBlock {
            first: FencingToken::new(first),
            last: FencingToken::new(self.last),
        }
    }
}
