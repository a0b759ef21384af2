use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use lock_protocol::store::{Messages, Moment, Store, Word};
use lock_protocol::*;

/// What one process has of a store in memory.
#[derive(Default)]
struct Memory {
    store: Arc<Mutex<Store<Sinks>>>,
    sinks: Sinks,
    numbers: Mutex<HashMap<LockKey, AskNumber>>,
    closed: OnceLock<()>,
}

type Sinks = Arc<Mutex<Vec<Weak<dyn News>>>>;

impl Memory {
    /// Does `verb`, unless it was overtaken, and tells whom the lock was handed to.
    fn ask<T, V>(&self, key: &LockKey, number: AskNumber, verb: V) -> Result<T, BackendError>
    where
        V: FnOnce(&mut Store<Sinks>, &Sinks, Moment) -> (T, Messages<Sinks>),
    {
        let mut numbers = self.numbers.lock().unwrap();
        let largest = numbers.entry(key.clone()).or_default();
        if self.closed.get().is_some() || (0 < number && number < *largest) {
            return Err(BackendError::unavailable("closed, or overtaken"));
        }
        *largest = number.max(*largest);
        let (now, micros) = (Instant::now().into(), 0);
        let mut store = self.store.lock().unwrap();
        let (answer, mut news) = verb(&mut store, &self.sinks, Moment { now, micros });
        while let Some(message) = news.pop() {
            if let Word::Granted(grant, since) = message.word {
                let owner = &message.owner;
                let sinks = message.way.lock().unwrap();
                let mut sinks = sinks.iter().filter_map(Weak::upgrade).peekable();
                let tell = |sink: Arc<dyn News>| sink.granted(key, owner.as_str(), grant, since);
                if sinks.peek().is_some() && !sinks.any(tell) {
                    news.extend(store.abandon(key, owner, false, Moment { now, micros }));
                }
            }
        }
        Ok(answer)
    }
}

impl Backend for Memory {
    fn limits(&self) -> Limits {
        Limits::default().with_modes()
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.sinks.lock().unwrap().push(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.ask(&claim.key, claim.number, |s, w, at| s.acquire(claim, w, at))
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let renew = |lease: &Renewal| self.ask(&lease.key, 0, |s, _, at| s.renew(lease, at));
        leases.iter().map(renew).collect()
    }

    async fn release(&self, lease: &Release) -> Result<Released, BackendError> {
        self.ask(&lease.key, lease.number, |s, w, at| s.release(lease, w, at))
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        let (key, owner, in_doubt) = (&claim.key, &claim.owner, claim.in_doubt);
        let withdraw = |s: &mut Store<_>, _: &_, at| ((), s.abandon(key, owner, in_doubt, at));
        self.ask(key, claim.number, withdraw)
    }

    async fn close(&self) {
        self.closed.set(()).ok();
    }
}
