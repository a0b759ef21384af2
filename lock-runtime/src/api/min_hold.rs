//! A key that stays taken for its minimum hold.

use std::time::Duration;

use smallvec::SmallVec;

use crate::api::guard::LockHandle;
use crate::error::LockError;

/// Begins a minimum hold: from now on the keys stay taken for `least`, even if this process dies.
/// Leases that are too short for that are extended first.
pub(crate) async fn begin(handles: &[LockHandle], least: Duration) -> Result<(), LockError> {
    // The second time is enough, unless this process stood still in between.
    const TRIES: usize = 4;
    for _ in 0..TRIES {
        let short = handles.iter().filter(|handle| !handle.keep(least, false));
        let short: SmallVec<[&LockHandle; 1]> = short.collect();
        if short.is_empty() && handles.iter().all(|handle| handle.keep(least, true)) {
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
