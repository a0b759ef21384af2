//! Performs what the state machines of the keys want done.
//!
//! The protocol is not in here: what one process does about one key is decided by
//! [`machine::Key`](lock_protocol::machine::Key), of which the [`table`] has one for each key that
//! somebody here holds or wants. The engine feeds it with events and performs its actions.
//!
//! - [`table`]: the keys, each under the mutex of its shard.
//! - [`entry`]: one of them, and who waits to be told.
//! - [`seats`]: where those wait who are to be told.
//! - [`effects`]: what one event asks for.
//! - [`asking`]: performs it when no mutex is held: questions and renewals.
//! - [`watchdog`]: gives the keys the time, and renews in batches what is due together.
//! - [`waiting`]: the future of a caller, for a lock or for the end of a release.
//! - [`hold`]: what a holder has in hand.
//! - [`watch`]: what observers are told.
//! - [`card`]: what the process says of itself in the store.
//!
//! A question goes out from the caller's own future: a free lock needs no task, no channel and no
//! other thread. What a caller drops, and what its answer does not settle, the executor goes on
//! with.

mod asking;
mod card;
mod effects;
mod entry;
mod hold;
mod last_shards;
mod seats;
mod table;
mod together;
mod waiting;
mod watch;
mod watchdog;

#[cfg(feature = "metrics")]
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lock_protocol::machine::{Ask, Event};
use lock_protocol::{
    BackendError, Card, Grant, Instant, LockKey, MAX_TTL, MIN_TTL, News, Note, OwnerToken, Rules,
    Terms,
};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;
#[cfg(feature = "tracing")]
use tracing::Instrument;

use self::card::Identity;
use self::effects::Effects;
use self::entry::Entry;
pub(crate) use self::hold::{Hold, View};
use self::table::{Table, Turn};
use self::watchdog::Watchdogs;
use crate::backend::ErasedBackend;
use crate::clock;
use crate::error::LockError;
use crate::executor::Executor;
use crate::observe::LocalLock;
use crate::observe::LockEvent;
#[cfg(feature = "tracing")]
use crate::observe::traces;
use crate::settings::Settings;
use crate::sync::lock;

/// Added to `command_timeout`, so that the backend's own, better error arrives first.
const MARGIN: Duration = Duration::from_millis(50);

/// How many locks are named that keep a runtime from shutting down.
const MOST_NAMED: usize = 10;

/// What a runtime, its locks and its guards share.
pub(crate) struct Engine {
    this: Weak<Engine>,
    pub(crate) backend: Arc<dyn ErasedBackend>,
    executor: Executor,
    pub(crate) settings: Settings,
    rules: Rules,
    identity: Identity,
    table: Table,
    watchdogs: Watchdogs,
    /// What came up where nothing may be asked, nor functions of users be called, for the watchdog.
    deferred: Mutex<Deferred>,
    /// Why there is no connection to the store, as far as that is told.
    trouble: Mutex<Option<Arc<BackendError>>>,
    is_shut_down: AtomicBool,
    /// Told when a shutdown begins.
    closing: Notify,
    /// Told during a shutdown when something was done about a key that is not held.
    key_freed: Notify,
}

/// A lock that is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) key: &'a LockKey,
    /// What it is called.
    pub(crate) name: &'static str,
    pub(crate) terms: Terms,
}

/// When a hold begins: its `max_hold` counts from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// When the lock is there.
    Now,
    /// When others are there as well: by [`Hold::begin`].
    Later,
}

/// What is left to the watchdog.
#[derive(Default)]
struct Deferred {
    questions: Vec<Ask>,
    seen: Vec<LockEvent>,
}

impl Engine {
    pub(crate) fn new(
        backend: Arc<dyn ErasedBackend>,
        executor: Executor,
        settings: Settings,
    ) -> Arc<Engine> {
        let engine = Arc::new_cyclic(|this| Engine {
            this: this.clone(),
            watchdogs: Watchdogs::new(&executor),
            backend,
            executor,
            rules: settings.rules(),
            identity: Identity::new(settings.service.as_deref()),
            settings,
            table: Table::default(),
            deferred: Mutex::default(),
            trouble: Mutex::default(),
            is_shut_down: AtomicBool::new(false),
            closing: Notify::new(),
            key_freed: Notify::new(),
        });
        engine.watchdogs.start(&engine);
        engine.backend.attach(engine.this.clone());
        engine
    }

