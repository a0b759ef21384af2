//! Lease arithmetic: how long a grant may be relied on.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest ttl: below it, an ordinary pause of the scheduler ends the lease.
pub const MIN_TTL: Duration = Duration::from_millis(10);

/// The longest ttl: what a crashed holder can cost everyone else.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// `ttl` in whole milliseconds, if it is one that a lease can have.
///
/// A fraction of a millisecond is rounded up, since stores count in milliseconds and the caller must not get less than was asked for.
pub(crate) fn checked_ttl(ttl: Duration) -> Option<Duration> {
    let rounded = Duration::from_millis(u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).ok()?);
    (MIN_TTL..=MAX_TTL).contains(&rounded).then_some(rounded)
}

/// Until when a lease may be relied on that the store gave for `valid_for` in answer to a request sent at `sent_at`.
///
/// Counted from before the request left, since the store's clock may have started at any time after it, and shortened by what the two
/// clocks may drift apart meanwhile: 1 % and 2 ms, as in the Redlock algorithm (antirez, *Distributed locks with Redis*).
pub(crate) fn valid_until(sent_at: Instant, valid_for: Duration) -> Instant {
    // Nobody asked for more; a store that says so must not make the sum overflow.
    let valid_for = valid_for.min(MAX_TTL);
    let drift = valid_for / 100 + Duration::from_millis(2);
    sent_at + valid_for.saturating_sub(drift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_and_bounded() {
        let ms = Duration::from_millis;
        assert_eq!(checked_ttl(Duration::from_nanos(10_000_001)), Some(ms(11)));
        assert_eq!(checked_ttl(ms(9)), None);
        assert_eq!(checked_ttl(MAX_TTL), Some(MAX_TTL));
        assert_eq!(checked_ttl(MAX_TTL + Duration::from_nanos(1)), None);
        assert_eq!(checked_ttl(Duration::MAX), None);
        assert_eq!(checked_ttl(Duration::ZERO), None);
    }

    #[tokio::test]
    async fn a_lease_never_outlives_what_the_store_gave() {
        let now = Instant::now();
        assert_eq!(
            valid_until(now, Duration::from_secs(5)),
            now + Duration::from_millis(4948)
        );
        assert_eq!(valid_until(now, Duration::from_millis(1)), now);
    }
}
