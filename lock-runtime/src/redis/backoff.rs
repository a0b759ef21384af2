//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// Doubles from attempt to attempt, with jitter, so that many processes do not come at once when a server is back.
#[derive(Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The pause before the next attempt; none before the first.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).clamp(SHORTEST, LONGEST);
        // Each `RandomState` has keys of its own.
        let share = RandomState::new().hash_one(()) % 1000;
        pause / 2 + pause.mul_f64(share as f64 / 2000.0)
    }

    /// Makes the next pause at least this long (half of it, with the worst jitter).
    pub(super) fn at_least(&mut self, pause: Duration) {
        self.next = self.next.max(pause);
    }

    /// Starts anew after a connection that lived this long; a connection that breaks at once is no success.
    pub(super) fn rest(&mut self, lived: Duration) {
        if lived > LONGEST {
            self.next = Duration::ZERO;
        }
    }
}
