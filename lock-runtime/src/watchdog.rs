//! Renews the leases of a runtime and notices those that ended.
//!
//! One task serves all leases. They are filed by the instant at which each next wants attention; the task sleeps until the first of these
//! and renews together what is due together. Where the backend has a thread of its own the task runs there, so that a body that blocks its
//! executor does not lose its lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backend::{BackendError, Renewal, Renewed};
use crate::backoff::jittered;
use crate::error::LockError;
use crate::front::{Front, no_answer};
use crate::hold::{Duty, Lease};
use crate::sync::lock;

/// How many leases are renewed under one deadline at the most, so that many do not fail together because they are many.
const BATCH: usize = 512;

/// The watch over the leases of one runtime.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// What the grid of [`Watchdog::renewal_at`] is counted from.
    epoch: Instant,
    files: Mutex<Files>,
    /// Told when the task must look earlier than it meant to.
    sooner: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Files {
    /// By instant, and by address where instants are equal.
    leases: BTreeMap<(Instant, usize), Arc<Lease>>,
    /// When the task wakes; `None` when there is none. It sleeps on when its next lease is released early, which saves a wake-up for
    /// each lease that is held only shortly.
    wakes_at: Option<Instant>,
}

impl Watchdog {
    pub(crate) fn new() -> Watchdog {
        Watchdog {
            epoch: Instant::now(),
            files: Mutex::default(),
            sooner: Arc::default(),
        }
    }

    /// When to renew a lease that was granted or renewed by a request sent at `sent_at`.
    ///
    /// Up to a quarter of the period early, on a grid of powers of two, so that leases of like periods are renewed in one go.
    pub(crate) fn renewal_at(&self, sent_at: Instant, period: Duration) -> Instant {
        let at = sent_at + period;
        let quarter = u64::try_from(period.as_millis() / 4).unwrap_or(u64::MAX);
        let Some(power) = quarter.checked_ilog2() else {
            return at;
        };
        let since_epoch = at.saturating_duration_since(self.epoch).as_millis() as u64;
        self.epoch + Duration::from_millis(since_epoch >> power << power)
    }

    /// Files `lease` under the instant at which it next wants attention.
    pub(crate) fn watch(&self, front: &Arc<Front>, lease: &Arc<Lease>) {
        let mut files = self.files();
        let Some(at) = lease.attention_at() else {
            return;
        };
        files.remove(lease);
        lease.refile(Some(at));
        files.leases.insert((at, address(lease)), lease.clone());
        match files.wakes_at {
            Some(wakes_at) if wakes_at <= at => {}
            Some(_) => {
                files.wakes_at = Some(at);
                self.sooner.notify_one();
            }
            None => {
                files.wakes_at = Some(at);
                drop(files);
                front.executor.spawn(Task::new(front).run());
            }
        }
    }

    /// Takes `lease` out of the files.
    pub(crate) fn forget(&self, lease: &Arc<Lease>) {
        self.files().remove(lease);
    }

    /// Ends the task before its time, if there is one.
    pub(crate) fn stop(&self) {
        self.sooner.notify_one();
    }

    /// Does what is due and tells when to come again; `None` when there is no lease left, and the task is to end.
    fn turn(&self, front: &Arc<Front>) -> Option<Instant> {
        let mut ended = Vec::new();
        let mut due: BTreeMap<Option<u32>, Vec<Arc<Lease>>> = BTreeMap::new();
        let now = Instant::now();
        let mut files = self.files();
        while let Some((&(at, _), lease)) = files.leases.first_key_value()
            && at <= now
        {
            let lease = lease.clone();
            files.remove(&lease);
            match lease.duty() {
                Duty::Forget => continue,
                Duty::CleanUp => {
                    ended.push(lease);
                    continue;
                }
                Duty::Renew => {
                    let patience = patience(front, &lease);
                    let like = patience.as_millis().checked_ilog2();
                    due.entry(like).or_default().push(lease.clone());
                }
                Duty::Wait => {}
            }
            // While a renewal is under way, the lease is watched for its end.
            if let Some(at) = lease.attention_at() {
                let at = at.max(now + Duration::from_millis(1));
                lease.refile(Some(at));
                files.leases.insert((at, address(&lease)), lease);
            }
        }
        files.wakes_at = files.leases.first_key_value().map(|(&(at, _), _)| at);
        let next = files.wakes_at;
        drop(files);

        for lease in ended {
            front.detach(&lease);
        }
        for leases in due.values().flat_map(|leases| leases.chunks(BATCH)) {
            let batch = Batch {
                front: front.clone(),
                leases: leases.to_vec(),
            };
            front.executor.spawn(batch.renew());
        }
        next
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }
}

