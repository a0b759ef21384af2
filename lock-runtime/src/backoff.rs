//! How long to pause before asking a store again.

use std::time::Duration;

use crate::clock::chance;

/// Decides how long to pause before asking a store again that did not answer, or a holder that may
/// free its lock without a word.
///
/// Any `Fn(u32) -> Option<Duration>` is one.
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
    /// The pause after `failures` failures in a row (the first is 1); `None` to give up and tell
    /// those who wait.
    fn pause(&self, failures: u32) -> Option<Duration>;
}

impl<F: Fn(u32) -> Option<Duration> + Send + Sync + 'static> Retry for F {
    fn pause(&self, failures: u32) -> Option<Duration> {
        self(failures)
    }
}

/// Pauses that double from `first` up to `longest`, each shortened at random by up to a half, so
/// that processes that failed together do not come back together (Brooker, *Exponential Backoff and
/// Jitter*, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Retry for Backoff {
    /// Never gives up: those who wait have their own deadlines.
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
