//! A key that stays taken for its minimum hold.

use std::time::Duration;

use smallvec::SmallVec;

use crate::api::guard::LockHandle;
use crate::engine::Begins;
use crate::error::LockError;

/// Begins a minimum hold: from now on the keys stay taken for `least`, even if this process dies.
/// Leases that are too short for that are extended first.
pub(crate) async fn begin(handles: &[LockHandle], least: Duration) -> Result<(), LockError> {
    // The second time is enough, unless this process stood still in between.
    const TRIES: usize = 4;
    for _ in 0..TRIES {
        let short = |handle: &&LockHandle| !handle.keep(least, Begins::Later);
        let short: SmallVec<[&LockHandle; 1]> = handles.iter().filter(short).collect();
        let begins = |handle: &LockHandle| handle.keep(least, Begins::Now);
        if short.is_empty() && handles.iter().all(begins) {
            return Ok(());
        }
        for handle in short {
            handle.renew().await?;
        }
    }
    Err(LockError::Unavailable(
        "the store answers too late to keep the lock for its minimum hold".into(),
    ))
}
