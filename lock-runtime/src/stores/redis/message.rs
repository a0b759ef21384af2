//! Messages: calls that go out together, and where their replies go; several messages share what is
//! written.

use smallvec::SmallVec;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::call::{Call, Reply};
use super::fault::Fault;

/// Calls that go out together, and where their replies go.
pub(super) struct Message {
    calls: Calls,
    if_gone: IfCallerGone,
    deadline: Instant,
    replies: oneshot::Sender<Result<Replies, Fault>>,
}

/// Most messages are one call.
pub(super) type Calls = SmallVec<[Call; 1]>;

/// One reply for each call of a message.
pub(super) type Replies = SmallVec<[Reply; 1]>;

/// What becomes of a message for whose answer nobody waits any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfCallerGone {
    /// It need not be sent.
    Drop,
    /// It is sent all the same, if it has to wait for its turn.
    Send,
}

/// The answer to a message, to come.
#[must_use]
pub(super) struct PendingAnswer(oneshot::Receiver<Result<Replies, Fault>>);

impl PendingAnswer {
    /// The replies, in the order of the calls and as many; to be asked for once.
    pub(super) async fn replies(&mut self) -> Result<Replies, Fault> {
        // A message is dropped only together with its connection.
        (&mut self.0).await.unwrap_or(Err(Fault::Lost(None)))
    }

    /// The reply to the only call; to be asked for once.
    pub(super) async fn reply(&mut self) -> Result<Reply, Fault> {
        self.replies().await?.pop().ok_or(Fault::Lost(None))
    }

    /// Whether there is none yet.
    pub(super) fn is_to_come(&mut self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Empty))
    }
}

impl Message {
    pub(super) fn new(
        calls: Calls,
        if_gone: IfCallerGone,
        deadline: Instant,
    ) -> (Message, PendingAnswer) {
        let (replies, answer) = oneshot::channel();
        let message = Message {
            calls,
            if_gone,
            deadline,
            replies,
        };
        (message, PendingAnswer(answer))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How many calls it is.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn is_pointless(&self) -> bool {
        self.if_gone == IfCallerGone::Drop && self.replies.is_closed()
    }

    /// Its calls without a reply.
    pub(super) fn open(&mut self) -> impl Iterator<Item = &mut Call> {
        self.calls.iter_mut().filter(|call| call.is_open())
    }

    pub(super) fn is_done(&self) -> bool {
        !self.calls.iter().any(Call::is_open)
    }

    pub(super) fn finish(mut self) {
        let replies = self.calls.iter_mut().filter_map(Call::take_reply);
        // Nobody may be waiting any more.
        let _ = self.replies.send(Ok(replies.collect()));
    }

    pub(super) fn fail(self, fault: Fault) {
        let _ = self.replies.send(Err(fault));
    }
}
