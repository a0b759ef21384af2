//! Pauses before a store is asked again.

use std::time::Duration;

use crate::clock::chance;

/// A policy for the pauses before a store that did not answer is asked again. It also applies while
/// a foreign holder may free its lock without a message.
///
/// Any `Fn(u32) -> Option<Duration>` is a policy.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lock_runtime::backoff::Retry;
/// use lock_runtime::LockRuntime;
///
/// # async fn example() -> Result<(), lock_runtime::LockError> {
/// // Three more times, a tenth of a second apart; then the waiters get the error.
/// let locks = LockRuntime::in_memory()
///     .retry(|failures: u32| (failures <= 3).then_some(Duration::from_millis(100)))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub trait Retry: Send + Sync + 'static {
    /// The pause after `failures` failures in a row (the first is 1); `None` gives up, and the
    /// waiters get the error.
    fn pause(&self, failures: u32) -> Option<Duration>;
}

impl<F: Fn(u32) -> Option<Duration> + Send + Sync + 'static> Retry for F {
    fn pause(&self, failures: u32) -> Option<Duration> {
        self(failures)
    }
}

/// Pauses that double from `first` up to `longest`. Each is shortened at random by up to a half, so
/// processes that failed together do not come back together (Brooker, *Exponential Backoff and
/// Jitter*, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Retry for Backoff {
    /// Never gives up: waiters have their own deadlines.
    fn pause(&self, failures: u32) -> Option<Duration> {
        let doublings = failures.saturating_sub(1).min(31);
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        Some(jittered(pause))
    }
}

/// Between a half and the whole of `pause`.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let share = f64::from(chance()) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_and_are_bounded() {
        let backoff = Backoff {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(1),
        };
        for (failures, whole) in [(1, 50), (2, 100), (3, 200), (6, 1000), (40, 1000)] {
            let pause = backoff.pause(failures).expect("never gives up").as_millis();
            assert!((whole / 2..=whole).contains(&pause), "{failures}: {pause}");
        }
    }
}
