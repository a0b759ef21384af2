//! What a backend does by itself: sessions of claims that wait are renewed, claims that nobody
//! expects are given back, and sessions that nobody uses are ended.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lock_protocol::{LockKey, OwnerToken};
use lock_store::KeyOrder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};

use crate::book::Due;
use crate::client::by;
use crate::core::Core;
use crate::ending::Why;
use crate::watching::Moved;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(25);

/// Runs until the backend has gone.
pub(crate) async fn run(
    core: Weak<Core>,
    order: Arc<KeyOrder>,
    mut moved: UnboundedReceiver<Moved>,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let moved = tokio::select! {
            _ = ticks.tick() => None,
            moved = moved.recv() => match moved {
                Some(moved) => Some(moved),
                None => return,
            },
        };
        let Some(core) = core.upgrade() else {
            return;
        };
        if let Some((key, owner)) = moved {
            look(&core, &order, &key, owner, Why::Moved);
            continue;
        }
        core.client.grow();
        for session in core.sessions.stale(false) {
            core.discard(session);
        }
        if !core.book.is_empty() {
            for due in core.book.due(Instant::now()) {
                attend(&core, &order, due);
            }
        }
    }
}

fn attend(core: &Arc<Core>, order: &Arc<KeyOrder>, due: Due) {
    match due {
        Due::Tend(owner) => {
            let core = Arc::clone(core);
            core.handle
                .clone()
                .spawn(async move { core.tend(&owner).await });
        }
        Due::Look(key, owner) => look(core, order, &key, owner, Why::Unasked),
        Due::GiveBack(key, owner) => look(core, order, &key, owner, Why::GraceIsOver),
    }
}

/// Looks after a claim, when what is being asked about its key has ended.
fn look(core: &Arc<Core>, order: &Arc<KeyOrder>, key: &LockKey, owner: OwnerToken, why: Why) {
    let handle = core.handle.clone();
    let core = Arc::clone(core);
    let job = async move { by(core.client.verb_ends(), core.look_after(&owner, why)).await };
    // One without a number is not overtaken.
    let _ = order.run(&handle, key, 0, job);
}
