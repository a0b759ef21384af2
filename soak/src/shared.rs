//! What the tasks of a process share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lock_runtime::LockRuntime;
use lock_tests::checker::{Nanos, Recorder, What};

use crate::effects::Effects;
use crate::plan::{Sabotage, Store};
use crate::resource::Resource;

/// What the tasks of a process share.
pub(crate) struct Worker {
    pub(crate) number: u32,
    pub(crate) log: Arc<Recorder>,
    pub(crate) effects: Effects,
    pub(crate) store: Store,
    /// Whether each lock is held alone.
    pub(crate) alone: bool,
    /// The protection that is removed, if one is.
    pub(crate) sabotage: Option<Sabotage>,
    /// In the order of [`Store::lock_places`].
    pub(crate) locks: Vec<LockRuntime>,
    pub(crate) resource: Resource,
    pub(crate) stopping: AtomicBool,
    pub(crate) claims: AtomicU64,
}

impl Worker {
    /// Notes what happened to `key` from `since` until now.
    pub(crate) fn record(&self, key: &str, since: Nanos, what: What) {
        // Without its log a run proves nothing.
        self.log
            .record(key, since, what)
            .expect("the log can be written");
    }

    /// A name for a claim that no other has.
    pub(crate) fn name_claim(&self) -> String {
        let claim = self.claims.fetch_add(1, Ordering::Relaxed);
        format!("{}/{claim}", self.number)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
