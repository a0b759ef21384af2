//! What saboteurs make of modes.

use lock_protocol::{Claim, FenceBlock, FencingToken, Grant, Mode};

use super::Sabotage;

/// The mode as the sabotaged store understands it.
pub(super) fn misread(sabotage: Sabotage, mode: Mode) -> Mode {
    match (sabotage, mode) {
        (Sabotage::IgnoresModes, _) => Mode::Exclusive,
        (Sabotage::MixesKinds, Mode::Permits { .. } | Mode::Shard { .. }) => Mode::Shared,
        (Sabotage::OnePermitMore, Mode::Permits { take, of }) => Mode::Permits { take, of: of + 1 },
        (_, mode) => mode,
    }
}

/// Changes what was granted to `claim`, after so many grants.
pub(super) fn spoil(sabotage: Sabotage, claim: &Claim, grant: &mut Grant, grants: u64) {
    match (sabotage, claim.mode) {
        (Sabotage::SameShardAlways, _) => grant.shard = 0,
        (Sabotage::EachShareHasItsFence, Mode::Shared) => {
            let token = FencingToken::new(grant.tokens.first.as_u64() + grants);
            grant.tokens = FenceBlock {
                first: token,
                last: token,
            };
        }
        _ => {}
    }
}
