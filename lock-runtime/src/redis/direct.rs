//! Connections on the tokio runtimes of the callers: the short way for who asks for a free lock, or releases one.
//!
//! A lane lives on the thread of the backend, so a command that takes it wakes two threads, which costs as much as the round trip itself
//! on a fast network. So each tokio runtime that uses the backend gets one connection of its own, as far as the pool has room, and
//! what is asked there takes it. It subscribes to nothing: hand-overs, renewals and repairs are left to the lanes, which go on while
//! callers block their threads. Whenever it is not there, or not well, the lane does the same.
//!
//! A command goes out from its caller's own future, as long as few others are in flight. Those that come meanwhile wait until the tasks
//! that are ready to speak have spoken, and go out as one pipeline, which costs far less than to send each by itself.
//!
//! The commands of one key keep to one connection as long as one of them may be unanswered, so that none overtakes another.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, RedisResult, Value, cmd};
use tokio::runtime::{Handle, Id};
use tokio::sync::{Notify, watch};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};

use super::connection::Connector;
use super::fault::{Fault, is_wrong_server};
use super::lane::{BATCH, Lane, RECONNECT, UNANSWERED, poll_once};
use super::message::{Answer, Message, Outcome, Unheard, exchange};
use super::scripts::{self, Verdict};
use crate::backoff::Retry;

/// How many commands may be in flight by themselves. Few tasks lose no time to each other, and many share what they send.
const ALONE: usize = 4;
/// How long after its deadline a message is known to be with nobody who keeps it.
const STUCK: Duration = Duration::from_millis(25);
/// Enough that keys that are asked for at the same moment seldom share one.
const ROUTES: usize = 1024;

/// The direct connections of a backend.
pub(super) struct Direct {
    /// The tokio runtime of the backend's own thread, on which the lanes are the short way.
    home: Id,
    connector: Connector,
    /// How many more connections the pool has room for.
    room: Arc<AtomicUsize>,
    ways: Ways,
    /// By a part of the key's hash.
    routes: Vec<Mutex<Route>>,
    closing: watch::Receiver<bool>,
}

/// What direct connections there are, for those who have to tell them something.
pub(super) type Ways = Arc<Mutex<Vec<Way>>>;

/// The connection of one tokio runtime, if it is there.
pub(super) struct Way {
    runtime: Id,
    live: Option<Arc<Live>>,
}

/// A connection that works as far as anybody knows.
pub(super) struct Live {
    connection: MultiplexedConnection,
    /// The one that drives the connection. Others may send by it as well, and must not take its tasks with them.
    runtime: Handle,
    /// How long it waits for an answer.
    timeout: Duration,
    /// How often in a row there was no answer.
    unanswered: AtomicU32,
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
    Alone(Cmd, Flight<'a>),
    Together(Answer),
}

/// Something in flight, until it is dropped.
struct Flight<'a>(&'a Mutex<Crowd>);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        lock(self.0).in_flight -= 1;
    }
}

/// How the commands of some keys go.
#[derive(Default)]
struct Route {
    /// Which way the last one went; `None` is the lane. A connection that is gone binds nobody.
    via: Option<Weak<Live>>,
    /// How many have been sent.
    sent: u64,
    /// The last of them of which it is known that the server is through with it, and so with those before.
    answered: u64,
}

/// The place of one command among those of its key.
pub(super) struct Turn<'a> {
    route: &'a Mutex<Route>,
    number: u64,
    /// Which way the command has to go; `None` is the lane.
    pub(super) via: Option<Arc<Live>>,
}

impl Direct {
    /// For as many tokio runtimes as the pool has `room`.
    pub(super) fn new(
        home: &Handle,
        connector: Connector,
        room: usize,
        ways: Ways,
        closing: watch::Receiver<bool>,
    ) -> Direct {
        Direct {
            home: home.id(),
            connector,
            room: Arc::new(AtomicUsize::new(room)),
            ways,
            routes: (0..ROUTES).map(|_| Mutex::default()).collect(),
            closing,
        }
    }

