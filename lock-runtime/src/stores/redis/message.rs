//! Messages: calls that go out together, and where their answers go; several messages go out as one pipeline.

use std::future::poll_fn;
use std::mem::take;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, timeout_at};

use super::fault::{Fault, is_wrong_server};
use super::scripts::{self, Verdict};

/// Calls that go out together, and where their answers go.
pub(super) struct Message {
    calls: Vec<Call>,
    unheard: Unheard,
    deadline: Instant,
    reply: oneshot::Sender<Result<Vec<Call>, Fault>>,
}

pub(super) struct Call {
    /// Empty while it is in flight.
    command: Cmd,
    reply: Option<RedisResult<Value>>,
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
pub(super) type Replies = Vec<RedisResult<Value>>;

/// How an [`exchange`] ended.
pub(super) enum Outcome {
    Answered,
    /// Not in time.
    Unanswered,
    /// The connection is of no more use.
    Broken,
}

impl Answer {
    /// The replies, in the order of the calls and as many.
    pub(super) async fn replies(mut self) -> Result<Replies, Fault> {
        let calls = self.calls().await?;
        Ok(calls.into_iter().filter_map(|call| call.reply).collect())
    }

    /// The reply to the only call; to be asked for once.
    pub(super) async fn reply(&mut self) -> Result<RedisResult<Value>, Fault> {
        let call = self.calls().await?.pop();
        call.and_then(|call| call.reply).ok_or(Fault::Lost(None))
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

    /// A command whose answer nobody reads.
    pub(super) fn unheard(command: Cmd, within: Duration) -> Message {
        Message::new(vec![Call::new(command)], Unheard::Run, within).0
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

    fn unanswered(&mut self) -> impl Iterator<Item = &mut Call> {
        self.calls.iter_mut().filter(|call| call.reply.is_none())
    }

    /// Takes what came for its calls, up to the first reply that belongs to none of them. A call that has to be made again stays without one.
    fn take<'a>(&mut self, came: &mut impl Iterator<Item = (&'a Cmd, Value)>) -> Result<(), Fault> {
        for call in self.unanswered() {
            let (sent, reply) = came.next().ok_or(Fault::Lost(None))?;
            match scripts::judge(sent, reply.extract_error()) {
                Verdict::Answer(reply) => call.reply = Some(reply),
                Verdict::Again(command) => call.command = command,
                Verdict::Shifted(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn finish(self) {
        // Nobody may be waiting any more.
        let _ = self.reply.send(Ok(self.calls));
    }

    pub(super) fn fail(self, fault: Fault) {
        let _ = self.reply.send(Err(fault));
    }
}

/// Sends `batch` as one pipeline and gives out the answers; what has to be asked again is sent again. Tells `answered` when what has been
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
        let mut pipeline = Pipeline::new();
        for call in batch.iter_mut().flat_map(Message::unanswered) {
            pipeline.add_command(take(&mut call.command));
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

        let mut came = pipeline.cmd_iter().zip(replies);
        let paired = batch
            .iter_mut()
            .try_for_each(|message| message.take(&mut came));
        if paired.is_ok() {
            answered(sent_at);
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
    pub(super) fn new(command: Cmd) -> Call {
        Call {
            command,
            reply: None,
        }
    }

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

/// The first poll of an [`exchange`] puts it into the queue of the connection: pipelines leave in the order of these polls, whatever the
/// scheduler does with the rest.
pub(super) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
