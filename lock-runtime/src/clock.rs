//! The clock of this process: monotonic, and tokio's, so that a test can pause it.

use std::time::Duration;

use lock_protocol::Instant;

/// Longer than anybody waits, and short enough for sums.
pub(crate) const AGES: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// The present.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std().into()
}

/// `instant` of tokio's clock.
#[cfg(feature = "redis")]
pub(crate) fn to_seam(instant: tokio::time::Instant) -> Instant {
    instant.into_std().into()
}

/// The same instant, as tokio's timers want it.
pub(crate) fn to_tokio(at: Instant) -> tokio::time::Instant {
    tokio::time::Instant::from_std(at.into())
}

/// A random number, to spread pauses.
pub(crate) fn chance() -> u32 {
    fastrand::u32(..)
}
