//! A link: one connection to a server at a time, shared by many tasks, and the next one when that
//! is given up.
//!
//! Where few others are in flight, a call goes out from its caller's own future. Others wait until
//! the tasks that are ready to speak have spoken, and go out as one pipeline, which costs far less
//! than to send each by itself. What differs between links is in their [`Terms`]; the task that
//! opens connections and sends pipelines is a [`Keeper`](super::keeper::Keeper).

use std::collections::VecDeque;
use std::mem::{replace, take};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use smallvec::smallvec;
use tokio::sync::{Notify, mpsc};
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::batch::Sharing;
use super::call::{Call, Reply};
use super::exchange::{Outcome, exchange};
use super::fault::Fault;
use super::listening::Listening;
use super::message::{Calls, IfCallerGone, Message, PendingAnswer};
use crate::backend::BoxFuture;
use crate::sync::lock;

/// What sets a link apart from others.
pub(super) struct Terms {
    /// A call goes by itself where fewer than this are in flight. Few tasks lose no time to each
    /// other, and many share what they send.
    alone: usize,
    /// How many calls go out in one pipeline, so that the server works on some while the next are
    /// being made.
    pipeline: usize,
    /// After so many exchanges in a row without an answer the connection is taken for dead.
    unanswered: u32,
    /// Whether calls wait for the next connection when there is none.
    waits: bool,
}

/// A link on the thread of the backend. Callers are on other threads, and nothing else does what
/// it does.
pub(super) const LANE: Terms = Terms {
    alone: 0,
    pipeline: 256,
    unanswered: 2,
    waits: true,
};

/// A link on the tokio runtime of its callers. One timeout is enough: the lane is there, and the
/// next connection soon.
pub(super) const DIRECT: Terms = Terms {
    alone: 4,
    pipeline: 64,
    unanswered: 1,
    waits: false,
};

/// For how long the lane is told of hand-overs in place of a link that heard of one too late: that
/// costs all who wait for the key the grace.
const DISTRUST: Duration = Duration::from_secs(60);

/// A link to one server.
pub(super) struct Link {
    terms: Terms,
    sharing: Sharing,
    listening: Listening,
    /// How long the answer to a call may take.
    timeout: Duration,
    epoch: Instant,
    /// When the last exchange began that has been answered, in nanoseconds since `epoch`.
    answered: AtomicU64,
    /// Whether there is a connection, as far as is known; a copy of what the state says.
    works: AtomicBool,
    /// Until when others are better told of hand-overs, in nanoseconds since `epoch`.
    slow_until: AtomicU64,
    state: Mutex<State>,
    /// Rung when the keeper has to look at the state.
    pub(super) work: Notify,
    /// Closed when the keeper has ended.
    kept: mpsc::Sender<()>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// What it listens to, if it does and the next is to listen to something else.
    channel: Option<Arc<str>>,
    /// How many connections have been given up.
    given_up: u64,
    /// How many exchanges in a row had no answer.
    unanswered: u32,
    /// Why there is no connection.
    trouble: Option<Fault>,
    /// How the last exchange failed on the connection that there is, or was.
    failed: Option<Fault>,
    /// How many calls are in flight.
    in_flight: usize,
    /// What the next pipelines take, oldest first.
    waiting: VecDeque<Message>,
    /// Whether the keeper is at work that sends what waits. Nothing goes by itself meanwhile, so
    /// that nothing overtakes another.
    is_sending: bool,
    is_closed: bool,
}

/// The reply to a call that has taken its place, to come.
#[must_use]
pub(super) enum Asking {
    /// It goes out when this is first polled. Boxed, because it is large, and most of many calls go
    /// together.
    Alone(BoxFuture<'static, Result<Reply, Fault>>),
    Together(AnswerWait),
}

/// The wait for an answer, which its message brings by the deadline, unless the keeper is a task of
/// a thread that is blocked. A timer for this would cost too much: the callers have one that is a
/// little longer, and whoever gives up while there is no answer tells.
pub(super) struct AnswerWait {
    link: Arc<Link>,
    given_up: u64,
    answer: PendingAnswer,
    deadline: Instant,
}

/// What the keeper has to do while there is a connection.
pub(super) enum Next {
    /// Send this.
    Send(Batch),
    /// Wait for work.
    Wait,
    /// Open another connection: this one is given up.
    Reopen,
}

/// Messages that go out together.
pub(super) struct Batch {
    messages: Vec<Message>,
    /// How many calls they are.
    calls: usize,
    connection: MultiplexedConnection,
    given_up: u64,
}

impl Link {
    /// A link without a connection yet, and what is there as long as its keeper is.
    pub(super) fn new(
        terms: Terms,
        sharing: Sharing,
        listening: Listening,
        timeout: Duration,
    ) -> (Arc<Link>, mpsc::Receiver<()>) {
        let (kept, keeps) = mpsc::channel(1);
        let link = Link {
            terms,
            sharing,
            listening,
            timeout,
            epoch: Instant::now(),
            answered: AtomicU64::new(0),
            works: AtomicBool::new(false),
            slow_until: AtomicU64::new(0),
            state: Mutex::default(),
            work: Notify::new(),
            kept,
        };
        (Arc::new(link), keeps)
    }

