//! Performs effects, most of which are questions and renewals.

use std::collections::BTreeMap;
use std::error::Error;
use std::mem::take;
use std::sync::Arc;

use lock_protocol::Overtaken;
use lock_protocol::machine::{Answer, Ask, Event, Verb};
use lock_protocol::{BackendError, Instant, Kind, Mode, Renewal, Renewed};
use tokio::time::timeout_at;

use super::effects::{Effects, Renewing};
use super::entry::Entry;
use super::seats::Seated;
use super::table::Turn;
use super::{Engine, MARGIN, timer};
use crate::clock;
use crate::observe::{self, Failure, LockEvent, Observers};
use crate::sync::lock;

/// How many leases are renewed under one deadline at the most, so that many do not fail together
/// because they are many.
const BATCH: usize = 512;

impl Effects {
    /// Performs everything; questions on the executor.
    pub(super) fn perform(&mut self, engine: &Arc<Engine>) {
        self.perform_by(engine, spawn);
    }

    /// The same where a tokio runtime ends, which takes no task any more.
    fn perform_outliving_caller(&mut self, engine: &Arc<Engine>) {
        self.perform_by(engine, |engine, ask| {
            // Not polled here: it would be dropped at once, and asked again, without end.
            engine
                .executor
                .spawn_outliving_caller(question(engine.clone(), ask));
        });
    }

    fn perform_by(&mut self, engine: &Arc<Engine>, ask: impl Fn(&Arc<Engine>, Box<Ask>)) {
        self.tell(engine);
        if let Some(at) = self.due {
            engine.watchdogs.look_by(engine, at);
        }
        for question in self.questions.drain(..) {
            ask(engine, question);
        }
        renew(engine, take(&mut self.renewals));
    }

    /// Performs what can be performed within a call of the backend, and leaves questions, renewals
    /// and what observers are told to the watchdog.
    pub(super) fn note(mut self, engine: &Engine) {
        self.wake();
        let mut due = self.due;
        if !self.questions.is_empty() || !self.seen.is_empty() {
            let mut deferred = lock(&engine.deferred);
            let questions = self.questions.into_iter().map(|ask| *ask);
            deferred.questions.extend(questions);
            deferred.seen.extend(self.seen);
            due = Some(clock::now());
        }
        if let Some(at) = due {
            engine.watchdogs.look_by(engine, at);
        }
    }

    fn tell(&mut self, engine: &Engine) {
        self.wake();
        for event in self.seen.drain(..) {
            engine.settings.observers.tell(&event);
        }
    }

    fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        if let Some(hold_ended) = self.hold_ended.take() {
            hold_ended.notify_waiters();
        }
    }
}

/// Something that the store has been asked. Dropped before it is clear what became of it, it leaves
/// the keys to go on without an answer.
pub(super) struct InFlight<'a> {
    engine: &'a Arc<Engine>,
    asked: Asked,
    sent_at: Instant,
    /// Whether a task asks, which is dropped when its executor ends.
    is_task: bool,
}

#[derive(Default)]
enum Asked {
    Question(Box<Ask>),
    Renewals(Vec<Renewing>),
    /// It has its answer.
    #[default]
    Nothing,
}

impl<'a> InFlight<'a> {
    /// A question that a caller asks itself, at `sent_at`.
    pub(super) fn of_a_caller(
        engine: &'a Arc<Engine>,
        ask: Box<Ask>,
        sent_at: Instant,
    ) -> InFlight<'a> {
        InFlight {
            engine,
            asked: Asked::Question(ask),
            sent_at,
            is_task: false,
        }
    }

    /// The question, which has its answer now.
    pub(super) fn land(mut self) -> Option<Box<Ask>> {
        match take(&mut self.asked) {
            Asked::Question(ask) => Some(ask),
            _ => None,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        match take(&mut self.asked) {
            Asked::Question(ask) => {
                // Whoever asked is gone, or has waited long enough.
                let is_late = clock::now() >= limit(self.engine, self.sent_at);
                let answer = if is_late {
                    failed(self.engine, &ask, no_answer(self.engine))
                } else {
                    Answer::CutOff
                };
                let event = Event::Answered {
                    ask: &ask,
                    sent_at: self.sent_at,
                    answer,
                    chance: clock::chance(),
                };
                let mut effects = self.engine.effects();
                let feed = |entry: &mut Entry, turn: &mut Turn<'_>| turn.feed(entry, event);
                self.engine.look(ask.verb.key(), &mut effects, feed);
                if self.is_task {
                    effects.perform_outliving_caller(self.engine);
                } else {
                    effects.perform(self.engine);
                }
            }
            Asked::Renewals(renewals) => {
                for renewing in renewals {
                    renewed(self.engine, &renewing, self.sent_at, None);
                }
            }
            Asked::Nothing => {}
        }
    }
}

/// Until when the answer to a question is waited for that is sent at `sent_at`.
pub(super) fn limit(engine: &Engine, sent_at: Instant) -> Instant {
    // Most often the backend keeps the timeout itself, and knows better what went wrong.
    sent_at + engine.settings.command_timeout + MARGIN
}

