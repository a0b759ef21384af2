//! How fresh the connection of a lane is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How fresh the connection of a lane is: a hand-over that arrives on it is younger than the last
/// command that was answered.
pub(super) struct Pulse {
    epoch: Instant,
    /// When the last command was sent that has been answered, in nanoseconds since `epoch`.
    answered: AtomicU64,
    /// Whether there is a connection, and so a subscription, as far as is known.
    connected: AtomicBool,
    /// Rung when the connection may be gone.
    suspect: Notify,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        Pulse {
            epoch: Instant::now(),
            answered: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            suspect: Notify::new(),
        }
    }

    /// An instant before everything that the server has not yet sent an answer past.
    pub(super) fn last_answered(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.answered.load(Ordering::Acquire))
    }

    /// Whether what is published to the lane is heard, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// A command sent at this instant has been answered.
    pub(super) fn answered(&self, sent_at: Instant) {
        let nanos = sent_at.saturating_duration_since(self.epoch).as_nanos();
        self.answered
            .fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// Makes the lane look whether its connection is alive.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }

    /// Resolves when somebody has doubts about the connection.
    pub(super) async fn suspected(&self) {
        self.suspect.notified().await;
    }
}
