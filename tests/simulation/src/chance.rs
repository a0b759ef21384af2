//! What decides where the simulation leaves something open.

use std::ops::Range;

use crate::clock::MS;
use crate::fault::Fault;

/// Chance, or whoever explores what there is to choose.
#[derive(Clone)]
pub(crate) enum Chance {
    /// A seed decides.
    Seeded(fastrand::Rng),
    /// A choice was made: see [`Choice`].
    Chosen(Choice),
}

/// What is chosen for one happening. Most things go their usual way, in no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Choice {
    /// The fault that happens, until it has.
    pub(crate) fault: Option<Fault>,
    /// Whether all that is seldom does happen, and lasts as long as it may.
    pub(crate) is_odd: bool,
    /// Whether it has made a difference.
    pub(crate) is_used: bool,
}

impl Choice {
    /// Whether this is a place for something odd.
    fn odd(&mut self) -> bool {
        self.is_used |= self.is_odd;
        self.is_odd
    }
}

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Chance {
        Chance::Seeded(fastrand::Rng::with_seed(seed))
    }

    /// A number of this range.
    pub(crate) fn of(&mut self, range: Range<u64>) -> u64 {
        match self {
            Chance::Seeded(rng) => rng.u64(range),
            Chance::Chosen(choice) if choice.is_odd => {
                choice.is_used = true;
                range.end - 1
            }
            Chance::Chosen(_) => range.start,
        }
    }

    /// The same, where all numbers of the range are as good.
    pub(crate) fn any(&mut self, range: Range<u64>) -> u64 {
        match self {
            Chance::Seeded(rng) => rng.u64(range),
            Chance::Chosen(_) => range.start,
        }
    }

    /// How long a message is on its way.
    pub(crate) fn latency(&mut self) -> u64 {
        match self {
            Chance::Seeded(rng) => rng.u64(MS / 10..2 * MS),
            Chance::Chosen(_) => 0,
        }
    }

    /// The number of one of so many.
    pub(crate) fn index(&mut self, of: usize) -> usize {
        match self {
            Chance::Seeded(rng) => rng.usize(0..of),
            Chance::Chosen(_) => 0,
        }
    }

    /// A number for pauses.
    pub(crate) fn spread(&mut self) -> u32 {
        match self {
            Chance::Seeded(rng) => rng.u32(..),
            Chance::Chosen(_) => 0,
        }
    }

    pub(crate) fn small(&mut self, range: Range<u8>) -> u8 {
        match self {
            Chance::Seeded(rng) => rng.u8(range),
            Chance::Chosen(choice) if choice.is_odd => {
                choice.is_used = true;
                range.end - 1
            }
            Chance::Chosen(_) => range.start,
        }
    }

    pub(crate) fn coin(&mut self) -> bool {
        match self {
            Chance::Seeded(rng) => rng.bool(),
            Chance::Chosen(choice) => choice.odd(),
        }
    }

    /// One of these; the one in the middle is the usual one.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        match self {
            Chance::Seeded(rng) => *rng.choice(all).unwrap_or(&all[0]),
            Chance::Chosen(choice) if choice.is_odd => {
                choice.is_used = true;
                all[0]
            }
            Chance::Chosen(_) => all[all.len() / 2],
        }
    }

    /// Whether something happens that has a chance of one in `of`.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        match self {
            Chance::Seeded(rng) => rng.u64(0..of) == 0,
            Chance::Chosen(choice) => choice.odd(),
        }
    }

    /// Whether this fault happens, which has a chance of one in `of`.
    pub(crate) fn strikes(&mut self, fault: Fault, of: u64) -> bool {
        match self {
            Chance::Seeded(_) => self.one_in(of),
            Chance::Chosen(choice) => choice.fault.take_if(|it| *it == fault).is_some(),
        }
    }

    /// By how much what follows in a connection is later at least.
    pub(crate) fn gap(&self) -> u64 {
        match self {
            Chance::Seeded(_) => 1,
            Chance::Chosen(_) => 0,
        }
    }
}
