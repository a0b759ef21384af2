//! The order of what is asked about one key: clause 7 of the contract of a backend.
//!
//! Calls go over several connections, which are not ordered, so each waits for the one before it.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_protocol::{AskNumber, LockKey, Numbers, Overtaken};
use tokio::runtime::Handle;

/// A question, to be run to its end.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A queue for each key of which something is asked.
#[derive(Default)]
pub(crate) struct Lanes(Mutex<State>);

#[derive(Default)]
struct State {
    numbers: Numbers,
    /// The keys of which something is being asked, and what comes after it.
    busy: HashMap<LockKey, VecDeque<Job>>,
}

impl Lanes {
    /// Runs `job` on `home` when all that came before it for `key` has ended.
    pub(crate) fn run(
        self: &Arc<Lanes>,
        home: &Handle,
        key: &LockKey,
        number: AskNumber,
        job: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Overtaken> {
        let mut state = self.state();
        state.numbers.admit(key, number)?;
        let job: Job = Box::pin(job);
        if let Some(behind) = state.busy.get_mut(key) {
            behind.push_back(job);
            return Ok(());
        }
        state.busy.insert(key.clone(), VecDeque::new());
        drop(state);
        let (lanes, key) = (Arc::clone(self), key.clone());
        home.spawn(async move {
            let mut job = Some(job);
            while let Some(next) = job {
                next.await;
                job = lanes.next(&key);
            }
        });
        Ok(())
    }

    /// The next job of the key; without one the key is not busy any more.
    fn next(&self, key: &LockKey) -> Option<Job> {
        let mut state = self.state();
        let next = state.busy.get_mut(key)?.pop_front();
        if next.is_none() {
            state.busy.remove(key);
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
