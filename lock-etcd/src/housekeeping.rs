//! What a backend does by itself: claims that wait are kept alive, those that nobody expects are
//! given back, and leases that nobody uses are ended.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lock_store::KeyOrder;
use tokio::time::{MissedTickBehavior, interval};

use crate::book::Due;
use crate::core::Core;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(25);

/// Runs until the backend has gone.
pub(crate) async fn run(core: Weak<Core>, order: Arc<KeyOrder>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else {
            return;
        };
        if core.leases.has_idle() {
            for lease in core.leases.stale(false) {
                let core = Arc::clone(&core);
                core.handle.clone().spawn(async move {
                    let _ = core.leases.revoke(lease).await;
                });
            }
        }
        if !core.book.is_empty() {
            for due in core.book.due(Instant::now()) {
                attend(&core, &order, due);
            }
        }
    }
}

fn attend(core: &Arc<Core>, order: &Arc<KeyOrder>, due: Due) {
    let handle = core.handle.clone();
    let core = Arc::clone(core);
    match due {
        Due::Tend(owner) => {
            handle.spawn(async move { core.tend(&owner).await });
        }
        Due::Look(key, owner) => {
            let job = async move { core.look_after(&owner, false).await };
            // One without a number is not overtaken.
            let _ = order.run(&handle, &key, 0, job);
        }
        Due::GiveBack(key, owner) => {
            let job = async move { core.look_after(&owner, true).await };
            let _ = order.run(&handle, &key, 0, job);
        }
    }
}
