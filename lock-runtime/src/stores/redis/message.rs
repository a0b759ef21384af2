//! Messages: calls that go out together, and where their answers go; several messages go out as one pipeline.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::call::{self, Call, Outcome, Reply};
use super::fault::Fault;

/// Calls that go out together, and where their answers go.
pub(super) struct Message {
    calls: Vec<Call>,
    unheard: Unheard,
    deadline: Instant,
    reply: oneshot::Sender<Result<Vec<Call>, Fault>>,
}

/// What becomes of a message for whose answer nobody waits any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It need not be sent.
    Skip,
    /// It is sent all the same, if it has to wait for its turn.
    Run,
}

/// The answer to a message, to come.
#[must_use]
pub(super) struct Answer(oneshot::Receiver<Result<Vec<Call>, Fault>>);

/// One reply for each call of a message.
pub(super) type Replies = Vec<Reply>;

impl Answer {
    /// The replies, in the order of the calls and as many.
    pub(super) async fn replies(mut self) -> Result<Replies, Fault> {
        let mut calls = self.calls().await?;
        Ok(calls.iter_mut().filter_map(Call::take_reply).collect())
    }

    /// The reply to the only call; to be asked for once.
    pub(super) async fn reply(&mut self) -> Result<Reply, Fault> {
        let call = self.calls().await?.pop();
        call.and_then(|mut call| call.take_reply())
            .ok_or(Fault::Lost(None))
    }

    async fn calls(&mut self) -> Result<Vec<Call>, Fault> {
        // A message is dropped only together with its connection.
        (&mut self.0).await.unwrap_or(Err(Fault::Lost(None)))
    }

    /// Whether there is none yet.
    pub(super) fn is_to_come(&mut self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Empty))
    }
}

impl Message {
    pub(super) fn new(calls: Vec<Call>, unheard: Unheard, within: Duration) -> (Message, Answer) {
        let (reply, answer) = oneshot::channel();
        let message = Message {
            calls,
            unheard,
            deadline: Instant::now() + within,
            reply,
        };
        (message, Answer(answer))
    }

    /// A call whose answer nobody reads.
    pub(super) fn unheard(call: Call, within: Duration) -> Message {
        Message::new(vec![call], Unheard::Run, within).0
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How many calls it is.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    fn is_pointless(&self) -> bool {
        self.unheard == Unheard::Skip && self.reply.is_closed()
    }

    fn open(&mut self) -> impl Iterator<Item = &mut Call> {
        self.calls.iter_mut().filter(|call| call.is_open())
    }

    fn is_done(&self) -> bool {
        !self.calls.iter().any(Call::is_open)
    }

    fn finish(self) {
        // Nobody may be waiting any more.
        let _ = self.reply.send(Ok(self.calls));
    }

    pub(super) fn fail(self, fault: Fault) {
        let _ = self.reply.send(Err(fault));
    }
}

/// Sends `batch` in one piece and gives out the answers; what has to be asked again is sent again. Tells `answered` when what has been
/// answered was sent.
pub(super) async fn exchange(
    mut connection: MultiplexedConnection,
    mut batch: Vec<Message>,
    answered: impl Fn(Instant),
) -> Outcome {
    let mut outcome = Outcome::Answered;
    loop {
        batch.retain(|message| !message.is_pointless());
        let Some(deadline) = batch.iter().map(|message| message.deadline).max() else {
            return outcome;
        };
        let sent_at = Instant::now();
        let mut calls: Vec<_> = batch.iter_mut().flat_map(Message::open).collect();
        let exchanged = match calls.is_empty() {
            // The client refuses to send nothing.
            true => Ok(Outcome::Answered),
            false => call::exchange(&mut connection, &mut calls, sent_at, deadline).await,
        };
        drop(calls);
        let (done, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(Message::is_done);
        done.into_iter().for_each(Message::finish);
        batch = left;
        match exchanged {
            Ok(Outcome::Answered) => answered(sent_at),
            Ok(other) => outcome = other,
            Err(fault) => {
                fail_all(batch, &fault);
                return Outcome::of(&fault);
            }
        }
    }
}

fn fail_all(batch: Vec<Message>, fault: &Fault) {
    for message in batch {
        message.fail(fault.clone());
    }
}

/// The first poll of an [`exchange`] puts it into the queue of the connection: pipelines leave in the order of these polls, whatever the
/// scheduler does with the rest.
pub(super) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
