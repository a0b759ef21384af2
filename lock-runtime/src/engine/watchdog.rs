//! Gives the keys the time.
//!
//! One task serves all keys of a lock runtime. It sleeps until the first of them wants the time,
//! and renews together what is due together. Where the backend has an executor of its own the task
//! runs there, so that a body that blocks its thread does not lose its lease. Elsewhere each tokio
//! runtime that uses the lock has such a task, and the one that built it, so that none depends on
//! another that has ended or stands still. Each does what is due for all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lock_protocol::Instant;
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::{Engine, asking, timer};
use crate::clock;
use crate::executor::Executor;
use crate::sync::lock;

/// The instant at which a task looks that has nothing to look for.
const NEVER: u64 = u64::MAX;

/// The watchdogs of an engine.
pub(super) enum Watchdogs {
    /// The one on the executor of the backend.
    Backend(Watchdog),
    /// One for each tokio runtime that has something to wait for, and one where the lock runtime
    /// was built.
    Callers {
        watchdogs: Mutex<Vec<(Id, Watchdog)>>,
        /// The tokio runtime that built the lock runtime, until it has ended. Locked while
        /// `watchdogs` is.
        built_on: Mutex<Option<Handle>>,
    },
}

/// The handle to a task, which ends when the handle is dropped.
pub(super) struct Watchdog {
    /// When the task next looks, in nanoseconds.
    looks_at: Arc<AtomicU64>,
    /// Told when it has to look earlier than it meant to.
    earlier: watch::Sender<()>,
}

impl Watchdogs {
    pub(super) fn new(executor: &Executor) -> Watchdogs {
        match executor {
            Executor::Backend(_) => Watchdogs::Backend(Watchdog::new()),
            Executor::Caller { built_on } => Watchdogs::Callers {
                watchdogs: Mutex::default(),
                built_on: Mutex::new(Some(built_on.clone())),
            },
        }
    }

    /// Starts the task that is always there, if there is one.
    pub(super) fn start(&self, engine: &Arc<Engine>) {
        if let Watchdogs::Backend(watchdog) = self {
            let task = watchdog.run(Arc::downgrade(engine));
            engine.executor.spawn_outliving_caller(task);
        }
    }

    /// Makes sure that somebody looks by `at`.
    pub(super) fn look_by(&self, engine: &Engine, at: Instant) {
        match self {
            Watchdogs::Backend(watchdog) => watchdog.look_by(at),
            Watchdogs::Callers {
                watchdogs,
                built_on,
            } => {
                let mut watchdogs = lock(watchdogs);
                // Where the task is gone, so is its tokio runtime.
                watchdogs.retain(|(_, watchdog)| watchdog.runs());
                let mut runs_on = |handle: &Handle| {
                    if watchdogs.iter().any(|(id, _)| *id == handle.id()) {
                        return true;
                    }
                    let watchdog = Watchdog::new();
                    handle.spawn(watchdog.run(engine.this.clone()));
                    let runs = watchdog.runs();
                    watchdogs.push((handle.id(), watchdog));
                    runs
                };
                if let Ok(here) = Handle::try_current() {
                    runs_on(&here);
                }
                // What is due outlives the tokio runtime of the caller, which may be about to end.
                let mut built_on = lock(built_on);
                built_on.take_if(|built_on| !runs_on(built_on));
                for (_, watchdog) in watchdogs.iter() {
                    watchdog.look_by(at);
                }
            }
        }
    }

    /// Whether the task that looks at `looks_at` may end, since nothing is due: then it is
    /// forgotten.
    fn forget_idle(&self, looks_at: &Arc<AtomicU64>) -> bool {
        let Watchdogs::Callers { watchdogs, .. } = self else {
            return false;
        };
        let mut watchdogs = lock(watchdogs);
        let is_idle = looks_at.load(Ordering::Acquire) == NEVER;
        if is_idle {
            watchdogs.retain(|(_, watchdog)| !Arc::ptr_eq(&watchdog.looks_at, looks_at));
        }
        is_idle
    }
}

impl Watchdog {
    fn new() -> Watchdog {
        Watchdog {
            looks_at: Arc::new(AtomicU64::new(NEVER)),
            earlier: watch::Sender::new(()),
        }
    }

    /// Whether the task is there.
    fn runs(&self) -> bool {
        self.earlier.receiver_count() > 0
    }

    fn look_by(&self, at: Instant) {
        let at = at.as_nanos();
        if self.looks_at.load(Ordering::Acquire) > at
            && self.looks_at.fetch_min(at, Ordering::AcqRel) > at
        {
            self.earlier.send_replace(());
        }
    }

    /// The task. It holds the engine weakly while it sleeps, so that it keeps nothing alive.
    fn run(&self, engine: Weak<Engine>) -> impl Future<Output = ()> + Send + use<> {
        let looks_at = self.looks_at.clone();
        // Now, so that it is told of what becomes due before it is first polled.
        let mut earlier = self.earlier.subscribe();
        async move {
            loop {
                earlier.mark_unchanged();
                let told = match looks_at.load(Ordering::Acquire) {
                    NEVER => Some(earlier.changed().await),
                    // A timer would be late by as much as a millisecond.
                    at if Instant::from_nanos(at) <= clock::now() => {
                        yield_now().await;
                        None
                    }
                    at => {
                        let at = timer(Instant::from_nanos(at));
                        timeout_at(at, earlier.changed()).await.ok()
                    }
                };
                match told {
                    // Something is due before. That is looked at when it is: most locks have been
                    // released by then, and the task sleeps on for those that come after them.
                    Some(Ok(())) => continue,
                    Some(Err(_)) => return,
                    None => {}
                }
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                // What becomes due from here on, and is not seen below, is told.
                looks_at.store(NEVER, Ordering::Release);
                match engine.tick() {
                    Some(next) => drop(looks_at.fetch_min(next.as_nanos(), Ordering::AcqRel)),
                    None if engine.watchdogs.forget_idle(&looks_at) => return,
                    None => {}
                }
            }
        }
    }
}

impl Engine {
    /// Does what is due. Returns when the next key wants the time.
    fn tick(self: &Arc<Engine>) -> Option<Instant> {
        let deferred = std::mem::take(&mut *lock(&self.deferred));
        for event in deferred.seen {
            self.settings.observers.tell(&event);
        }
        for ask in deferred.questions {
            asking::spawn(self, Box::new(ask));
        }
        #[cfg(feature = "metrics")]
        self.tell_oldest();
        let (all, next) = self
            .table
            .tick(&self.rules, self.settings.observers.is_on());
        let mut renewals = Vec::new();
        for mut effects in all {
            self.tell_shutdown(&effects);
            renewals.append(&mut effects.renewals);
            // It is among what `next` was made of.
            effects.due = None;
            effects.perform(self);
        }
        asking::renew(self, renewals);
        next
    }
}