/// Asks on the executor; it is sent before this returns.
pub(super) fn spawn(engine: &Arc<Engine>, ask: Box<Ask>) {
    engine.executor.spawn(question(engine.clone(), ask));
}

/// The task that asks.
async fn question(engine: Arc<Engine>, ask: Box<Ask>) {
    let now = clock::now();
    let limit = timer(limit(&engine, now));
    // Too late is taken in as well.
    let _ = timeout_at(limit, asking(&engine, ask, now, None, |_, _| ())).await;
}

/// Asks `now`, and takes in what became of it; if it is dropped after the [`limit`], that there
/// was no answer. Lets `look` see the entry of the key in the same turn, for `asker`; without one,
/// a task asks.
pub(super) async fn asking<T>(
    engine: &Arc<Engine>,
    ask: Box<Ask>,
    now: Instant,
    asker: Option<Seated>,
    look: impl FnOnce(&mut Entry, &mut Turn<'_>) -> T,
) -> T {
    let mut flight = InFlight {
        engine,
        asked: Asked::Question(ask),
        sent_at: now,
        is_task: asker.is_none(),
    };
    let answer = match &flight.asked {
        Asked::Question(ask) => answer(engine, &ask.verb).await,
        _ => Err(no_answer(engine)),
    };
    let Asked::Question(ask) = take(&mut flight.asked) else {
        unreachable!("nobody else has taken it");
    };
    let event = Event::Answered {
        ask: &ask,
        sent_at: flight.sent_at,
        answer: answer.unwrap_or_else(|error| failed(engine, &ask, error)),
        chance: clock::chance(),
    };
    engine.turn(ask.verb.key(), |entry, turn| {
        turn.looker = asker;
        turn.feed(entry, event);
        look(entry, turn)
    })
}

/// What became of a question that failed.
fn failed(engine: &Engine, ask: &Ask, error: BackendError) -> Answer {
    if is_overtaken(&error) {
        // Nothing is wrong with the store: what went ahead may be that of another lock runtime,
        // which shares the backend.
        return Answer::CutOff;
    }
    // A function of the user: no mutex is held.
    let pause = engine.settings.pause(ask.failures + 1);
    Answer::NotKnown(Arc::new(error), pause)
}

async fn answer(engine: &Engine, verb: &Verb) -> Result<Answer, BackendError> {
    let (backend, observers) = (&engine.backend, &engine.settings.observers);
    let stopwatch = Stopwatch::start(observers, verb.into());
    let answer = match verb {
        // Boxed, since most stores know modes, and ask in a smaller future.
        _ if !engine.rules.modes && verb.kind() != Kind::Exclusive => {
            Box::pin(plain_answer(engine, verb)).await
        }
        Verb::Acquire(claim) => backend.acquire(claim).await.map(Answer::Acquired),
        Verb::Release(release) => backend.release(release).await.map(Answer::Released),
        Verb::Abandon(claim) => {
            let abandoned = backend.abandon(claim).await;
            abandoned.map(|()| Answer::Abandoned)
        }
    };
    stopwatch.stop(answer.as_ref().err());
    answer
}

/// Measures how long the store takes, if anybody wants to know.
struct Stopwatch<'a> {
    observers: &'a Observers,
    verb: observe::Verb,
    /// `None` if nobody wants to know, or it has been told.
    started: Option<Instant>,
}

impl<'a> Stopwatch<'a> {
    fn start(observers: &'a Observers, verb: observe::Verb) -> Stopwatch<'a> {
        let started = observers.is_on().then(clock::now);
        Stopwatch {
            observers,
            verb,
            started,
        }
    }

    fn stop(mut self, error: Option<&BackendError>) {
        // What went ahead of it was asked later: it says nothing of the store.
        if error.is_some_and(is_overtaken) {
            self.started = None;
        }
        self.tell(error.map(Failure::of));
    }

    fn tell(&mut self, failure: Option<Failure>) {
        if let Some(started) = self.started.take() {
            self.observers.tell(&LockEvent::Store {
                verb: self.verb,
                took: clock::now().since(started),
                failure,
            });
        }
    }
}

/// Nobody waits for the answer any more.
impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        self.tell(Some(Failure::Timeout));
    }
}

impl From<&Verb> for observe::Verb {
    fn from(verb: &Verb) -> observe::Verb {
        match verb {
            Verb::Acquire(_) => observe::Verb::Acquire,
            Verb::Release(_) => observe::Verb::Release,
            Verb::Abandon(_) => observe::Verb::Abandon,
        }
    }
}

fn is_overtaken(error: &BackendError) -> bool {
    error.source().is_some_and(|cause| cause.is::<Overtaken>())
}