    /// Gives a command of the key with this `hash` its turn. Called where the command is first polled.
    ///
    /// The short way is for while the `lane` is well: a claim that queues by it would be taken for dead if nobody heard of its turn.
    pub(super) fn turn(&self, hash: u64, lane: &Lane) -> Turn<'_> {
        let short = self.short_way().filter(|_| lane.pulse().is_connected());
        let index = usize::try_from(hash % ROUTES as u64).unwrap_or_default();
        let route = &self.routes[index];
        let mut state = lock(route);
        let unanswered = state.answered < state.sent;
        let via = match &state.via {
            None if unanswered => None,
            Some(live) if unanswered => live.upgrade().filter(|live| live.works()).or(short),
            _ => short,
        };
        state.via = via.as_ref().map(Arc::downgrade);
        state.sent += 1;
        Turn {
            route,
            number: state.sent,
            via,
        }
    }

    /// The connection of the tokio runtime that this is called on; one that has none yet is given one.
    fn short_way(&self) -> Option<Arc<Live>> {
        let handle = Handle::try_current().ok()?;
        let runtime = handle.id();
        if runtime == self.home {
            return None;
        }
        let mut ways = lock(&self.ways);
        if let Some(way) = ways.iter().find(|way| way.runtime == runtime) {
            return way.live.clone().filter(|live| live.works());
        }
        let has_room = |room: usize| room.checked_sub(1);
        self.room
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, has_room)
            .ok()?;
        ways.push(Way {
            runtime,
            live: None,
        });
        drop(ways);
        let keeper = Keeper {
            runtime,
            ways: Arc::clone(&self.ways),
            room: Arc::clone(&self.room),
        };
        handle.spawn(keeper.run(self.connector.clone(), self.closing.clone()));
        None
    }
}

/// Makes the direct connections look whether they are alive: one of the backend's is not.
pub(super) fn suspect(ways: &Ways) {
    for live in lock(ways).iter().filter_map(|way| way.live.as_ref()) {
        live.bell.notify_one();
    }
}

impl Turn<'_> {
    /// The server has answered.
    pub(super) fn answered(&self) {
        let mut route = lock(self.route);
        route.answered = route.answered.max(self.number);
    }
}

impl Live {
    fn works(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// Resolves when the connection is to be given up.
    async fn broke(&self) {
        while self.works() {
            self.bell.notified().await;
            if self.works() && self.ask_alone(cmd("PING")).await.is_err() {
                self.ended(&Outcome::Broken);
            }
        }
    }

    /// The reply to `call`, which takes its place behind all that came before in the first poll.
    pub(super) async fn ask(
        self: &Arc<Live>,
        call: Cmd,
        unheard: Unheard,
    ) -> Result<RedisResult<Value>, Fault> {
        match self.board(call, unheard) {
            Boarding::Alone(call, _flight) => self.ask_alone(call).await,
            Boarding::Together(answer) => {
                let reply = timeout(self.timeout + STUCK, answer.reply()).await;
                reply.unwrap_or_else(|_| {
                    self.ended(&Outcome::Broken);
                    Err(Fault::NoAnswer(self.timeout))
                })
            }
        }
    }

    fn board(self: &Arc<Live>, call: Cmd, unheard: Unheard) -> Boarding<'_> {
        let mut crowd = lock(&self.crowd);
        if !crowd.carried && crowd.in_flight < ALONE {
            crowd.in_flight += 1;
            return Boarding::Alone(call, Flight(&self.crowd));
        }
        let (message, answer) = Message::new(vec![call], unheard, self.timeout);
        crowd.waiting.push_back(message);
        if !replace(&mut crowd.carried, true) {
            drop(crowd);
            let carrier = Carrier {
                live: Arc::clone(self),
                done: false,
            };
            self.runtime.spawn(carrier.run());
        }
        Boarding::Together(answer)
    }

    async fn exchange(self: Arc<Live>, batch: Vec<Message>) {
        lock(&self.crowd).in_flight += 1;
        let _flight = Flight(&self.crowd);
        let outcome = exchange(self.connection.clone(), batch, |_| {}).await;
        self.ended(&outcome);
    }

