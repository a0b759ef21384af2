//! The instants of tokio's clock as instants of the seam, and back.

use std::time::Duration;

use tokio::time::Instant;

/// `instant` as the seam counts it.
pub(crate) fn to_seam(instant: Instant) -> lock_protocol::Instant {
    instant.into_std().into()
}

/// `instant` as tokio counts it.
pub(crate) fn from_seam(instant: lock_protocol::Instant) -> Instant {
    Instant::from_std(instant.into())
}

/// Until when a lease may be relied on that the store gave for `valid_for` in answer to a request sent
/// at `sent_at`.
pub(crate) fn valid_until(sent_at: Instant, valid_for: Duration) -> Instant {
    from_seam(lock_protocol::valid_until(to_seam(sent_at), valid_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_instant_survives_the_way_there_and_back() {
        let now = Instant::now();
        let later = now + Duration::from_nanos(1_000_000_007);
        assert_eq!(from_seam(to_seam(later)), later);
        let between = to_seam(later).since(to_seam(now));
        assert_eq!(between, Duration::from_nanos(1_000_000_007));
    }
}
