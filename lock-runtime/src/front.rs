//! The heart of a runtime: what its locks, guards, drivers and watchdog share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_protocol::{FencingToken, LockKey};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::{BackendError, ErasedBackend};
use crate::claim::{Driver, Release, Start};
use crate::error::LockError;
use crate::executor::Executor;
use crate::hold::{Lease, Terms};
use crate::mailbox::Listening;
use crate::queue::{Answer, Entry, Outcome, Table};
use crate::settings::Settings;
use crate::watchdog::{self, Watchdog};

/// How long after the last answer to a command those who wait for it may still be told.
const MARGIN: Duration = Duration::from_millis(50);

/// How often a waiter starts another driver in the place of one that ended; in vain if what ended it is a panic in a user's function.
const RESTARTS: u32 = 3;

pub(crate) struct Front {
    pub(crate) backend: Listening,
    pub(crate) executor: Executor,
    pub(crate) settings: Settings,
    pub(crate) table: Table,
    pub(crate) watchdog: Watchdog,
    shut_down: AtomicBool,
    /// Told when a key leaves the table during a shutdown.
    pub(crate) quieter: Notify,
}

/// How a hold ends.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is returned"
)]
pub(crate) enum Ending {
    /// It has ended.
    Over(Result<(), LockError>),
    /// The store has to be told.
    Release { driver: Driver, release: Release },
}

impl Front {
    pub(crate) fn new(
        backend: Arc<dyn ErasedBackend>,
        executor: Executor,
        settings: Settings,
    ) -> Front {
        Front {
            backend: Listening::new(backend),
            executor,
            settings,
            table: Table::new(),
            watchdog: Watchdog::new(),
            shut_down: AtomicBool::new(false),
            quieter: Notify::new(),
        }
    }

    /// Gets the lock, or says within `wait` why not. Dropping the future gives up the place in the queue and, if need be, the lock.
    pub(crate) async fn acquire(
        self: &Arc<Front>,
        key: &LockKey,
        terms: Terms,
        wait: Duration,
    ) -> Result<Hold, LockError> {
        let started = Instant::now();
        let once = wait.is_zero();
        // Who does not wait for the lock still waits for the answer.
        let patience = if once {
            self.settings.command_timeout + 2 * MARGIN
        } else {
            wait
        };
        let deadline = later(started, patience);
        for _ in 0..=RESTARTS {
            let (mut place, driver) = self.enter(key, terms, once)?;
            if let Some(driver) = driver {
                driver.claim_here(deadline).await;
            }
            match timeout_at(deadline, &mut place.outcome).await {
                Ok(Ok(outcome)) => {
                    place.settled = true;
                    return outcome;
                }
                // The driver is gone, with the tokio runtime on which it ran: start another on this one.
                Ok(Err(_)) => tokio::task::yield_now().await,
                Err(_) => return place.give_up(started, once),
            }
        }
        Err(LockError::Unavailable(
            "the task that asks the store keeps ending".into(),
        ))
    }

    /// Puts a waiter into the queue of `key`, unless the answer is known already. The first of the queue gets the driver.
    fn enter(
        self: &Arc<Front>,
        key: &LockKey,
        terms: Terms,
        once: bool,
    ) -> Result<(Place, Option<Driver>), LockError> {
        let mut shard = self.table.shard(key);
        // Read under the lock of the shard, which a shutdown takes after it set the flag: nobody enters behind its back.
        if self.shut_down.load(Ordering::Acquire) {
            return Err(LockError::ShutDown);
        }
        let known = shard
            .get(key)
            .filter(|entry| once && entry.is_current())
            .and_then(|entry| entry.known_answer(key));
        if let Some(answer) = known {
            return Err(answer);
        }
        let mut nudge = None;
        let entry = shard.entry(key.clone()).or_insert_with(|| {
            let (entry, its_nudge) = Entry::driven();
            nudge = Some(its_nudge);
            entry
        });
        let id = self.table.next_id();
        let outcome = entry.push(id, terms, once);
        drop(shard);
        let place = Place {
            front: self.clone(),
            key: key.clone(),
            id,
            outcome,
            settled: false,
        };
        let driver = nudge.map(|nudge| Driver::new(self, key.clone(), nudge));
        Ok((place, driver))
    }