/// The answer of a store that says that it knows no modes, and is asked for the key alone: parts
/// are numbered here then, which a store that knew them after all would contradict.
async fn plain_answer(engine: &Engine, verb: &Verb) -> Result<Answer, BackendError> {
    let backend = &engine.backend;
    Ok(match verb.clone() {
        Verb::Acquire(mut claim) => {
            claim.mode = Mode::Exclusive;
            Answer::Acquired(backend.acquire(&claim).await?)
        }
        Verb::Release(mut release) => {
            release.mode = Mode::Exclusive;
            release.shard = 0;
            Answer::Released(backend.release(&release).await?)
        }
        Verb::Abandon(mut claim) => {
            claim.mode = Mode::Exclusive;
            backend.abandon(&claim).await?;
            Answer::Abandoned
        }
    })
}

/// Renews what is due, in batches of leases that have about the same patience: one short lease does
/// not shorten the deadline of 512 long ones.
pub(super) fn renew(engine: &Arc<Engine>, renewals: Vec<Renewing>) {
    if renewals.is_empty() {
        return;
    }
    let mut alike: BTreeMap<Option<u32>, Vec<Renewing>> = BTreeMap::new();
    for renewing in renewals {
        let like = renewing.patience.as_millis().checked_ilog2();
        alike.entry(like).or_default().push(renewing);
    }
    for mut renewals in alike.into_values() {
        while !renewals.is_empty() {
            let rest = renewals.split_off(renewals.len().min(BATCH));
            let (engine, batch) = (engine.clone(), std::mem::replace(&mut renewals, rest));
            let executor = engine.executor.clone();
            executor.spawn(async move { renew_batch(&engine, batch).await });
        }
    }
}

async fn renew_batch(engine: &Arc<Engine>, batch: Vec<Renewing>) {
    let mut flight = InFlight {
        engine,
        asked: Asked::Renewals(batch),
        sent_at: clock::now(),
        is_task: true,
    };
    let answers = match &flight.asked {
        Asked::Renewals(batch) => {
            let renewals = batch
                .iter()
                .map(|renewing| known(engine, &renewing.renewal));
            let renewals: Vec<Renewal> = renewals.collect();
            let patience = batch.iter().map(|renewing| renewing.patience).min();
            let limit = timer(flight.sent_at + patience.unwrap_or_default());
            renewals_by(engine, limit, &renewals).await
        }
        _ => Vec::new(),
    };
    let mut answers = answers.into_iter();
    if let Asked::Renewals(batch) = take(&mut flight.asked) {
        for renewing in batch {
            renewed(engine, &renewing, flight.sent_at, answers.next());
        }
    }
}

/// The renewal as the store knows the lease.
fn known(engine: &Engine, renewal: &Renewal) -> Renewal {
    let mut renewal = renewal.clone();
    if !engine.rules.modes {
        renewal.mode = Mode::Exclusive;
        renewal.shard = 0;
    }
    renewal
}

/// What the store answers by `limit`; nothing if it answers later.
async fn renewals_by(
    engine: &Engine,
    limit: tokio::time::Instant,
    renewals: &[Renewal],
) -> Vec<Result<Renewed, BackendError>> {
    let stopwatch = Stopwatch::start(&engine.settings.observers, observe::Verb::Renew);
    let Ok(answers) = timeout_at(limit, engine.backend.renew(renewals)).await else {
        return Vec::new();
    };
    let error = answers.iter().find_map(|answer| answer.as_ref().err());
    stopwatch.stop(error);
    answers
}

/// Renews one lease because its holder asks for it.
pub(super) async fn renew_now(
    engine: &Arc<Engine>,
    renewing: Renewing,
) -> Result<(), BackendError> {
    let sent_at = clock::now();
    let limit = timer(sent_at + renewing.patience);
    let renewals = [known(engine, &renewing.renewal)];
    let answers = renewals_by(engine, limit, &renewals).await;
    let answer = answers.into_iter().next();
    let answer = answer.unwrap_or_else(|| Err(no_answer(engine)))?;
    renewed(engine, &renewing, sent_at, Some(Ok(answer)));
    Ok(())
}

/// Takes in what became of a renewal.
fn renewed(
    engine: &Arc<Engine>,
    renewing: &Renewing,
    sent_at: Instant,
    answer: Option<Result<Renewed, BackendError>>,
) {
    let (answer, error) = match answer.unwrap_or_else(|| Err(no_answer(engine))) {
        Ok(answer) => (Some(answer.of(renewing.renewal.ttl)), None),
        Err(error) => (None, Some(Arc::new(error))),
    };
    let event = Event::Renewed {
        lease: renewing.lease,
        sent_at,
        answer,
        chance: clock::chance(),
    };
    engine.turn(&renewing.renewal.key, |entry, turn| {
        turn.renewal_error = error;
        turn.feed(entry, event);
    });
}

/// The store has not answered in time; why, if it is known that there is no connection.
fn no_answer(engine: &Engine) -> BackendError {
    match lock(&engine.trouble).clone() {
        Some(trouble) => BackendError::unavailable(trouble),
        None => BackendError::timed_out("no answer in time"),
    }
}
