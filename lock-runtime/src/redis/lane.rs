//! A lane: one long-lived connection that carries the commands of many tasks, in the order in which they came.
//!
//! A task on the thread of the backend owns the connection. It takes whatever has come meanwhile as one pipeline, so that many claims
//! cost one message; it repairs the connection when it breaks, while commands wait for it as long as they may; and it is the only one
//! to do so. A lane has at most one live connection: the old one is gone before the next is opened, since otherwise a message from
//! the old one could be taken for a young one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, Pipeline, RedisResult, Value, cmd};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::connection::{Connection, Connector};
use super::fault::{Fault, is_wrong_server};
use super::scripts::{self, Verdict};
use super::wakeups::Wakeups;
use crate::backoff::{Backoff, Retry, jittered};

/// How many calls go out in one pipeline; more wait for the next one.
const BATCH: usize = 256;
/// After so many batches in a row without an answer the connection is taken for dead.
pub(super) const UNANSWERED: u32 = 2;
/// The pauses between attempts to connect.
pub(super) const RECONNECT: Backoff = Backoff {
    first: Duration::from_millis(10),
    longest: Duration::from_millis(500),
};
/// A server that refuses for good is asked again this often, in case somebody mends it.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// The handle to a lane.
pub(super) struct Lane {
    messages: mpsc::UnboundedSender<Message>,
    pulse: Arc<Pulse>,
    channel: Arc<str>,
    timeout: Duration,
}

/// What the messages of other clients are judged by.
pub(super) struct Pulse {
    epoch: Instant,
    /// When the last command was sent that has been answered, in nanoseconds since `epoch`.
    answered: AtomicU64,
    /// Whether there is a connection, and so a subscription, as far as is known.
    connected: AtomicBool,
    /// Rung when the connection may be gone.
    suspect: Notify,
}

/// Calls that go out together, and where their answers go.
pub(super) struct Message {
    calls: Vec<Call>,
    unheard: Unheard,
    deadline: Instant,
    reply: oneshot::Sender<Result<Replies, Fault>>,
}

struct Call {
    command: Cmd,
    reply: Option<RedisResult<Value>>,
}

/// What becomes of a message for whose answer nobody waits any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It need not be sent.
    Skip,
    /// It is sent all the same.
    Run,
}

/// The answer to a message, to come.
#[must_use]
pub(super) struct Answer(Result<oneshot::Receiver<Result<Replies, Fault>>, Fault>);

/// One reply for each call of a message.
pub(super) type Replies = Vec<RedisResult<Value>>;

impl Lane {
    /// A lane without a connection yet, and the task that gives it one.
    pub(super) fn new(
        index: usize,
        connector: Connector,
        wakeups: Arc<Wakeups>,
        closing: watch::Receiver<bool>,
    ) -> (Lane, Task) {
        let (sender, messages) = mpsc::unbounded_channel();
        let lane = Lane {
            messages: sender,
            pulse: Arc::new(Pulse {
                epoch: Instant::now(),
                answered: AtomicU64::new(0),
                connected: AtomicBool::new(false),
                suspect: Notify::new(),
            }),
            channel: connector.channel().into(),
            timeout: connector.command_timeout(),
        };
        let task = Task {
            index,
            connector,
            wakeups,
            closing,
            messages,
            waiting: VecDeque::new(),
            trouble: None,
            pulse: Arc::clone(&lane.pulse),
        };
        (lane, task)
    }

    /// The channel through which the claims of this lane are woken.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// A way to send that does not keep the lane open.
    pub(super) fn downgrade(&self) -> mpsc::WeakUnboundedSender<Message> {
        self.messages.downgrade()
    }

    /// Puts `calls` into the queue of the lane, behind all that came before.
    pub(super) fn send(&self, calls: Vec<Cmd>, unheard: Unheard) -> Answer {
        self.send_within(calls, unheard, self.timeout)
    }

    /// Asks for a sign of life, as soon as there is a connection.
    pub(super) fn ping(&self, within: Duration) -> Answer {
        self.send_within(vec![cmd("PING")], Unheard::Skip, within)
    }