    /// The channel that it listens to, if it does. Whatever comes by that comes by the present
    /// connection.
    pub(super) fn channel(&self) -> Option<Arc<str>> {
        match &self.listening {
            Listening::No => None,
            Listening::Always(channel) => Some(Arc::clone(channel)),
            Listening::Anew(_) => lock(&self.state).channel.clone(),
        }
    }

    /// What the next connection is to listen to.
    pub(super) fn next_channel(&self) -> Option<Arc<str>> {
        match &self.listening {
            Listening::Anew(channels) => Some(channels.next()),
            _ => self.channel(),
        }
    }

    /// What its connections are for, in a word for those on call.
    pub(super) fn way(&self) -> &'static str {
        match self.listening {
            Listening::Always(_) => "lane",
            Listening::No | Listening::Anew(_) => "direct",
        }
    }

    /// Whether there is a connection, and so a subscription, as far as is known.
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Acquire)
    }

    /// An instant before everything that the server has not yet sent an answer past: what comes by
    /// the connection without being asked for is younger.
    pub(super) fn last_answered(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.answered.load(Ordering::Acquire))
    }

    /// What was sent at this instant has been answered.
    pub(super) fn answered(&self, sent_at: Instant) {
        let nanos = sent_at.saturating_duration_since(self.epoch).as_nanos();
        self.answered
            .fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// Lets `call` take its place behind all that came before, and gives the reply.
    pub(super) fn ask(self: &Arc<Link>, call: Call, if_gone: IfCallerGone) -> Asking {
        let deadline = Instant::now() + self.timeout;
        let mut state = lock(&self.state);
        let given_up = state.given_up;
        if !state.is_sending
            && state.in_flight < self.terms.alone
            && let Some(connection) = state.connection.clone()
        {
            state.in_flight += 1;
            drop(state);
            let flight = Flight {
                link: Arc::clone(self),
                connection,
                given_up,
                calls: 1,
                deadline,
                outcome: None,
            };
            return Asking::Alone(Box::pin(flight.ask(call)));
        }
        let (message, answer) = Message::new(smallvec![call], if_gone, deadline);
        self.queue(state, message);
        Asking::Together(AnswerWait {
            link: Arc::clone(self),
            given_up,
            answer,
            deadline,
        })
    }

    /// Lets `calls` take their place behind all that came before.
    pub(super) fn send(&self, calls: Vec<Call>, if_gone: IfCallerGone) -> PendingAnswer {
        self.send_within(calls.into(), if_gone, self.timeout)
    }

    /// Asks for a sign of life, as soon as there is a connection.
    pub(super) fn ping(&self, within: Duration) -> PendingAnswer {
        self.ask_within(Call::ping(), within)
    }

    /// Asks as soon as there is a connection.
    pub(super) fn ask_within(&self, call: Call, within: Duration) -> PendingAnswer {
        self.send_within(smallvec![call], IfCallerGone::Drop, within)
    }

    /// Looks whether the connection is alive, if there is one.
    pub(super) fn check_soon(&self) {
        if self.works() {
            let _ = self.send(vec![Call::ping()], IfCallerGone::Send);
        }
    }

    /// A hand-over was, or may have been, heard of too late by this link, as where its thread is
    /// blocked. For a while others are not to wait for it.
    pub(super) fn heard_late(&self) {
        let until = self.epoch.elapsed() + DISTRUST;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.slow_until.store(until, Ordering::Relaxed);
    }

    /// Whether it is one to be told by of hand-overs.
    pub(super) fn listens_in_time(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until == 0 || self.epoch.elapsed() >= Duration::from_nanos(until)
    }

    /// Resolves when the keeper has ended.
    pub(super) async fn ended(&self) {
        self.kept.closed().await;
    }

    fn send_within(&self, calls: Calls, if_gone: IfCallerGone, within: Duration) -> PendingAnswer {
        let (message, answer) = Message::new(calls, if_gone, Instant::now() + within);
        self.queue(lock(&self.state), message);
        answer
    }

    fn queue(&self, mut state: MutexGuard<'_, State>, message: Message) {
        let refusal = match (&state.connection, &state.trouble) {
            _ if state.is_closed => Some(Fault::Closed),
            (Some(_), _) => None,
            (None, Some(trouble)) if trouble.is_for_good() => Some(trouble.clone()),
            (None, _) if self.terms.waits => None,
            (None, trouble) => Some(trouble.clone().unwrap_or(Fault::Lost(None))),
        };
        if let Some(refusal) = refusal {
            // Whoever waits is told where no mutex is held.
            drop(state);
            return message.fail(refusal);
        }
        state.waiting.push_back(message);
        let was_sending = replace(&mut state.is_sending, true);
        drop(state);
        if !was_sending {
            self.work.notify_one();
        }
    }

    /// Takes in how an exchange ended on the connection before which so many had been `given_up`.
    fn note(&self, mut state: MutexGuard<'_, State>, given_up: u64, outcome: Option<Outcome>) {
        if state.given_up != given_up {
            return;
        }
        match outcome {
            Some(Outcome::Answered) => state.unanswered = 0,
            Some(Outcome::Unanswered) => state.unanswered += 1,
            Some(Outcome::Broken) => state.unanswered = self.terms.unanswered,
            None => {}
        }
        if state.unanswered >= self.terms.unanswered {
            self.give_up(state);
        }
    }

    fn give_up(&self, mut state: MutexGuard<'_, State>) {
        // Before the connection is gone for the server: nobody is to queue by another way and be
        // taken for dead.
        self.works.store(false, Ordering::Release);
        let connection = state.connection.take();
        state.channel = None;
        state.given_up += 1;
        state.unanswered = 0;
        let mut left = VecDeque::new();
        if !self.terms.waits {
            left = take(&mut state.waiting);
        }
        // Else nobody would ring for the first that waits, and its time be up unnoticed.
        state.is_sending = !state.waiting.is_empty();
        drop(state);
        self.work.notify_one();
        // Senders are told, and the connection ends, where no mutex is held.
        drop((left, connection));
    }
}

