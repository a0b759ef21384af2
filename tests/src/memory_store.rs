//! The in-memory backend as a store under test.

use lock_conformance::Store;
use lock_runtime::backend::LockKey;
use lock_runtime::memory::{Fault, MemoryBackend};

/// A store in memory; its processes are handles to it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    /// What a test looks into.
    pub memory: MemoryBackend,
}

impl Store for MemoryStore {
    type Backend = MemoryBackend;

    async fn connect(&self) -> MemoryBackend {
        self.memory.clone()
    }

    async fn expire(&self, key: &LockKey) {
        self.memory.expire(key.as_str());
    }

    async fn seize(&self, key: &LockKey) {
        self.memory.steal(key.as_str());
    }

    async fn go_dark(&self) {
        self.memory.fail_next(usize::MAX, Fault::Unavailable);
    }

    async fn leftovers(&self) -> Vec<String> {
        let idle = self.memory.is_idle();
        (!idle)
            .then(|| "a lease or a waiter".to_owned())
            .into_iter()
            .collect()
    }
}