    /// Sends `call`, again where it was not executed or not finished, and gives the reply.
    async fn ask_alone(&self, mut call: Cmd) -> Result<RedisResult<Value>, Fault> {
        loop {
            let mut connection = self.connection.clone();
            // Without tokio's cooperative budget, which could make the first poll send nothing.
            let sending = unconstrained(connection.send_packed_command(&call));
            let reply = match sending.await {
                Ok(value) => value.extract_error(),
                Err(error) => Err(error),
            };
            match &reply {
                Err(error) if error.is_timeout() => {
                    self.ended(&Outcome::Unanswered);
                    return Err(Fault::NoAnswer(self.timeout));
                }
                // It is not from the server.
                Err(error) if error.code().is_none() => {
                    self.ended(&Outcome::Broken);
                    return Err(Fault::Lost(reply.err()));
                }
                _ => self.ended(&Outcome::Answered),
            }
            match scripts::judge(&call, reply) {
                Verdict::Answer(reply) => {
                    if reply.as_ref().is_err_and(is_wrong_server) {
                        self.ended(&Outcome::Broken);
                    }
                    return Ok(reply);
                }
                Verdict::Again(again) => call = again,
                Verdict::Shifted(fault) => {
                    self.ended(&Outcome::Broken);
                    return Err(fault);
                }
            }
        }
    }

    /// Something that was in flight has ended like this.
    fn ended(&self, outcome: &Outcome) {
        let unanswered = match outcome {
            Outcome::Unsent => return,
            Outcome::Answered => {
                self.unanswered.store(0, Ordering::Release);
                return;
            }
            Outcome::Unanswered => self.unanswered.fetch_add(1, Ordering::AcqRel) + 1,
            Outcome::Broken => UNANSWERED,
        };
        if unanswered >= UNANSWERED {
            self.broken.store(true, Ordering::Release);
            self.bell.notify_one();
        }
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
            // The first poll gives the batch its place in the connection.
            let exchange = Arc::clone(&self.live).exchange(batch);
            let mut exchange = Box::pin(unconstrained(exchange));
            if poll_once(exchange.as_mut()).await.is_pending() {
                self.live.runtime.spawn(exchange);
            }
        }
    }

    fn next_batch(&self) -> Vec<Message> {
        let mut crowd = lock(&self.live.crowd);
        let count = crowd.waiting.len().min(BATCH);
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
        self.live.ended(&Outcome::Broken);
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

/// Opens the connection of one tokio runtime, as a task on it, and replaces it when it breaks.
struct Keeper {
    runtime: Id,
    ways: Ways,
    room: Arc<AtomicUsize>,
}

impl Keeper {
    /// Until the backend is closed or dropped.
    async fn run(self, connector: Connector, mut closing: watch::Receiver<bool>) {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.keep(&connector) => {}
        }
    }

    async fn keep(&self, connector: &Connector) {
        let mut failures = 0;
        loop {
            let since = Instant::now();
            if let Ok(connection) = connector.clone().open(None).await {
                let live = Arc::new(Live {
                    connection: connection.commands(),
                    runtime: Handle::current(),
                    timeout: connector.command_timeout(),
                    unanswered: AtomicU32::new(0),
                    broken: AtomicBool::new(false),
                    bell: Notify::new(),
                    crowd: Mutex::default(),
                });
                self.show(Some(Arc::clone(&live)));
                live.broke().await;
                self.show(None);
                connection.discard();
            }
            // One that breaks at once is no success. Nobody waits for this: the lanes do the same.
            let broke_at_once = since.elapsed() < RECONNECT.longest;
            failures = if broke_at_once { failures + 1 } else { 1 };
            sleep(RECONNECT.pause(failures).unwrap_or(RECONNECT.longest)).await;
        }
    }

    fn show(&self, live: Option<Arc<Live>>) {
        let mut ways = lock(&self.ways);
        if let Some(way) = ways.iter_mut().find(|way| way.runtime == self.runtime) {
            way.live = live;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.ways).retain(|way| way.runtime != self.runtime);
        self.room.fetch_add(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every update is complete in itself, so what a panic leaves behind is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
