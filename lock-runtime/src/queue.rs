//! The waiters of this process, in front of those in the store.
//!
//! All tasks of a process that want one key stand in one FIFO, and at most one claim of theirs is in the store. A key has an entry in the
//! [`Table`] while somebody here holds the lock or a *driver* (see `claim`) is at work for it. Whoever ends a hold passes the
//! lease on to the head of the FIFO, within a budget that leaves other processes their turn, or else has a driver release it. This is
//! cohort locking (Dice, Marathe, Shavit: *Lock cohorting*, 2012) over a network.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use lock_protocol::{FencingToken, LockKey};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::backend::{BackendError, Holder};
use crate::error::LockError;
use crate::front::{Hold, later};
use crate::hold::{Lease, Terms};
use crate::settings::Settings;
use crate::sync::lock;

/// Enough that threads seldom meet, and few enough to look through.
const SHARDS: usize = 16;

/// What a waiter gets.
pub(crate) type Outcome = Result<Hold, LockError>;

/// The keys that somebody in this process holds or waits for.
#[derive(Debug)]
pub(crate) struct Table {
    shards: [Mutex<Entries>; SHARDS],
    next_id: AtomicU64,
}

/// The keys are hashed with a secret already.
type Entries = FxHashMap<LockKey, Entry>;

pub(crate) type Shard<'a> = MutexGuard<'a, Entries>;

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            shards: std::array::from_fn(|_| Mutex::default()),
            next_id: AtomicU64::new(0),
        }
    }

    /// An id for a waiter, larger than those given before. Asked for under the lock of the waiter's shard, so that ids there are in order.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The part of the table where `key` is. No future is awaited and no foreign code is called while it is locked.
    pub(crate) fn shard(&self, key: &LockKey) -> Shard<'_> {
        let index = key.hash_value() as usize % SHARDS;
        lock(&self.shards[index])
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = Shard<'_>> {
        self.shards.iter().map(lock)
    }

    pub(crate) fn len(&self) -> usize {
        self.shards().map(|shard| shard.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key that somebody here holds or wants.
#[derive(Debug)]
pub(crate) struct Entry {
    /// In the order of their arrival, and so of their ids.
    pub(crate) waiters: VecDeque<Waiter>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// A driver is at work.
    Driven {
        /// Tells the driver that the last waiter left.
        nudge: Arc<Notify>,
        /// What the store last said to it.
        answer: Answer,
    },
    /// A task of this process holds the lock.
    Held {
        lease: Arc<Lease>,
        /// What the budget of local passing is counted from.
        granted_at: Instant,
        passes: u32,
    },
}

/// What a store last said of a lock that somebody here waits for.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Nothing yet.
    None,
    /// Another holds it, until then unless it renews.
    Held { until: Option<Instant> },
    /// It could not be asked.
    Failed(Arc<BackendError>),
}

impl Answer {
    pub(crate) fn held(holder: &Holder) -> Answer {
        Answer::Held {
            until: holder
                .remaining
                .map(|remaining| later(Instant::now(), remaining)),
        }
    }
}

/// A task that wants the lock.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: u64,
    pub(crate) terms: Terms,
    /// Whether it leaves at the first answer.
    pub(crate) once: bool,
    outcome: oneshot::Sender<Outcome>,
}

impl Waiter {
    /// Tells the waiter what became of it. An outcome that comes back must be dropped when no lock is held.
    #[must_use]
    pub(crate) fn tell(self, outcome: Outcome) -> Option<Outcome> {
        self.outcome.send(outcome).err()
    }
}

impl Entry {
    /// An entry for which a driver is about to start, who is nudged by what comes with it.
    pub(crate) fn driven() -> (Entry, Arc<Notify>) {
        let (phase, nudge) = Phase::driven(Answer::None);
        let waiters = VecDeque::new();
        (Entry { waiters, phase }, nudge)
    }

