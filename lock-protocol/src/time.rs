//! Instants of a monotonic clock that somebody else reads.

use core::num::NonZeroU64;
use core::ops::{Add, Sub};
use core::time::Duration;

/// An instant of the local monotonic clock, in nanoseconds since an origin of that clock.
///
/// Instants of different processes, or of different clocks, do not compare. Sums saturate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The instant `nanos` nanoseconds after the origin of the clock.
    pub const fn from_nanos(nanos: u64) -> Instant {
        // One more, so that an `Option` of it takes no room.
        Instant(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// The nanoseconds since the origin of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// The time since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        Instant::from_nanos(self.as_nanos().saturating_sub(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(feature = "std")]
mod standard {
    use std::time::Duration;

    use once_cell::sync::Lazy;

    use super::Instant;

    /// Some instant of the clock, and the place that it has: in the middle, since a clock that a
    /// test has paused may be behind it.
    static ANCHOR: Lazy<std::time::Instant> = Lazy::new(std::time::Instant::now);
    const ANCHORED_AT: u64 = 1 << 62;

    impl From<std::time::Instant> for Instant {
        fn from(instant: std::time::Instant) -> Instant {
            let anchor = Instant::from_nanos(ANCHORED_AT);
            match instant.checked_duration_since(*ANCHOR) {
                Some(after) => anchor + after,
                None => anchor - ANCHOR.duration_since(instant),
            }
        }
    }

    impl From<Instant> for std::time::Instant {
        fn from(instant: Instant) -> std::time::Instant {
            match instant.as_nanos().checked_sub(ANCHORED_AT) {
                Some(after) => *ANCHOR + Duration::from_nanos(after),
                None => {
                    let before = Duration::from_nanos(ANCHORED_AT - instant.as_nanos());
                    ANCHOR.checked_sub(before).unwrap_or(*ANCHOR)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate() {
        let now = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(now + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(
            Instant::from_nanos(5) - Duration::MAX,
            Instant::from_nanos(0)
        );
        assert_eq!(Instant::from_nanos(5).since(now), Duration::ZERO);
    }
}