    /// Resolves when the lane has ended.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    fn send_within(&self, calls: Vec<Cmd>, unheard: Unheard, within: Duration) -> Answer {
        let (message, answer) = Message::new(calls, unheard, Instant::now() + within);
        Answer(
            self.messages
                .send(message)
                .map(|()| answer)
                .map_err(|_| Fault::Closed),
        )
    }
}

impl Answer {
    /// The replies, in the order of the calls and as many.
    pub(super) async fn replies(self) -> Result<Replies, Fault> {
        // The lane answers by the deadline; it drops a message only together with its connection.
        self.0?.await.unwrap_or(Err(Fault::Lost(None)))
    }

    /// The reply to the only call.
    pub(super) async fn reply(self) -> Result<RedisResult<Value>, Fault> {
        self.replies().await?.pop().ok_or(Fault::Lost(None))
    }
}

impl Pulse {
    /// An instant before everything that the server has not yet sent an answer past.
    pub(super) fn last_answered(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.answered.load(Ordering::Acquire))
    }

    /// Whether what is published to the lane is heard, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// A command sent at this instant has been answered.
    pub(super) fn answered(&self, sent_at: Instant) {
        let nanos = sent_at.saturating_duration_since(self.epoch).as_nanos();
        self.answered
            .fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// Makes the lane look whether its connection is alive.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }
}

impl Message {
    fn new(
        calls: Vec<Cmd>,
        unheard: Unheard,
        deadline: Instant,
    ) -> (Message, oneshot::Receiver<Result<Replies, Fault>>) {
        let (reply, answer) = oneshot::channel();
        let calls = calls
            .into_iter()
            .map(|command| Call {
                command,
                reply: None,
            })
            .collect();
        let message = Message {
            calls,
            unheard,
            deadline,
            reply,
        };
        (message, answer)
    }

    /// A command whose answer nobody reads.
    pub(super) fn unheard(command: Cmd, within: Duration) -> Message {
        Message::new(vec![command], Unheard::Run, Instant::now() + within).0
    }

    fn is_pointless(&self) -> bool {
        self.unheard == Unheard::Skip && self.reply.is_closed()
    }

    fn unanswered(&mut self) -> impl Iterator<Item = &mut Call> {
        self.calls.iter_mut().filter(|call| call.reply.is_none())
    }

