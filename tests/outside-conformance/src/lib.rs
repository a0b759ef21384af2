//! A store of locks of somebody else, and its backend.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod sabotaged;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lock_protocol::store::{Message, Messages, Moment, Store, Word};
use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Limits, LockKey, News, OwnerToken, Release,
    Released, Renewal, Renewed,
};
use tokio::time::Instant;

type Sinks = Arc<Mutex<Vec<Weak<dyn News>>>>;

/// A table of locks.
#[derive(Clone, Default)]
pub struct Table {
    locks: Arc<Mutex<Store<Sinks>>>,
    is_down: Arc<AtomicBool>,
}

impl Table {
    /// Deletes the lease of `key`, as if it had run out.
    pub fn delete_lease(&self, key: &LockKey) {
        lock(&self.locks).expire(key.as_str());
    }

    /// Makes somebody else the owner of `key`, for ever.
    pub fn insert_foreigner(&self, key: &LockKey) {
        lock(&self.locks).steal(key.as_str(), OwnerToken::new("somebody else"));
    }

    /// Answers nothing any more.
    pub fn stop(&self) {
        self.is_down.store(true, Ordering::Relaxed);
    }

    /// What is held or waited for.
    pub fn rows(&self) -> Vec<String> {
        let is_idle = lock(&self.locks).is_idle(moment().now);
        if is_idle {
            Vec::new()
        } else {
            vec!["a lock".to_owned()]
        }
    }
}

/// What one process has of a table.
pub struct Client {
    table: Table,
    sinks: Sinks,
    numbers: Mutex<HashMap<LockKey, AskNumber>>,
    is_closed: AtomicBool,
}

impl Client {
    /// A client of `table`.
    pub fn of(table: &Table) -> Client {
        Client {
            table: table.clone(),
            sinks: Sinks::default(),
            numbers: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn ask<T>(
        &self,
        key: &LockKey,
        number: AskNumber,
        verb: impl FnOnce(&mut Store<Sinks>, Moment) -> (T, Messages<Sinks>),
    ) -> Result<T, BackendError> {
        if self.table.is_down.load(Ordering::Relaxed) || self.is_closed.load(Ordering::Relaxed) {
            return Err(BackendError::unavailable("nobody is there"));
        }
        let mut numbers = lock(&self.numbers);
        let largest = numbers.entry(key.clone()).or_default();
        if number > 0 && number < *largest {
            return Err(BackendError::unavailable("a later question was asked"));
        }
        *largest = number.max(*largest);
        let mut locks = lock(&self.table.locks);
        let (answer, mut messages) = verb(&mut locks, moment());
        while let Some(message) = messages.pop() {
            if !is_welcome(&message) {
                messages.extend(locks.abandon(key, &message.owner, false, moment()));
            }
        }
        Ok(answer)
    }
}

/// Tells a message; whether there was somebody who wanted it, or nobody to tell it to.
fn is_welcome(message: &Message<Sinks>) -> bool {
    let sinks: Vec<_> = lock(&message.way)
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    match message.word {
        Word::Granted(grant, since) => {
            let (key, owner) = (&message.key, message.owner.as_str());
            let mut told = sinks.iter();
            sinks.is_empty() || told.any(|sink| sink.granted(key, owner, grant, since))
        }
        Word::AskAt(at) => {
            sinks
                .iter()
                .for_each(|sink| sink.ask_at(&message.key, &message.owner, at));
            true
        }
    }
}

impl Backend for Client {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.keep = true;
        limits.modes = true;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        lock(&self.sinks).push(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.ask(&claim.key, claim.number, |locks, at| {
            locks.acquire(claim, &self.sinks, at)
        })
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let renew = |lease: &Renewal| self.ask(&lease.key, 0, |locks, at| locks.renew(lease, at));
        leases.iter().map(renew).collect()
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.ask(&release.key, release.number, |locks, at| {
            locks.release(release, &self.sinks, at)
        })
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.ask(&claim.key, claim.number, |locks, at| {
            (
                (),
                locks.abandon(&claim.key, &claim.owner, claim.in_doubt, at),
            )
        })
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

fn moment() -> Moment {
    Moment {
        now: Instant::now().into_std().into(),
        micros: 0,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
