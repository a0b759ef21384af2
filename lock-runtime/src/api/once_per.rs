//! A key that stays taken after a body that succeeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_protocol::Instant;
use tokio::time::sleep;

use crate::api::guard::LockHandle;
use crate::api::min_hold;
use crate::clock;
use crate::engine::Engine;
use crate::error::LockError;

/// For how long a key stays taken after a body that ended well, and whether the body of one call
/// did. Made anew for each call.
#[derive(Clone, Debug)]
pub(crate) struct OncePer {
    pub(crate) period: Duration,
    once: Once,
}

/// Where a body says whether it ended well.
#[derive(Clone, Debug, Default)]
pub struct Once(Arc<AtomicBool>);

impl Once {
    /// The body ended, and did what it is for or did not.
    pub fn ended(once: &Once, is_done: bool) {
        once.0.store(is_done, Ordering::Relaxed);
    }
}

impl OncePer {
    pub(crate) fn new(period: Duration) -> OncePer {
        OncePer {
            period,
            once: Once::default(),
        }
    }

    pub(crate) fn once(&self) -> Once {
        self.once.clone()
    }

    /// If the body that began at `began` ended well, keeps the keys of `handles` for what is left
    /// of the period, once they are released. A store that is away is asked until one of them is
    /// lost: nobody else can have them until then.
    pub(crate) async fn keep(
        &self,
        engine: &Engine,
        handles: &[LockHandle],
        began: Instant,
    ) -> Result<(), LockError> {
        if !self.once.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        let left = handles.iter().map(LockHandle::remaining).min();
        let deadline = clock::now() + left.unwrap_or_default();
        let mut failures = 0;
        loop {
            let now = clock::now();
            let rest = self.period.saturating_sub(now.since(began));
            if rest.is_zero() {
                return Ok(());
            }
            let error = match min_hold::begin(handles, rest).await {
                Err(error) if error.is_unavailable() && now < deadline => error,
                outcome => return outcome,
            };
            failures += 1;
            let Some(pause) = engine.settings.pause(failures) else {
                return Err(error);
            };
            sleep(pause.min(deadline.since(now))).await;
        }
    }
}
