//! Connections on the tokio runtimes of the callers: the short way for who asks for a free lock, or releases one.
//!
//! A lane lives on the thread of the backend, so a command that takes it wakes two threads, which costs as much as the round trip itself
//! on a fast network. So each tokio runtime that uses the backend gets one connection of its own, as far as the pool has room, and
//! what is asked there takes it. It subscribes to nothing: renewals, repairs and the news of hand-overs are left to the lanes, which go on
//! while callers block their threads. Whenever it is not there, or not well, the lane does the same.
//!
//! The commands of one key keep to one connection as long as one of them may be unanswered, so that none overtakes another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lock_protocol::{AskNumber, LockKey};
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::connection::Connector;
use super::lane::{Lane, RECONNECT};
use super::live::Live;
use crate::backend::numbers::{Numbers, Overtaken};
use crate::backoff::Retry;
use crate::sync::lock;

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

/// How the commands of some keys go.
#[derive(Default)]
struct Route {
    /// Which way the last one went; `None` is the lane. A connection that is gone binds nobody.
    via: Option<Weak<Live>>,
    /// How many have been sent.
    sent: u64,
    /// The last of them of which it is known that the server is through with it, and so with those before.
    answered: u64,
    /// The numbers that their callers gave them.
    numbers: Numbers,
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

    /// Gives a command of `key` its turn, unless one with a larger number went ahead. Called where the command is first polled.
    ///
    /// The short way is for while the `lane` is well: a claim that queues by it would be taken for dead if nobody heard of its turn.
    pub(super) fn turn(
        &self,
        key: &LockKey,
        number: AskNumber,
        lane: &Lane,
    ) -> Result<Turn<'_>, Overtaken> {
        let short = self.short_way().filter(|_| lane.pulse().is_connected());
        let route = &self.routes[key.hash_value() as usize % ROUTES];
        let mut state = lock(route);
        state.numbers.admit(key, number)?;
        let unanswered = state.answered < state.sent;
        let via = match &state.via {
            None if unanswered => None,
            Some(live) if unanswered => live.upgrade().filter(|live| live.works()).or(short),
            _ => short,
        };
        state.via = via.as_ref().map(Arc::downgrade);
        state.sent += 1;
        Ok(Turn {
            route,
            number: state.sent,
            via,
        })
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
        live.suspect();
    }
}

impl Turn<'_> {
    /// The server has answered.
    pub(super) fn answered(&self) {
        let mut route = lock(self.route);
        route.answered = route.answered.max(self.number);
    }
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
                let live = Live::new(connection.commands(), connector.command_timeout());
                let live = Arc::new(live);
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