    /// Gets the lock, or says within `wait` why not. Dropping the future gives up the place in the
    /// line and, if need be, the lock.
    pub(crate) async fn acquire(
        self: &Arc<Engine>,
        wish: Wish<'_>,
        wait: Duration,
        begins: Begins,
    ) -> Result<Hold, LockError> {
        let terms = wish.terms;
        self.can_begin(terms)?;
        #[cfg(feature = "tracing")]
        {
            let observers = &self.settings.observers;
            let span = traces::acquire_span(observers, wish.name, wish.key, terms.ttl, wait);
            if let Some(span) = span {
                let started = clock::now();
                let acquiring = waiting::acquire(self, wish, wait, begins);
                // Boxed, since most of the time nobody listens.
                let acquired = Box::pin(acquiring.instrument(span.clone())).await;
                let outcome = acquired.as_ref().map(|hold| hold.view().token());
                traces::acquired(&span, clock::now().since(started), outcome);
                return acquired;
            }
        }
        waiting::acquire(self, wish, wait, begins).await
    }

    /// Gets the locks of all `keys`, each of which is there once, by one question, if nobody holds
    /// or waits for one of them, here or in the store; `None` if it did not come to that.
    pub(crate) async fn acquire_together(
        self: &Arc<Engine>,
        keys: &[(LockKey, &'static str)],
        terms: Terms,
    ) -> Result<Option<Vec<Hold>>, LockError> {
        self.can_begin(terms)?;
        together::acquire(self, keys, terms).await
    }

    /// Whether the store can give a lease on these terms.
    fn can_begin(&self, terms: Terms) -> Result<(), LockError> {
        match terms.min_hold {
            Some(least) => self.can_keep("min_hold", least),
            None => Ok(()),
        }
    }

    /// Whether the store can keep a key for so long, as the setting of this `name` says.
    pub(crate) fn can_keep(&self, name: &str, kept: Duration) -> Result<(), LockError> {
        let limits = self.backend.limits();
        let shown = humantime::format_duration;
        if !limits.keep {
            return Err(LockError::Config(format!(
                "this store cannot keep a lock that nobody holds, as `{name}` wants"
            )));
        }
        let mut terms = Terms::new(MIN_TTL);
        terms.min_hold = Some(kept);
        // The usual limit is that of what a caller may ask for.
        if limits.max_ttl < MAX_TTL && terms.lease(&self.rules) > limits.max_ttl {
            return Err(LockError::Config(format!(
                "`{name}` is {}, which is too long for this store, whose leases live for {}",
                shown(kept),
                shown(limits.max_ttl)
            )));
        }
        Ok(())
    }

    /// Feeds `event` to the machine of `key`, and performs what comes of it.
    fn happened(self: &Arc<Engine>, key: &LockKey, event: Event<'_>) {
        self.turn(key, |entry, turn| turn.feed(entry, event));
    }

    /// Lets `work` look at the entry of `key` and feed its machine, under the mutex of its shard,
    /// and performs what comes of it.
    fn turn<T>(
        self: &Arc<Engine>,
        key: &LockKey,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> T {
        let mut effects = self.effects();
        let output = self.look(key, &mut effects, work);
        effects.perform(self);
        output
    }

    /// Effects that are still to come.
    fn effects(&self) -> Effects {
        Effects::new(self.settings.observers.is_on())
    }

    /// As [`turn`](Engine::turn), but leaves it to the caller to perform what comes of it.
    fn look<T>(
        &self,
        key: &LockKey,
        effects: &mut Effects,
        work: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
    ) -> T {
        let output = self.table.turn(key, &self.rules, effects, work);
        self.tell_shutdown(effects);
        output
    }

    /// Makes a shutdown look, if something was done about a key that is not held.
    fn tell_shutdown(&self, effects: &Effects) {
        if !effects.is_held && self.is_shut_down.load(Ordering::Acquire) {
            self.key_freed.notify_waiters();
        }
    }

    /// Refuses new claims, tells those who wait, and returns when nothing is held any more or the
    /// time is up. What is to be withdrawn or released then has the time of one command.
    pub(crate) async fn shut_down(self: &Arc<Engine>) -> Result<(), LockError> {
        within_tokio()?;
        // Whoever joins reads it under the mutex of a shard, which is taken below.
        self.is_shut_down.store(true, Ordering::Release);
        self.closing.notify_waiters();
        for key in self.table.keys() {
            self.happened(&key, Event::ShutDown);
        }
        // What is still held then is counted below.
        let no_guards = self.until(|table| table.held() == 0);
        let _ = timeout(self.settings.shutdown_timeout, no_guards).await;
        let patience = self.settings.command_timeout + MARGIN;
        let _ = timeout(patience, self.until(Table::is_quiet)).await;
        let (locks, keys) = self.table.held_keys(MOST_NAMED);
        // What could not be closed in time ends with the process.
        let _ = timeout(self.settings.command_timeout, self.backend.close()).await;
        match locks {
            0 => Ok(()),
            locks => {
                let named = keys.clone();
                let event = LockEvent::StillHeld { keys: named, locks };
                self.settings.observers.tell(&event);
                Err(LockError::StillHeld { locks, keys })
            }
        }
    }

    /// The locks that are held here.
    pub(crate) fn local(&self) -> Vec<LocalLock> {
        let mut all = Vec::new();
        let mut look = |entry: &Entry, now| all.extend(entry.local(now));
        self.table.each(&mut look);
        all
    }

    /// Tells for how long the oldest hold of each lock has lasted.
    #[cfg(feature = "metrics")]
    fn tell_oldest(&self) {
        let mut oldest = HashMap::new();
        self.table.each(|entry, now| {
            for (name, age) in entry.ages(now) {
                let of_name = oldest.entry(name).or_insert(age);
                *of_name = age.max(*of_name);
            }
        });
        self.settings.observers.oldest(&oldest);
    }

    /// Whether new claims are refused.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.is_shut_down.load(Ordering::Acquire)
    }

    /// Resolves when a shutdown begins, or has begun.
    pub(crate) async fn closing(&self) {
        let mut told = std::pin::pin!(self.closing.notified());
        told.as_mut().enable();
        if !self.is_shut_down.load(Ordering::Acquire) {
            told.await;
        }
    }

    /// Resolves during a shutdown when this is so of the keys.
    async fn until(&self, is_reached: impl Fn(&Table) -> bool) {
        loop {
            let mut told = std::pin::pin!(self.key_freed.notified());
            told.as_mut().enable();
            if is_reached(&self.table) {
                return;
            }
            told.await;
        }
    }
}

/// News are noted under the mutex of a shard; what has to be asked because of them, the watchdog
/// asks.
impl News for Engine {
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let mut effects = self.effects();
        let is_expected = self.look(key, &mut effects, |entry, turn| {
            let is_expected = entry.machine.expects(owner);
            turn.feed(
                entry,
                Event::HandedOver {
                    owner,
                    grant,
                    since,
                },
            );
            is_expected
        });
        effects.note(self);
        is_expected
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        let mut effects = self.effects();
        let event = Event::AskAt(owner, at);
        self.look(key, &mut effects, |entry, turn| turn.feed(entry, event));
        effects.note(self);
    }

    fn ask_all(&self) {
        for key in self.table.keys() {
            let mut effects = self.effects();
            let event = Event::AskAll;
            self.look(&key, &mut effects, |entry, turn| turn.feed(entry, event));
            effects.note(self);
        }
    }

    fn card(&self) -> Option<Card> {
        self.own_card()
    }

    fn noted(&self, note: &Note) {
        let trouble = match note {
            Note::Disconnected { cause, .. } => cause.clone(),
            _ => None,
        };
        *lock(&self.trouble) = trouble;
        let mut effects = self.effects();
        if effects.is_watched {
            effects.seen.extend(LockEvent::of(note));
            effects.note(self);
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRuntime")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Whether there are timers where this is called.
pub(crate) fn within_tokio() -> Result<(), LockError> {
    Handle::try_current().map(drop).map_err(|_| {
        LockError::Config(
            "locks are acquired and released within a tokio runtime, and here is none".to_owned(),
        )
    })
}

/// The same instant, as tokio's timers want it.
fn timer(at: Instant) -> tokio::time::Instant {
    clock::to_tokio(at)
}