impl Files {
    fn remove(&mut self, lease: &Arc<Lease>) {
        if let Some(at) = lease.refile(None) {
            self.leases.remove(&(at, address(lease)));
        }
    }
}

fn address(lease: &Arc<Lease>) -> usize {
    Arc::as_ptr(lease) as usize
}

/// The task. It holds the runtime weakly while it sleeps, so that it keeps nothing alive.
struct Task {
    front: Weak<Front>,
    sooner: Arc<Notify>,
    life: Life,
}

#[derive(PartialEq, Eq)]
enum Life {
    /// Not polled yet: the tokio runtime may be one that has ended.
    Unborn,
    Running,
    /// There was no lease left.
    Done,
}

impl Task {
    fn new(front: &Arc<Front>) -> Task {
        Task {
            front: Arc::downgrade(front),
            sooner: front.watchdog.sooner.clone(),
            life: Life::Unborn,
        }
    }

    async fn run(mut self) {
        self.life = Life::Running;
        loop {
            let Some(front) = self.front.upgrade() else {
                return;
            };
            let Some(next) = front.watchdog.turn(&front) else {
                self.life = Life::Done;
                return;
            };
            drop(front);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.sooner.notified() => {}
            }
        }
    }
}

/// The tokio runtime on which the task ran has ended, but others may hold leases: the task goes on where the lock runtime was built. If
/// that has ended too, the next lease starts another.
impl Drop for Task {
    fn drop(&mut self) {
        let Some(front) = self.front.upgrade().filter(|_| self.life != Life::Done) else {
            return;
        };
        let mut files = front.watchdog.files();
        let goes_on = self.life == Life::Running && !files.leases.is_empty();
        files.wakes_at = goes_on.then(Instant::now);
        drop(files);
        if goes_on {
            front.executor.spawn_at_home(Task::new(&front).run());
        }
    }
}

/// Leases whose renewal is under way. Dropped before the answer, they are renewed again.
struct Batch {
    front: Arc<Front>,
    leases: Vec<Arc<Lease>>,
}

impl Batch {
    async fn renew(mut self) {
        let front = self.front.clone();
        let tokens = front.settings.tokens();
        let renewals: Vec<Renewal> = self
            .leases
            .iter()
            .map(|lease| lease.renewal(tokens))
            .collect();
        let patience = self
            .leases
            .iter()
            .map(|lease| patience(&front, lease))
            .min();
        let sent_at = Instant::now();
        let mut answers = timeout(patience.unwrap_or_default(), front.backend.renew(&renewals))
            .await
            .unwrap_or_default()
            .into_iter();
        for lease in self.leases.drain(..) {
            let answer = answers.next().unwrap_or_else(|| Err(no_answer()));
            take_in(&front, &lease, sent_at, answer);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for lease in &self.leases {
            take_in(&self.front, lease, Instant::now(), Err(no_answer()));
        }
    }
}

/// How long to wait for the answer to a renewal: short enough for further tries before the lease ends.
fn patience(front: &Front, lease: &Lease) -> Duration {
    let left = lease.remaining(lease.token());
    let limit = front.settings.command_timeout.min(lease.terms.ttl / 4);
    limit.min(left / 3).max(Duration::from_millis(2))
}

/// Renews one lease because its holder asks for it.
pub(crate) async fn renew_now(front: Arc<Front>, lease: Arc<Lease>) -> Result<(), LockError> {
    let sent_at = Instant::now();
    let renewals = [lease.renewal(0)];
    let answers = timeout(patience(&front, &lease), front.backend.renew(&renewals))
        .await
        .unwrap_or_default();
    let answer = answers
        .into_iter()
        .next()
        .unwrap_or_else(|| Err(no_answer()))?;
    take_in(&front, &lease, sent_at, Ok(answer));
    Ok(())
}

/// Applies what the store answered, and files the lease anew.
fn take_in(
    front: &Arc<Front>,
    lease: &Arc<Lease>,
    sent_at: Instant,
    answer: Result<Renewed, BackendError>,
) {
    let period = lease.terms.renew;
    match answer {
        Ok(Renewed::Held(extension)) => {
            let next = period.map(|period| front.watchdog.renewal_at(sent_at, period));
            lease.renewed(sent_at, extension, next);
        }
        Ok(Renewed::Lost(_)) => {
            lease.was_lost();
            front.watchdog.forget(lease);
            return front.detach(lease);
        }
        // Whatever the error, trying costs little, and the deadline decides.
        Ok(_) | Err(_) => {
            let pause = period.unwrap_or(lease.terms.ttl / 10) / 2;
            lease.renewal_failed(jittered(pause.min(Duration::from_secs(1))));
        }
    }
    front.watchdog.watch(front, lease);
}