    /// Adds a waiter under an `id` larger than any before it.
    pub(crate) fn push(&mut self, id: u64, terms: Terms, once: bool) -> oneshot::Receiver<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        self.waiters.push_back(Waiter {
            id,
            terms,
            once,
            outcome,
        });
        receiver
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if let Ok(index) = self.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            self.waiters.remove(index);
        }
        if let Phase::Driven { nudge, .. } = &self.phase
            && self.waiters.is_empty()
        {
            nudge.notify_one();
        }
    }

    /// Tells every waiter the same.
    pub(crate) fn tell_all(&mut self, error: impl Fn() -> LockError) {
        for waiter in self.waiters.drain(..) {
            // An error needs no care, whether or not it arrives.
            drop(waiter.tell(Err(error())));
        }
        if let Phase::Driven { nudge, .. } = &self.phase {
            nudge.notify_one();
        }
    }

    /// Whether what is known of the lock is kept up to date. A driver whom nobody waits for any more asks no further questions.
    pub(crate) fn is_current(&self) -> bool {
        !self.waiters.is_empty() || matches!(self.phase, Phase::Held { .. })
    }

    /// What a waiter who does not wait can be told without asking the store.
    pub(crate) fn known_answer(&self, key: &LockKey) -> Option<LockError> {
        let remaining = match &self.phase {
            Phase::Held { lease, .. } => Some(lease.remaining(lease.token())),
            Phase::Driven {
                answer: Answer::Held { until },
                ..
            } => until.map(|until| until.saturating_duration_since(Instant::now())),
            Phase::Driven {
                answer: Answer::Failed(error),
                ..
            } => return Some(LockError::from(error.clone())),
            Phase::Driven {
                answer: Answer::None,
                ..
            } => return None,
        };
        Some(LockError::Taken {
            key: key.clone(),
            remaining,
        })
    }

    /// What the store last said; a lock held here is held.
    pub(crate) fn answer(&self) -> Answer {
        match &self.phase {
            Phase::Driven { answer, .. } => answer.clone(),
            Phase::Held { .. } => Answer::Held { until: None },
        }
    }

    /// Takes in what the store said, and tells it to those who do not wait; a refusal for good to everybody.
    pub(crate) fn take_in(&mut self, key: &LockKey, heard: Answer) {
        let Phase::Driven { answer, .. } = &mut self.phase else {
            return;
        };
        *answer = heard;
        if let Answer::Failed(error) = answer
            && error.is_denied()
        {
            let error = error.clone();
            return self.tell_all(|| LockError::from(error.clone()));
        }
        if self.waiters.iter().any(|waiter| waiter.once) {
            let (once, staying) = std::mem::take(&mut self.waiters)
                .into_iter()
                .partition(|waiter| waiter.once);
            self.waiters = staying;
            let once: VecDeque<Waiter> = once;
            for waiter in once {
                if let Some(error) = self.known_answer(key) {
                    drop(waiter.tell(Err(error)));
                }
            }
        }
    }

    pub(crate) fn is_held_by(&self, lease: &Arc<Lease>) -> bool {
        matches!(&self.phase, Phase::Held { lease: held, .. } if Arc::ptr_eq(held, lease))
    }

    /// Whether the driver that is nudged by `nudge` is the one at work.
    pub(crate) fn is_driven_by(&self, nudge: &Arc<Notify>) -> bool {
        matches!(&self.phase, Phase::Driven { nudge: own, .. } if Arc::ptr_eq(own, nudge))
    }

    /// Leaves the key to a driver, who is nudged by what this returns.
    pub(crate) fn drive(&mut self, answer: Answer) -> Arc<Notify> {
        let (phase, nudge) = Phase::driven(answer);
        self.phase = phase;
        nudge
    }

    /// Leaves the key to the holder of `lease`, who has it from `now` on; whoever came only to try is told that it is taken.
    pub(crate) fn hold(&mut self, key: &LockKey, lease: Arc<Lease>, now: Instant) {
        self.take_in(key, Answer::Held { until: None });
        if self.waiters.is_empty() {
            // Most held locks are never waited for.
            self.waiters.shrink_to_fit();
        }
        self.phase = Phase::Held {
            lease,
            granted_at: now,
            passes: 0,
        };
    }

    /// Passes the lease on to the head of the queue, if the budget allows and the head gets no less than it asked for.
    pub(crate) fn pass_on(
        &mut self,
        token: FencingToken,
        settings: &Settings,
    ) -> Option<(Waiter, FencingToken)> {
        let Phase::Held {
            lease,
            granted_at,
            passes,
        } = &mut self.phase
        else {
            return None;
        };
        let terms = lease.terms;
        let alike = self.waiters.front()?.terms == terms;
        let within_budget = *passes < settings.local_passes
            && granted_at.elapsed() < terms.ttl.mul_f64(settings.local_share);
        if !alike || !within_budget {
            return None;
        }
        let least = match terms.renew {
            Some(_) => settings.grace.min(terms.ttl) / 2,
            // Nothing will be added to it.
            None => terms.ttl / 10 * 9,
        };
        let token = lease.pass_on(token, least)?;
        *passes += 1;
        Some((self.waiters.pop_front()?, token))
    }
}

impl Phase {
    fn driven(answer: Answer) -> (Phase, Arc<Notify>) {
        let nudge = Arc::<Notify>::default();
        let phase = Phase::Driven {
            nudge: nudge.clone(),
            answer,
        };
        (phase, nudge)
    }
}

impl From<Arc<BackendError>> for LockError {
    fn from(error: Arc<BackendError>) -> LockError {
        if error.is_denied() {
            LockError::Denied(Box::new(error))
        } else {
            LockError::Unavailable(Box::new(error))
        }
    }
}
