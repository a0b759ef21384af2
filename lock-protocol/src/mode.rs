//! What a claim wants of a key, and which leases of a key go together.

/// What a claim wants of a key.
///
/// The exclusive mode excludes everything. The others go together with their own kind alone, up to
/// the limit that each claim brings, so that a limit changes with the code that names it. A backend
/// may ignore the mode: an exclusive grant satisfies every claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// The key, alone.
    #[default]
    Exclusive,
    /// The key, together with all others who share it.
    Shared,
    /// Some of the permits of the key.
    Permits {
        /// How many; from 1 to [`Mode::MOST_AT_ONCE`], and not more than there are.
        take: u8,
        /// How many there are, as far as this claim is concerned.
        of: u32,
    },
    /// One of the parts of the key, which are numbered from 0.
    Shard {
        /// How many parts there are; from 1 to [`Mode::MOST_SHARDS`].
        of: u8,
        /// Which one is liked best.
        prefer: u8,
        /// Those that will not do, one bit each, beginning with the lowest. There are others.
        except: u64,
    },
}

/// Which leases can go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// [`Mode::Exclusive`], which goes with none.
    Exclusive,
    /// [`Mode::Shared`].
    Shared,
    /// [`Mode::Permits`].
    Permits,
    /// [`Mode::Shard`].
    Shard,
}

impl Mode {
    /// How many permits a claim takes at the most.
    pub const MOST_AT_ONCE: u8 = 64;
    /// How many permits there are at the most.
    pub const MOST_PERMITS: u32 = 1_000_000;
    /// How many parts a key has at the most.
    pub const MOST_SHARDS: u8 = 64;

    /// Which leases it goes with.
    pub const fn kind(&self) -> Kind {
        match self {
            Mode::Exclusive => Kind::Exclusive,
            Mode::Shared => Kind::Shared,
            Mode::Permits { .. } => Kind::Permits,
            Mode::Shard { .. } => Kind::Shard,
        }
    }

    /// Whether a lease of this mode, which is the part `shard`, is what a claim of the mode
    /// `wanted` asks for.
    pub fn satisfies(&self, wanted: &Mode, shard: u8) -> bool {
        match (self, wanted) {
            (
                Mode::Shard { of, .. },
                Mode::Shard {
                    of: parts, except, ..
                },
            ) => of == parts && shard < *of && !is_excepted(shard, *except),
            _ => self == wanted,
        }
    }

    /// Whether a claim of this mode may be answered for who wants `wanted`, whatever it is given.
    pub fn is_as_good_as(&self, wanted: &Mode) -> bool {
        match (self, wanted) {
            (
                Mode::Shard { of, except, .. },
                Mode::Shard {
                    of: parts,
                    except: others,
                    ..
                },
            ) => of == parts && except == others,
            _ => self == wanted,
        }
    }

    /// The part that a claim of this mode gets of those that are not `taken`, one bit each: the one
    /// that is liked best, else the lowest. `None` if there is none; 0 where a key has no parts.
    pub fn shard_beside(&self, taken: u64) -> Option<u8> {
        let Mode::Shard { of, prefer, except } = *self else {
            return Some(0);
        };
        let is_free = |shard: &u8| *shard < of && !is_excepted(*shard, taken | except);
        Some(prefer)
            .filter(is_free)
            .or_else(|| (0..of.min(Mode::MOST_SHARDS)).find(is_free))
    }
}

/// Whether `shard` is among those `except`.
fn is_excepted(shard: u8, except: u64) -> bool {
    1_u64
        .checked_shl(shard.into())
        .is_none_or(|bit| except & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(of: u8, prefer: u8, except: u64) -> Mode {
        Mode::Shard { of, prefer, except }
    }

    #[test]
    fn a_claim_gets_the_part_it_likes_best_or_the_lowest_that_is_free() {
        assert_eq!(shard(4, 2, 0).shard_beside(0), Some(2));
        assert_eq!(shard(4, 2, 0).shard_beside(0b0101), Some(1));
        assert_eq!(shard(4, 2, 0b0110).shard_beside(0b0001), Some(3));
        assert_eq!(shard(4, 2, 0b0110).shard_beside(0b1001), None);
        assert_eq!(shard(64, 63, 0).shard_beside(0), Some(63));
        assert_eq!(shard(64, 63, 1 << 63).shard_beside(u64::MAX >> 1), None);
        // A preference of a time when there were more parts.
        assert_eq!(shard(2, 9, 0).shard_beside(0), Some(0));
        assert_eq!(Mode::Shared.shard_beside(u64::MAX), Some(0));
    }

    #[test]
    fn a_lease_satisfies_whoever_wants_its_like() {
        assert!(Mode::Shared.satisfies(&Mode::Shared, 0));
        assert!(!Mode::Shared.satisfies(&Mode::Exclusive, 0));
        let (one, two) = (
            Mode::Permits { take: 1, of: 5 },
            Mode::Permits { take: 2, of: 5 },
        );
        assert!(one.satisfies(&one, 0) && !one.satisfies(&two, 0));
        assert!(shard(4, 0, 0).satisfies(&shard(4, 3, 0b01), 1));
        assert!(!shard(4, 0, 0).satisfies(&shard(4, 3, 0b10), 1));
        assert!(!shard(4, 0, 0).satisfies(&shard(8, 3, 0), 1));
    }
}