/// Something in flight on one connection, until it is dropped.
struct Flight {
    link: Arc<Link>,
    connection: MultiplexedConnection,
    /// Which connection it is.
    given_up: u64,
    /// How many calls it is.
    calls: usize,
    deadline: Instant,
    outcome: Option<Outcome>,
}

impl Asking {
    pub(super) async fn reply(self) -> Result<Reply, Fault> {
        match self {
            Asking::Alone(reply) => reply.await,
            Asking::Together(mut wait) => wait.answer.reply().await,
        }
    }
}

impl Flight {
    /// Sends `call`, again where it was not executed or not finished, and gives the reply.
    async fn ask(mut self, mut call: Call) -> Result<Reply, Fault> {
        loop {
            // Without tokio's cooperative budget, which could make the first poll send nothing.
            unconstrained(self.exchange(&mut [&mut call])).await?;
            if let Some(reply) = call.take_reply() {
                return Ok(reply);
            }
        }
    }

    async fn exchange(&mut self, calls: &mut [&mut Call]) -> Result<(), Fault> {
        let sent_at = Instant::now();
        let exchanged = exchange(
            &mut self.connection,
            calls,
            self.link.sharing,
            sent_at,
            self.deadline,
        )
        .await;
        let outcome = match &exchanged {
            Ok(outcome) => *outcome,
            Err(fault) => {
                lock(&self.link.state).failed = Some(fault.clone());
                Outcome::of(fault)
            }
        };
        // By a connection that was given up an answer says nothing of what comes by the next.
        if outcome == Outcome::Answered && lock(&self.link.state).given_up == self.given_up {
            self.link.answered(sent_at);
        }
        // What is of no more use stays so, however the rest goes.
        if self.outcome != Some(Outcome::Broken) {
            self.outcome = Some(outcome);
        }
        exchanged.map(drop)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = lock(&self.link.state);
        state.in_flight -= self.calls;
        let outcome = self.outcome.or_else(|| unanswered_by(self.deadline));
        self.link.note(state, self.given_up, outcome);
    }
}