    /// Sorts the replies of one pipeline to the calls they belong to, up to the first that belongs to none of them. A call that has to be
    /// made again stays without one.
    fn take(&mut self, replies: &mut impl Iterator<Item = Value>) -> Result<(), Fault> {
        for call in self.unanswered() {
            let reply = replies.next().unwrap_or_default().extract_error();
            match scripts::judge(&call.command, reply) {
                Verdict::Answer(reply) => call.reply = Some(reply),
                Verdict::Again(command) => call.command = command,
                Verdict::Shifted(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn finish(self) {
        let replies = self.calls.into_iter().filter_map(|call| call.reply);
        // Nobody may be waiting any more.
        let _ = self.reply.send(Ok(replies.collect()));
    }

    fn fail(self, fault: Fault) {
        let _ = self.reply.send(Err(fault));
    }
}

/// What serves a lane.
pub(super) struct Task {
    index: usize,
    connector: Connector,
    wakeups: Arc<Wakeups>,
    closing: watch::Receiver<bool>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// What came while there was no connection, oldest first.
    waiting: VecDeque<Message>,
    /// Why there is no connection.
    trouble: Option<Fault>,
    pulse: Arc<Pulse>,
}

/// What there is to do while there is no connection.
enum Step {
    TakeIn(Message),
    GiveUpOldest,
    Close,
}

/// How a batch ended.
enum Outcome {
    Answered,
    Unanswered,
    Broken,
}

/// Why a connection is no longer served.
enum Ended {
    Broken,
    Closed,
}

impl Task {
    /// Serves the lane until the backend is closed or dropped.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        while let Some(connection) = self.connect(&mut failures).await {
            self.wakeups.ask_again(self.index);
            let since = Instant::now();
            self.pulse.connected.store(true, Ordering::Release);
            match self.serve(connection).await {
                Ended::Closed => return,
                // One that breaks at once is no success.
                Ended::Broken if since.elapsed() < RECONNECT.longest => failures += 1,
                Ended::Broken => failures = 0,
            }
        }
    }

    /// A connection, as soon as there is one; nothing if the backend is closed first.
    async fn connect(&mut self, failures: &mut u32) -> Option<Connection> {
        loop {
            self.meanwhile(sleep(self.pause(*failures))).await?;
            let attempt = self.connector.clone().open(Some(Arc::clone(&self.pulse)));
            match self.meanwhile(attempt).await? {
                Ok(connection) => {
                    self.trouble = None;
                    return Some(connection);
                }
                Err(fault) => {
                    *failures += 1;
                    self.cannot_connect(fault);
                }
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        match &self.trouble {
            Some(fault) if fault.is_for_good() => jittered(REFUSED_PAUSE),
            _ if failures == 0 => Duration::ZERO,
            _ => RECONNECT.pause(failures).unwrap_or(RECONNECT.longest),
        }
    }

    fn cannot_connect(&mut self, fault: Fault) {
        if fault.is_for_good() {
            for message in self.waiting.drain(..) {
                message.fail(fault.clone());
            }
        }
        self.trouble = Some(fault);
    }

    /// Does `work` while there is no connection: messages are taken in, and fail when their time is up. `None` if the backend is closed.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let oldest = self.waiting.front().map(|message| message.deadline);
            let step = tokio::select! {
                output = &mut work => return Some(output),
                message = self.messages.recv() => message.map_or(Step::Close, Step::TakeIn),
                () = sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => Step::GiveUpOldest,
                _ = self.closing.wait_for(|closing| *closing) => Step::Close,
            };
            match step {
                Step::TakeIn(message) => self.take_in(message),
                Step::GiveUpOldest => self.give_up_oldest(),
                Step::Close => {
                    self.close_unconnected();
                    return None;
                }
            }
        }
    }

    fn take_in(&mut self, message: Message) {
        match &self.trouble {
            Some(fault) if fault.is_for_good() => message.fail(fault.clone()),
            _ => self.waiting.push_back(message),
        }
    }

    fn give_up_oldest(&mut self) {
        if let Some(message) = self.waiting.pop_front() {
            let no_answer = Fault::NoAnswer(self.connector.command_timeout());
            message.fail(self.trouble.clone().unwrap_or(no_answer));
        }
    }

    fn close_unconnected(&mut self) {
        self.messages.close();
        while let Ok(message) = self.messages.try_recv() {
            self.waiting.push_back(message);
        }
        for message in self.waiting.drain(..) {
            message.fail(Fault::Closed);
        }
    }

    /// Carries messages until the connection breaks or the backend is closed.
    async fn serve(&mut self, connection: Connection) -> Ended {
        let mut in_flight = JoinSet::new();
        let mut unanswered = 0;
        let mut closing = false;
        let ended = loop {
            let batch = tokio::select! {
                biased;
                Some(outcome) = in_flight.join_next() => {
                    // A batch that panicked has dropped its messages, and so told their senders.
                    match outcome.unwrap_or(Outcome::Broken) {
                        Outcome::Answered => unanswered = 0,
                        Outcome::Unanswered => unanswered += 1,
                        Outcome::Broken => unanswered = UNANSWERED,
                    }
                    if unanswered >= UNANSWERED { break Ended::Broken } else { continue }
                }
                () = self.pulse.suspect.notified() => vec![Message::unheard(cmd("PING"), self.connector.command_timeout())],
                _ = self.closing.wait_for(|closing| *closing), if !closing => {
                    closing = true;
                    self.messages.close();
                    continue;
                }
                batch = next_batch(&mut self.waiting, &mut self.messages) => match batch {
                    Some(batch) => batch,
                    None => break Ended::Closed,
                },
            };
            let exchange = exchange(connection.commands(), batch, Arc::clone(&self.pulse));
            // Without tokio's cooperative budget, which could make the first poll send nothing.
            let mut exchange = Box::pin(tokio::task::unconstrained(exchange));
            // The first poll puts the batch into the queue of the connection: batches leave in the order of these polls, whatever the
            // scheduler does with the rest.
            match poll_once(exchange.as_mut()).await {
                Poll::Ready(Outcome::Broken) => break Ended::Broken,
                Poll::Ready(_) => {}
                Poll::Pending => {
                    in_flight.spawn(exchange);
                }
            }
        };
        // Before the connection is gone for the server: nobody is to queue by another way and be taken for dead.
        self.pulse.connected.store(false, Ordering::Release);
        if let Ended::Closed = ended {
            // What has been sent is bounded by its deadlines.
            while in_flight.join_next().await.is_some() {}
        }
        in_flight.shutdown().await;
        connection.discard();
        ended
    }
}

/// Everything that waits, up to a bound; `None` when nothing will come any more.
async fn next_batch(
    waiting: &mut VecDeque<Message>,
    messages: &mut mpsc::UnboundedReceiver<Message>,
) -> Option<Vec<Message>> {
    if waiting.is_empty() {
        waiting.push_back(messages.recv().await?);
        // Those who are ready to speak share the message to the server. What was taken is safe if this is dropped here.
        yield_now().await;
    }
    let first = waiting.pop_front()?;
    let mut calls = first.calls.len();
    let mut batch = vec![first];
    while calls < BATCH {
        let Some(message) = waiting.pop_front().or_else(|| messages.try_recv().ok()) else {
            break;
        };
        calls += message.calls.len();
        batch.push(message);
    }
    Some(batch)
}

/// Sends `batch` as one pipeline and gives out the answers; what has to be asked again is sent again.
async fn exchange(
    mut connection: MultiplexedConnection,
    mut batch: Vec<Message>,
    pulse: Arc<Pulse>,
) -> Outcome {
    let mut outcome = Outcome::Answered;
    loop {
        batch.retain(|message| !message.is_pointless());
        let Some(deadline) = batch.iter().map(|message| message.deadline).max() else {
            return outcome;
        };
        let mut pipeline = Pipeline::new();
        for call in batch.iter_mut().flat_map(Message::unanswered) {
            pipeline.add_command(call.command.clone());
        }
        if pipeline.is_empty() {
            // The client refuses to send nothing.
            batch.into_iter().for_each(Message::finish);
            return outcome;
        }
        let sent_at = Instant::now();
        let sending = connection.send_packed_commands(&pipeline, 0, pipeline.len());
        let replies = match timeout_at(deadline, sending).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) if !error.is_timeout() => {
                fail_all(batch, &Fault::Lost(Some(error)));
                return Outcome::Broken;
            }
            Ok(Err(_)) | Err(_) => {
                let waited = sent_at.elapsed();
                fail_all(batch, &Fault::NoAnswer(round(waited)));
                return Outcome::Unanswered;
            }
        };

        let mut replies = replies.into_iter();
        let paired = batch
            .iter_mut()
            .try_for_each(|message| message.take(&mut replies));
        if paired.is_ok() {
            pulse.answered(sent_at);
        }
        let mut unfinished = Vec::new();
        for mut message in batch {
            if message.calls.iter().any(Call::is_of_wrong_server) {
                outcome = Outcome::Broken;
            }
            if message.unanswered().next().is_some() {
                unfinished.push(message);
            } else {
                message.finish();
            }
        }
        if let Err(fault) = paired {
            fail_all(unfinished, &fault);
            return Outcome::Broken;
        }
        batch = unfinished;
    }
}

impl Call {
    fn is_of_wrong_server(&self) -> bool {
        matches!(&self.reply, Some(Err(error)) if is_wrong_server(error))
    }
}

fn fail_all(batch: Vec<Message>, fault: &Fault) {
    for message in batch {
        message.fail(fault.clone());
    }
}

fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
