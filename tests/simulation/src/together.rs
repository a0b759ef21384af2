//! Which leases may be there together, told apart from what the store makes of it.

use lock_protocol::{Kind, Mode};

/// Whether leases of these modes, and shards, may be there together.
pub(crate) fn fit(leases: impl IntoIterator<Item = (Mode, u8)>) -> bool {
    let leases: Vec<(Mode, u8)> = leases.into_iter().collect();
    let Some((first, _)) = leases.first() else {
        return true;
    };
    let permits = |(mode, _): &(Mode, u8)| match mode {
        Mode::Permits { take, of } => (u32::from(*take), *of),
        _ => (0, 0),
    };
    let mut shards: Vec<u8> = leases.iter().map(|(_, shard)| *shard).collect();
    shards.sort_unstable();
    let are_distinct = shards.windows(2).all(|pair| pair[0] != pair[1]);
    leases.iter().all(|(mode, _)| mode.kind() == first.kind())
        && match first.kind() {
            Kind::Exclusive => leases.len() == 1,
            Kind::Permits => {
                let permits = leases.iter().map(permits);
                let (taken, most) =
                    permits.fold((0, 0), |(sum, most), (take, of)| (sum + take, of.max(most)));
                taken <= most
            }
            Kind::Shard => are_distinct,
            _ => true,
        }
}

/// Whether there is something for a claim of this mode beside the leases.
pub(crate) fn has_room(leases: impl Iterator<Item = (Mode, u8)> + Clone, mode: Mode) -> bool {
    let mut shards = match mode {
        Mode::Shard { of, .. } => 0..of,
        _ => 0..1,
    };
    shards.any(|shard| mode.satisfies(&mode, shard) && fit(leases.clone().chain([(mode, shard)])))
}

/// The place of a kind in an array of all.
pub(crate) fn index(kind: Kind) -> usize {
    match kind {
        Kind::Exclusive => 0,
        Kind::Shared => 1,
        Kind::Permits => 2,
        _ => 3,
    }
}

/// All kinds, in the order of [`index`].
pub(crate) const KINDS: [Kind; 4] = [Kind::Exclusive, Kind::Shared, Kind::Permits, Kind::Shard];

/// What a kind is called.
pub(crate) fn name(kind: Kind) -> &'static str {
    ["exclusive", "shared", "permits", "shards"][index(kind)]
}
