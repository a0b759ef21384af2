//! The source of fencing tokens.

use crate::mistakes::{Mistake, made};
use crate::token::{FenceBlock, FencingToken};

/// A counter, one for all keys, so that nothing need be kept for a key that nobody holds.
///
/// It follows the time of day in microseconds, and is never ahead of it unless that was set back:
/// so the first token from a new counter is larger than all from the one before.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Fence {
    /// The last token; zero if there was none.
    last: u64,
}

impl Fence {
    /// The last token that was given.
    pub(super) fn last(&self) -> FencingToken {
        FencingToken::new(self.last)
    }

    /// Raises the counter to the time in `micros`, and gives the newest of the tokens between, as
    /// many as wanted or fewer.
    ///
    /// It is one token where there are none between, and where the counter is new: an older one
    /// before the time may have been given before the counter was lost.
    pub(super) fn draw(&mut self, wanted: u32, micros: u64) -> FenceBlock {
        let micros = if made(Mistake::TokensWithoutTime) {
            0
        } else {
            micros
        };
        let further = u64::from(wanted.saturating_sub(1));
        let mut last = micros.max(self.last + 1);
        let mut first = match self.last {
            0 => last,
            old => last.saturating_sub(further).max(old + 1),
        };
        if made(Mistake::BlocksOutrunTime) {
            (first, last) = (last, last + further);
        }
        self.last = last;
        FenceBlock {
            first: FencingToken::new(first),
            last: FencingToken::new(last),
        }
    }
}