    /// Ends a hold: passes the lease on inside the process, or leaves it to a driver to release it.
    pub(crate) fn end(self: &Arc<Front>, lease: &Arc<Lease>, token: FencingToken) -> Ending {
        let key = &lease.key;
        let mut shard = self.table.shard(key);
        let entry = shard.get_mut(key).filter(|entry| entry.is_held_by(lease));
        let Some(entry) = entry else {
            drop(shard);
            return Ending::Over(self.end_detached(lease, token));
        };
        if let Some((waiter, token)) = entry.pass_on(token, &self.settings) {
            let undelivered = waiter.tell(Ok(Hold::new(self, lease, token)));
            drop(shard);
            drop(undelivered);
            return Ending::Over(Ok(()));
        }
        let lost = lease.give_up(token).err();
        // Who waits behind a holder knows that the lock is held; who comes now may be the next.
        let known = lost.is_none() && !entry.waiters.is_empty();
        let nudge = entry.drive(if known {
            Answer::Held { until: None }
        } else {
            Answer::None
        });
        drop(shard);
        self.watchdog.forget(lease);
        Ending::Release {
            driver: Driver::new(self, key.clone(), nudge),
            release: Release::new(lease.clone(), lost),
        }
    }

    /// Ends a hold whose lease has been lost: others may have the lock by now, but if the store has not noticed, they need not wait.
    fn end_detached(
        self: &Arc<Front>,
        lease: &Arc<Lease>,
        token: FencingToken,
    ) -> Result<(), LockError> {
        let lost = lease.give_up(token);
        let (front, lease) = (self.clone(), lease.clone());
        self.executor.spawn(async move {
            // The lease ends by itself, so one attempt is enough.
            let question = front.backend.release_detached(&lease.key, &lease.owner);
            let _ = front.ask(Instant::now(), question).await;
        });
        lost
    }

    /// Takes a lost lease out of the way of those who wait for its key.
    pub(crate) fn detach(self: &Arc<Front>, lease: &Arc<Lease>) {
        let mut shard = self.table.shard(&lease.key);
        let Some(entry) = shard
            .get_mut(&lease.key)
            .filter(|entry| entry.is_held_by(lease))
        else {
            return;
        };
        if entry.waiters.is_empty() {
            shard.remove(&lease.key);
            drop(shard);
            self.quieter.notify_waiters();
        } else {
            let nudge = entry.drive(Answer::None);
            drop(shard);
            Driver::new(self, lease.key.clone(), nudge).start(Start::Claim);
        }
    }

    /// Extends `lease` now, because its holder asks for it.
    pub(crate) async fn renew(
        self: &Arc<Front>,
        lease: &Arc<Lease>,
        token: FencingToken,
    ) -> Result<(), LockError> {
        lease.check(token)?;
        let (told, outcome) = oneshot::channel();
        let (front, renewed) = (self.clone(), lease.clone());
        self.executor.spawn(async move {
            let _ = told.send(watchdog::renew_now(front, renewed).await);
        });
        outcome.await.map_err(|_| LockError::ShutDown)??;
        lease.check(token)
    }

    /// The answer to one question that is put `now`, or an error once the time for it is up.
    pub(crate) async fn ask<T>(
        &self,
        now: Instant,
        question: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let answer = self.ask_until(None, now, question).await;
        answer.unwrap_or_else(|| Err(no_answer()))
    }

    /// The same, unless `deadline` comes first.
    pub(crate) async fn ask_until<T>(
        &self,
        deadline: Option<Instant>,
        now: Instant,
        question: impl Future<Output = Result<T, BackendError>>,
    ) -> Option<Result<T, BackendError>> {
        // Most often the backend keeps the timeout itself, and knows better what went wrong.
        let limit = now + self.settings.command_timeout + MARGIN;
        match deadline.filter(|deadline| *deadline < limit) {
            // One timer, not two.
            Some(deadline) => timeout_at(deadline, question).await.ok(),
            None => Some(
                timeout_at(limit, question)
                    .await
                    .unwrap_or_else(|_| Err(no_answer())),
            ),
        }
    }

