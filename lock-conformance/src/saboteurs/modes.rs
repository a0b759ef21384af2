//! What saboteurs make of modes.

use lock_protocol::{Claim, FenceBlock, FencingToken, Grant, Mode, Renewal};

use super::Sabotage;

/// The mode as the sabotaged store understands it.
pub(super) fn misread(sabotage: Sabotage, mode: Mode) -> Mode {
    match (sabotage, mode) {
        (Sabotage::IgnoresModes, _) => Mode::Exclusive,
        (Sabotage::MixesKinds, Mode::Permits { .. } | Mode::Shard { .. }) => Mode::Shared,
        (Sabotage::OnePermitMore, Mode::Permits { take, of }) => Mode::Permits { take, of: of + 1 },
        (Sabotage::IgnoresExcept, Mode::Shard { of, prefer, .. }) => Mode::Shard {
            of,
            prefer,
            except: 0,
        },
        (_, mode) => mode,
    }
}

/// How many hand-overs are told of by who tells of some.
pub(super) const TOLD: u64 = 16;

/// Whether a claim of this mode wants more permits than another, which may wait in front of it.
pub(super) fn is_heavier(mode: Mode, than: Mode) -> bool {
    match (mode, than) {
        (Mode::Permits { take, .. }, Mode::Permits { take: fewer, .. }) => take > fewer,
        _ => false,
    }
}

/// The renewal of what was granted to `claim`.
pub(super) fn renewal(claim: &Claim, grant: &Grant) -> Renewal {
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    renewal.mode = claim.mode;
    renewal.shard = grant.shard;
    renewal
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
