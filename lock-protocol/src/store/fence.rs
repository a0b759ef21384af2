//! The source of fencing tokens.

use crate::token::{FenceBlock, FencingToken};

/// One for all keys, so that nothing need be kept for a key that nobody holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    last: u64,
}

impl Fence {
    /// The next tokens, as many as wanted or fewer; none is below the time in `micros`.
    ///
    /// Where they run ahead of the time there is one token only, lest they outrun what makes them
    /// grow after a restart.
    pub(super) fn reserve(&mut self, wanted: u32, micros: u64) -> FenceBlock {
        let first = micros.max(self.last + 1);
        let further = if first > micros {
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