    /// Removes the entry of `key` if nobody waits any more.
    pub(crate) fn leave_if_idle(&self, key: &LockKey) -> bool {
        let mut shard = self.table.shard(key);
        let idle = shard.get(key).is_none_or(|entry| entry.waiters.is_empty());
        if idle {
            shard.remove(key);
            drop(shard);
            self.quieter.notify_waiters();
        }
        idle
    }

    /// Refuses new claims, tells those who wait, and returns when nothing is held any more or the time is up.
    pub(crate) async fn shut_down(&self) -> Result<(), LockError> {
        self.shut_down.store(true, Ordering::Release);
        for mut shard in self.table.shards() {
            for entry in shard.values_mut() {
                entry.tell_all(|| LockError::ShutDown);
            }
        }
        let quiet = async {
            loop {
                let mut told = std::pin::pin!(self.quieter.notified());
                told.as_mut().enable();
                if self.table.is_empty() {
                    return;
                }
                told.await;
            }
        };
        let outcome = timeout(self.settings.shutdown_timeout, quiet).await;
        let closed = timeout(self.settings.command_timeout, self.backend.close()).await;
        // What could not be closed in time ends with the process.
        let _ = closed;
        match self.table.len() {
            0 => Ok(()),
            locks => outcome.map_err(|_| LockError::StillHeld { locks }),
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.watchdog.stop();
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRuntime")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The right of one holder to one lease. Dropping it ends the hold, in the background.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) front: Arc<Front>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) token: FencingToken,
    /// Whether the hold has been ended by [`Hold::release`].
    released: bool,
}

impl Hold {
    pub(crate) fn new(front: &Arc<Front>, lease: &Arc<Lease>, token: FencingToken) -> Hold {
        Hold {
            front: front.clone(),
            lease: lease.clone(),
            token,
            released: false,
        }
    }

    /// Ends the hold and waits for the answer of the store. Dropping the future loses the answer and nothing else.
    pub(crate) async fn release(mut self) -> Result<(), LockError> {
        self.released = true;
        match self.front.end(&self.lease, self.token) {
            Ending::Over(outcome) => outcome,
            Ending::Release { driver, release } => driver.release_here(release).await,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Ending::Release { driver, release } = self.front.end(&self.lease, self.token) {
            driver.start(Start::Release(release));
        }
    }
}

/// A place in the queue of a key; dropping it gives it up.
struct Place {
    front: Arc<Front>,
    key: LockKey,
    id: u64,
    /// Told under the lock of the shard in which the waiter leaves the queue: so an absent waiter has its outcome here.
    outcome: oneshot::Receiver<Outcome>,
    /// Whether the outcome has been taken.
    settled: bool,
}

impl Place {
    /// Leaves when the wait is used up; with the lock, if it came in that instant.
    fn give_up(mut self, started: Instant, once: bool) -> Result<Hold, LockError> {
        self.settled = true;
        let answer = {
            let mut shard = self.front.table.shard(&self.key);
            shard.get_mut(&self.key).map(|entry| {
                entry.remove(self.id);
                entry.answer()
            })
        };
        if let Ok(outcome) = self.outcome.try_recv() {
            return outcome;
        }
        match answer {
            Some(Answer::Held { .. }) if once => Err(LockError::Taken {
                key: self.key.clone(),
                remaining: None,
            }),
            Some(Answer::Held { .. }) => Err(LockError::Timeout {
                key: self.key.clone(),
                waited: started.elapsed(),
            }),
            Some(Answer::Failed(error)) => Err(LockError::from(error)),
            Some(Answer::None) | None => Err(LockError::Unavailable(
                "the store did not answer within the wait".into(),
            )),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut shard = self.front.table.shard(&self.key);
        if let Some(entry) = shard.get_mut(&self.key) {
            entry.remove(self.id);
        }
    }
}

pub(crate) fn no_answer() -> BackendError {
    BackendError::unavailable("no answer in time")
}

/// Why an `answer` is none: a failure, or a word of a later version of the seam.
pub(crate) fn not_known<T>(answer: Result<T, BackendError>) -> BackendError {
    let later = || BackendError::unavailable("the store answered what this version does not know");
    answer.err().unwrap_or_else(later)
}

/// `after` this long, or as late as anybody can tell.
pub(crate) fn later(start: Instant, after: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    start + after.min(AGES)
}
