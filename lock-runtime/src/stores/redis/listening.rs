//! What the connections of links listen to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the connections of a link listen to.
#[derive(Clone)]
pub(super) enum Listening {
    /// To nothing.
    No,
    /// To this channel: each has ended before the next is opened, since nobody but the keeper has
    /// it.
    Always(Arc<str>),
    /// Each to a channel of its own: one that was given up may go on as long as somebody who waits
    /// for an answer is parked, and what comes by it must not be taken for what comes by the next.
    Anew(Arc<Channels>),
}

/// The names of channels.
pub(super) struct Channels {
    prefix: String,
    count: AtomicU64,
}

impl Channels {
    pub(super) fn new(prefix: String) -> Channels {
        let count = AtomicU64::new(0);
        Channels { prefix, count }
    }

    pub(super) fn next(&self) -> Arc<str> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", self.prefix).into()
    }
}
