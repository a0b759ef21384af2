//! A store with a saboteur in front of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_protocol::{Backend, GraceBy, LockKey};

use super::{Memo, Sabotage, Saboteur, Waiters, lock};
use crate::store::{Remaining, Store};

/// A store with a saboteur in front of it.
pub struct Sabotaged<S: Store> {
    pub(super) store: Arc<S>,
    pub(super) sabotage: Sabotage,
    pub(super) memo: Arc<Mutex<Memo>>,
    pub(super) waiters: Waiters<S>,
}

impl<S: Store> Sabotaged<S> {
    /// Puts `sabotage` in front of `store`.
    pub fn new(store: S, sabotage: Sabotage) -> Sabotaged<S> {
        Sabotaged {
            store: Arc::new(store),
            sabotage,
            memo: Arc::default(),
            waiters: Waiters::<S>::default(),
        }
    }

    /// Whether the sabotage breaks a promise of this store.
    pub async fn is_in_earnest(&self, promise: &str) -> bool {
        let limits = self.store.connect().await.limits();
        // Where processes end the grace, a waiter's lease has its whole ttl from the beginning.
        let is_whole = self.sabotage == Sabotage::RepeatsWithoutExtending
            && promise == "a_poll_turns_the_grace_into_the_full_ttl"
            && limits.grace == GraceBy::Process;
        !is_whole && self.sabotage.is_in_earnest(&limits)
    }
}

impl<S: Store> Store for Sabotaged<S> {
    type Backend = Saboteur<S>;

    const REMAINING: Remaining = S::REMAINING;
    const TTL_CHANGES: bool = S::TTL_CHANGES;
    const DEADLINE: Duration = S::DEADLINE;

    async fn connect(&self) -> Saboteur<S> {
        let inner = self.store.connect().await;
        Saboteur::new(inner, self)
    }

    async fn expire(&self, key: &LockKey) {
        {
            let mut memo = lock(&self.memo);
            memo.owners.remove(key);
            memo.grants = 0;
        }
        self.store.expire(key).await;
    }

    async fn seize(&self, key: &LockKey) {
        lock(&self.memo).owners.remove(key);
        self.store.seize(key).await;
    }

    async fn go_dark(&self) {
        self.store.go_dark().await;
    }

    async fn leftovers(&self) -> Vec<String> {
        self.store.leftovers().await
    }
}