impl Drop for AnswerWait {
    fn drop(&mut self) {
        if self.answer.is_to_come()
            && let outcome @ Some(_) = unanswered_by(self.deadline)
        {
            self.link
                .note(lock(&self.link.state), self.given_up, outcome);
        }
    }
}

/// How an exchange went that somebody gives up who has not heard of its end.
fn unanswered_by(deadline: Instant) -> Option<Outcome> {
    (deadline <= Instant::now()).then_some(Outcome::Unanswered)
}

/// For the keeper.
impl Link {
    pub(super) fn opened(&self, connection: MultiplexedConnection, channel: Option<Arc<str>>) {
        let mut state = lock(&self.state);
        state.trouble = None;
        state.failed = None;
        state.channel = channel;
        state.connection = Some(connection);
        self.works.store(true, Ordering::Release);
    }

    /// There is no connection, and this is why.
    pub(super) fn cannot_open(&self, fault: Fault) {
        let mut state = lock(&self.state);
        let mut left = VecDeque::new();
        if fault.is_for_good() {
            left = take(&mut state.waiting);
            state.is_sending = false;
        }
        state.trouble = Some(fault.clone());
        drop(state);
        for message in left {
            message.fail(fault.clone());
        }
    }

    /// Why the connection was given up that there was.
    pub(super) fn failed(&self) -> Fault {
        let failed = lock(&self.state).failed.take();
        failed.unwrap_or(Fault::Lost(None))
    }

    /// Whether the server has refused for good.
    pub(super) fn is_refused(&self) -> bool {
        let state = lock(&self.state);
        state.trouble.as_ref().is_some_and(Fault::is_for_good)
    }

    /// When the time of what has waited longest is up.
    pub(super) fn oldest(&self) -> Option<Instant> {
        lock(&self.state).waiting.front().map(Message::deadline)
    }

    /// Gives up what has waited longest for a connection.
    pub(super) fn give_up_oldest(&self) {
        let mut state = lock(&self.state);
        let oldest = state.waiting.pop_front();
        state.is_sending = !state.waiting.is_empty();
        let trouble = state.trouble.clone();
        drop(state);
        if let Some(message) = oldest {
            message.fail(trouble.unwrap_or(Fault::NoAnswer(self.timeout)));
        }
    }

    /// What there is to do. What it gives to send is in flight from now on.
    pub(super) fn next(&self) -> Next {
        let mut state = lock(&self.state);
        let Some(connection) = state.connection.clone() else {
            return Next::Reopen;
        };
        let mut messages = Vec::new();
        let mut calls = 0;
        while calls < self.terms.pipeline
            && let Some(message) = state.waiting.pop_front()
        {
            calls += message.len();
            messages.push(message);
        }
        state.is_sending = !messages.is_empty();
        if messages.is_empty() {
            return Next::Wait;
        }
        state.in_flight += calls;
        Next::Send(Batch {
            messages,
            calls,
            connection,
            given_up: state.given_up,
        })
    }

    /// Sends `batch` in one piece and gives out the answers; what has to be asked again is sent
    /// again. The first poll puts it into the queue of the connection: batches leave in the order
    /// of these polls, whatever the scheduler does with the rest.
    pub(super) async fn carry(self: Arc<Link>, batch: Batch) {
        let mut messages = batch.messages;
        let mut flight = Flight {
            link: self,
            connection: batch.connection,
            given_up: batch.given_up,
            calls: batch.calls,
            deadline: Instant::now(),
            outcome: None,
        };
        loop {
            messages.retain(|message| !message.is_pointless());
            let deadlines = messages.iter().map(Message::deadline);
            flight.deadline = deadlines.max().unwrap_or(flight.deadline);
            let mut calls: Vec<_> = messages.iter_mut().flat_map(Message::open).collect();
            let exchanged = match calls.is_empty() {
                // The client refuses to send nothing.
                true => Ok(()),
                false => flight.exchange(&mut calls).await,
            };
            drop(calls);
            let mut left = Vec::new();
            for message in messages {
                match &exchanged {
                    _ if message.is_done() => message.finish(),
                    Ok(()) => left.push(message),
                    Err(fault) => message.fail(fault.clone()),
                }
            }
            if left.is_empty() {
                return;
            }
            messages = left;
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
    }

    /// Nobody keeps it any more.
    pub(super) fn abandoned(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let left = take(&mut state.waiting);
        self.give_up(state);
        for message in left {
            message.fail(Fault::Closed);
        }
    }
}
