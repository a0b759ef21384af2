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

/// A duration of up to some 580 years, in half the room: as the instant so long after the origin.
/// An `Option` of it takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Span(Instant);

impl Span {
    pub(crate) const fn get(self) -> Duration {
        Duration::from_nanos(self.0.as_nanos())
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span(Instant::from_nanos(nanos(duration)))
    }
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

    #[test]
    fn a_span_is_the_duration_that_it_was_made_of() {
        for nanos in [0, 1, 86_400_000_000_000, u64::MAX - 1] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(Span::from(duration).get(), duration);
        }
        assert_eq!(
            Span::from(Duration::MAX).get(),
            Duration::from_nanos(u64::MAX - 1)
        );
        assert_eq!(size_of::<Option<Span>>(), 8);
    }
}
