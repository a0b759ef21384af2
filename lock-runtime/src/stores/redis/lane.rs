//! A lane: one long-lived connection that carries the commands of many tasks, in the order in which they came.
//!
//! A task on the thread of the backend owns the connection. It takes whatever has come meanwhile as one pipeline, so that many claims
//! cost one message; it repairs the connection when it breaks, while commands wait for it as long as they may; and it is the only one
//! to do so. A lane has at most one live connection: the old one is gone before the next is opened, since otherwise a message from
//! the old one could be taken for a young one.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

use super::call::{Call, Outcome};
use super::connection::{Connection, Connector};
use super::fault::Fault;
use super::message::{Answer, Message, Unheard, exchange, poll_once};
use super::pulse::Pulse;
use super::wakeups::Wakeups;
use crate::backoff::{Backoff, Retry, jittered};

/// How many calls go out in one pipeline; more wait for the next one.
const BATCH: usize = 256;
/// After so many batches in a row without an answer the connection is taken for dead.
const UNANSWERED: u32 = 2;
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

impl Lane {
    /// A lane without a connection yet, and the task that gives it one.
    pub(super) fn new(
        connector: Connector,
        wakeups: Arc<Wakeups>,
        closing: watch::Receiver<bool>,
    ) -> (Lane, Task) {
        let (sender, messages) = mpsc::unbounded_channel();
        let lane = Lane {
            messages: sender,
            pulse: Arc::new(Pulse::new()),
            channel: connector.channel().into(),
            timeout: connector.command_timeout(),
        };
        let task = Task {
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
    pub(super) fn send(&self, calls: Vec<Call>, unheard: Unheard) -> Answer {
        self.send_within(calls, unheard, self.timeout)
    }

    /// Asks for a sign of life, as soon as there is a connection.
    pub(super) fn ping(&self, within: Duration) -> Answer {
        self.send_within(vec![Call::ping()], Unheard::Skip, within)
    }

    /// Resolves when the lane has ended.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    fn send_within(&self, calls: Vec<Call>, unheard: Unheard, within: Duration) -> Answer {
        let (message, answer) = Message::new(calls, unheard, within);
        if let Err(SendError(message)) = self.messages.send(message) {
            message.fail(Fault::Closed);
        }
        answer
    }
}

/// What serves a lane.
pub(super) struct Task {
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
            self.wakeups.ask_all();
            let since = Instant::now();
            self.pulse.set_connected(true);
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
            let oldest = self.waiting.front().map(Message::deadline);
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
                () = self.pulse.suspected() => vec![Message::unheard(Call::ping(), self.connector.command_timeout())],
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
            let pulse = Arc::clone(&self.pulse);
            let answered = move |sent_at| pulse.answered(sent_at);
            let exchange = exchange(connection.commands(), batch, answered);
            // Without tokio's cooperative budget, which could make the first poll send nothing.
            let mut exchange = Box::pin(tokio::task::unconstrained(exchange));
            match poll_once(exchange.as_mut()).await {
                Poll::Ready(Outcome::Broken) => break Ended::Broken,
                Poll::Ready(_) => {}
                Poll::Pending => {
                    in_flight.spawn(exchange);
                }
            }
        };
        // Before the connection is gone for the server: nobody is to queue by another way and be taken for dead.
        self.pulse.set_connected(false);
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
    let mut calls = first.len();
    let mut batch = vec![first];
    while calls < BATCH {
        let Some(message) = waiting.pop_front().or_else(|| messages.try_recv().ok()) else {
            break;
        };
        calls += message.len();
        batch.push(message);
    }
    Some(batch)
}
