//! A connection on the tokio runtime of its callers, shared by many tasks.
//!
//! A command goes out from its caller's own future, as long as few others are in flight. Those that come meanwhile wait until the tasks
//! that are ready to speak have spoken, and go out as one pipeline, which costs far less than to send each by itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::call::{self, Call, Outcome, Reply};
use super::fault::Fault;
use super::message::{Answer, Message, Unheard, exchange, poll_once};
use crate::sync::lock;

/// How many commands may be in flight by themselves. Few tasks lose no time to each other, and many share what they send.
const ALONE: usize = 4;
/// How many commands go out in one pipeline, so that the server works on some while the next are being made.
const PIPELINE: usize = 64;

/// A connection that works as far as anybody knows.
pub(super) struct Live {
    connection: MultiplexedConnection,
    /// The one that drives the connection. Others may send by it as well, and must not take its tasks with them.
    runtime: Handle,
    /// How long it waits for an answer.
    timeout: Duration,
    broken: AtomicBool,
    bell: Notify,
    crowd: Mutex<Crowd>,
}

/// The commands of a connection.
#[derive(Default)]
struct Crowd {
    /// How many commands and pipelines are in flight.
    in_flight: usize,
    /// What the next pipelines take.
    waiting: VecDeque<Message>,
    /// Whether a task is at work that sends what waits. Nothing goes by itself meanwhile, so that nothing overtakes another.
    carried: bool,
}

/// How a command goes.
enum Boarding<'a> {
    Alone(Call, Flight<'a>),
    Together(Patience<'a>),
}

/// Something in flight, until it is dropped.
struct Flight<'a>(&'a Mutex<Crowd>);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        lock(self.0).in_flight -= 1;
    }
}

/// The wait for an answer, which its message brings by the deadline, unless the task that is to send it is that of a blocked thread. A timer
/// for this would cost too much: the callers have one that is a little longer, and whoever gives up while there is no answer tells.
struct Patience<'a> {
    live: &'a Live,
    answer: Answer,
    deadline: Instant,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if self.answer.is_to_come() && self.deadline <= Instant::now() {
            self.live.give_up();
        }
    }
}

impl Live {
    /// The connection, on the tokio runtime where this is called.
    pub(super) fn new(connection: MultiplexedConnection, timeout: Duration) -> Live {
        Live {
            connection,
            runtime: Handle::current(),
            timeout,
            broken: AtomicBool::new(false),
            bell: Notify::new(),
            crowd: Mutex::default(),
        }
    }

    pub(super) fn works(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// Makes it look whether the server is still there.
    pub(super) fn suspect(&self) {
        self.bell.notify_one();
    }

    /// Resolves when the connection is to be given up.
    pub(super) async fn broke(&self) {
        while self.works() {
            self.bell.notified().await;
            if self.works() && self.ask_alone(Call::ping()).await.is_err() {
                self.give_up();
            }
        }
    }

    /// The reply to `call`, which takes its place behind all that came before in the first poll.
    pub(super) async fn ask(
        self: &Arc<Live>,
        call: Call,
        unheard: Unheard,
    ) -> Result<Reply, Fault> {
        match self.board(call, unheard) {
            // Boxed, because it is large, and most of many commands go together.
            Boarding::Alone(call, _flight) => Box::pin(self.ask_alone(call)).await,
            Boarding::Together(mut patience) => patience.answer.reply().await,
        }
    }

    fn board(self: &Arc<Live>, call: Call, unheard: Unheard) -> Boarding<'_> {
        let mut crowd = lock(&self.crowd);
        if !crowd.carried && crowd.in_flight < ALONE {
            crowd.in_flight += 1;
            return Boarding::Alone(call, Flight(&self.crowd));
        }
        let (message, answer) = Message::new(vec![call], unheard, self.timeout);
        let deadline = message.deadline();
        crowd.waiting.push_back(message);
        if !replace(&mut crowd.carried, true) {
            drop(crowd);
            let carrier = Carrier {
                live: Arc::clone(self),
                done: false,
            };
            self.runtime.spawn(carrier.run());
        }
        Boarding::Together(Patience {
            live: self,
            answer,
            deadline,
        })
    }

    async fn exchange(self: Arc<Live>, batch: Vec<Message>) {
        lock(&self.crowd).in_flight += 1;
        let _flight = Flight(&self.crowd);
        match exchange(self.connection.clone(), batch, |_| {}).await {
            Outcome::Answered => {}
            Outcome::Unanswered | Outcome::Broken => self.give_up(),
        }
    }

    /// Sends `call`, again where it was not executed or not finished, and gives the reply.
    async fn ask_alone(&self, mut call: Call) -> Result<Reply, Fault> {
        let mut connection = self.connection.clone();
        loop {
            let sent_at = Instant::now();
            let deadline = sent_at + self.timeout;
            let mut calls = [&mut call];
            // Without tokio's cooperative budget, which could make the first poll send nothing.
            let exchange = unconstrained(call::exchange(
                &mut connection,
                &mut calls,
                sent_at,
                deadline,
            ));
            let exchanged = exchange.await;
            if !matches!(exchanged, Ok(Outcome::Answered)) {
                self.give_up();
            }
            exchanged?;
            if let Some(reply) = call.take_reply() {
                return Ok(reply);
            }
        }
    }

    /// One timeout is enough for this: the lane is there, and the next connection soon.
    fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

/// Sends what waits for a connection, until nothing does.
struct Carrier {
    live: Arc<Live>,
    done: bool,
}

impl Carrier {
    async fn run(mut self) {
        loop {
            step_back().await;
            let batch = self.next_batch();
            if batch.is_empty() {
                self.done = true;
                return;
            }
            if !self.live.works() {
                // The commands of its keys go another way by now.
                drop(batch);
                continue;
            }
            let exchange = Arc::clone(&self.live).exchange(batch);
            let mut exchange = Box::pin(unconstrained(exchange));
            if poll_once(exchange.as_mut()).await.is_pending() {
                self.live.runtime.spawn(exchange);
            }
        }
    }

    fn next_batch(&self) -> Vec<Message> {
        let mut crowd = lock(&self.live.crowd);
        let count = crowd.waiting.len().min(PIPELINE);
        crowd.carried = count > 0;
        crowd.waiting.drain(..count).collect()
    }
}

impl Drop for Carrier {
    /// Not done: the tokio runtime has ended.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.live.give_up();
        let left = {
            let mut crowd = lock(&self.live.crowd);
            crowd.carried = false;
            take(&mut crowd.waiting)
        };
        // Their senders are told where no lock is held.
        drop(left);
    }
}

/// Lets those who are ready speak first. Unlike `yield_now` it waits in the queue of the tasks, where other threads find it when this
/// one is blocked.
async fn step_back() {
    let mut has_waited = false;
    poll_fn(|context| {
        if replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
