//! True time, and the clocks of processes, which drift.

use std::time::Duration;

use lock_protocol::Instant;

use crate::chance::Chance;

/// True time in nanoseconds. The clock of the server is right.
pub(crate) type Time = u64;

pub(crate) const MS: Time = 1_000_000;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn nanos(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of one process: another origin, and up to half a percent fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: u64,
    /// How many nanoseconds it counts in a millisecond.
    rate: u64,
}

impl Clock {
    pub(crate) fn new(chance: &mut Chance) -> Clock {
        Clock {
            origin: chance.of(1_000..2_000) * 1_000_000_000,
            rate: MS - MS / 200 + chance.of(0..MS / 100 + 1),
        }
    }

    /// A clock that shows the true time.
    pub(crate) fn right() -> Clock {
        Clock {
            origin: 0,
            rate: MS,
        }
    }

    pub(crate) fn read(&self, now: Time) -> Instant {
        let counted = u128::from(now) * u128::from(self.rate) / u128::from(MS);
        Instant::from_nanos(self.origin + u64::try_from(counted).unwrap_or(u64::MAX))
    }

    /// When the clock will show `at`, or later.
    pub(crate) fn when(&self, at: Instant) -> Time {
        let counted = u128::from(at.as_nanos().saturating_sub(self.origin));
        let time = (counted * u128::from(MS)).div_ceil(u128::from(self.rate));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_an_instant_when_it_says_and_not_earlier() {
        let mut chance = Chance::seeded(1);
        for _ in 0..1000 {
            let clock = Clock::new(&mut chance);
            let at = clock.read(0) + Duration::from_nanos(chance.of(1..100_000_000_000));
            let time = clock.when(at);
            assert!(clock.read(time) >= at);
            assert!(clock.read(time - 1) < at);
        }
    }
}
