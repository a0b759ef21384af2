//! Performs effects, most of which are questions and renewals.

use std::collections::BTreeMap;
use std::error::Error;
use std::mem::take;
use std::sync::Arc;

use lock_protocol::machine::{Answer, Ask, Event, Verb};
use lock_protocol::{BackendError, Instant, Renewal, Renewed};
use tokio::time::timeout_at;

use super::effects::{Effects, Renewing};
use super::table::{Entry, Seated, Turn};
use super::{Engine, MARGIN, timer};
use crate::clock;
use crate::sync::lock;
use lock_protocol::Overtaken;

/// How many leases are renewed under one deadline at the most, so that many do not fail together
/// because they are many.
const BATCH: usize = 512;

impl Effects {
    /// Performs everything; questions on the executor.
    pub(super) fn perform(&mut self, engine: &Arc<Engine>) {
        self.perform_by(engine, spawn);
    }

    /// The same where a tokio runtime ends, which takes no task any more.
    fn perform_at_home(&mut self, engine: &Arc<Engine>) {
        self.perform_by(engine, |engine, ask| {
            // Not polled here: it would be dropped at once, and asked again, without end.
            engine.executor.spawn_at_home(question(engine.clone(), ask));
        });
    }

    fn perform_by(&mut self, engine: &Arc<Engine>, ask: impl Fn(&Arc<Engine>, Box<Ask>)) {
        self.tell();
        if let Some(at) = self.due {
            engine.tickers.look_by(engine, at);
        }
        for question in self.questions.drain(..) {
            ask(engine, question);
        }
        renew(engine, take(&mut self.renewals));
    }

    /// Performs what can be performed within a call of the backend, and leaves questions and
    /// renewals to the ticker.
    pub(super) fn note(mut self, engine: &Engine) {
        self.tell();
        let mut due = self.due;
        if !self.questions.is_empty() {
            lock(&engine.deferred).extend(self.questions.into_iter().map(|ask| *ask));
            due = Some(clock::now());
        }
        if let Some(at) = due {
            engine.tickers.look_by(engine, at);
        }
    }

    fn tell(&mut self) {
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
                    failed(self.engine, &ask, no_answer())
                } else {
                    Answer::CutOff
                };
                let event = Event::Answered {
                    ask: &ask,
                    sent_at: self.sent_at,
                    answer,
                    chance: clock::chance(),
                };
                let mut effects = Effects::default();
                let feed = |entry: &mut Entry, turn: &mut Turn<'_>| turn.feed(entry, event);
                self.engine.look(ask.verb.key(), &mut effects, feed);
                if self.is_task {
                    effects.perform_at_home(self.engine);
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
        _ => Err(no_answer()),
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
    if error.source().is_some_and(|cause| cause.is::<Overtaken>()) {
        // Nothing is wrong with the store: what went ahead may be that of another lock runtime,
        // which shares the backend.
        return Answer::CutOff;
    }
    // A function of the user: no mutex is held.
    let pause = engine.settings.pause(ask.failures + 1);
    Answer::NotKnown(Arc::new(error), pause)
}

async fn answer(engine: &Engine, verb: &Verb) -> Result<Answer, BackendError> {
    let backend = &engine.backend;
    Ok(match verb {
        Verb::Acquire(claim) => Answer::Acquired(backend.acquire(claim).await?),
        Verb::Release(release) => Answer::Released(backend.release(release).await?),
        Verb::Abandon(claim) => {
            backend.abandon(claim).await?;
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
            let renewals = batch.iter().map(|renewing| (*renewing.renewal).clone());
            let renewals: Vec<Renewal> = renewals.collect();
            let patience = batch.iter().map(|renewing| renewing.patience).min();
            let limit = timer(flight.sent_at + patience.unwrap_or_default());
            timeout_at(limit, engine.backend.renew(&renewals)).await
        }
        _ => Ok(Vec::new()),
    };
    let mut answers = answers.unwrap_or_default().into_iter();
    if let Asked::Renewals(batch) = take(&mut flight.asked) {
        for renewing in batch {
            renewed(engine, &renewing, flight.sent_at, answers.next());
        }
    }
}

/// Renews one lease because its holder asks for it.
pub(super) async fn renew_now(
    engine: &Arc<Engine>,
    renewing: Renewing,
) -> Result<(), BackendError> {
    let sent_at = clock::now();
    let limit = timer(sent_at + renewing.patience);
    let renewals = [(*renewing.renewal).clone()];
    let answers = timeout_at(limit, engine.backend.renew(&renewals)).await;
    let answer = answers.unwrap_or_default().into_iter().next();
    let answer = answer.unwrap_or_else(|| Err(no_answer()))?;
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
    engine.happened(
        &renewing.renewal.key,
        Event::Renewed {
            lease: renewing.lease,
            sent_at,
            answer: answer
                .and_then(Result::ok)
                .map(|answer| answer.of(renewing.renewal.ttl)),
            chance: clock::chance(),
        },
    );
}

fn no_answer() -> BackendError {
    BackendError::unavailable("no answer in time")
}
