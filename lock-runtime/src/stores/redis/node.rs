//! A server and the links to it: which of them a call takes.
//!
//! A lane lives on the thread of the backend, so a call that takes it wakes two threads, which
//! costs as much as the round trip itself on a fast network. So each tokio runtime that uses the
//! backend gets a link of its own, as far as the pool has room, and what is asked there takes this
//! short way. By it, too, the news come of what was queued there. Renewals and repairs are left to
//! the lanes, which go on while callers block their threads. Whenever it is not there, or not well,
//! the lane does the same.
//!
//! The calls about one key keep to one link as long as one of them may be unanswered, so that none
//! overtakes another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lock_protocol::{AskNumber, LockKey};
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;

use super::call::{Call, Reply};
use super::connection::Target;
use super::fault::Fault;
use super::keeper::Keeper;
use super::link::{LANE, Link, SHORT};
use super::listening::{Channels, Listening};
use super::message::Unheard;
use super::wakeups::{Listener, Wakeups};
use crate::sync::lock;
use lock_protocol::{Numbers, Overtaken};

/// Enough that keys that are asked for at the same moment seldom share one.
const ROUTES: usize = 1024;

/// A server and the links to it.
pub(super) struct Node {
    lanes: Arc<[Arc<Link>]>,
    lane_listeners: Vec<Listener>,
    /// The tokio runtime of the lanes, on which they are the short way.
    home: Id,
    target: Target,
    /// How many more links the pool has room for.
    room: Arc<AtomicUsize>,
    short_ways: ShortWays,
    /// Who has to ask when a link may have missed what it listens to.
    wakeups: Arc<Wakeups>,
    channels: Arc<Channels>,
    /// By a part of the key's hash.
    routes: Vec<Mutex<Route>>,
    closing: watch::Sender<bool>,
}

/// The links of the tokio runtimes that have one.
pub(super) type ShortWays = Arc<Mutex<Vec<(Id, Arc<Link>)>>>;

/// How the calls about some keys go.
#[derive(Default)]
struct Route {
    /// The link of the last one.
    via: Weak<Link>,
    /// How many have been sent.
    sent: u64,
    /// The last of them of which it is known that the server is through with it, and so with those
    /// before.
    answered: u64,
    /// The numbers that their callers gave them.
    numbers: Numbers,
}

/// The place of one call among those about its key.
struct Turn<'a> {
    route: &'a Mutex<Route>,
    number: u64,
}

impl Node {
    /// The server at `target`, with so many lanes. The names of channels begin with `channel`. The
    /// keepers of the lanes are still to be run, by `home`.
    pub(super) fn new(
        home: &Handle,
        target: Target,
        lanes: usize,
        channel: String,
        wakeups: &Arc<Wakeups>,
        short_ways: ShortWays,
    ) -> (Node, Vec<Keeper>) {
        let closing = watch::Sender::new(false);
        let channels = Arc::new(Channels::new(channel));
        let lane = |_| {
            let listening = Listening::Always(channels.next());
            let listening = Some((listening, Arc::clone(wakeups)));
            Keeper::new(LANE, target.clone(), listening, closing.subscribe())
        };
        let (lanes, keepers): (Vec<_>, Vec<_>) = (0..lanes).map(lane).unzip();
        let room = target.pool.status().max_size - lanes.len();
        let node = Node {
            lane_listeners: lanes.iter().filter_map(Listener::new).collect(),
            lanes: lanes.into(),
            home: home.id(),
            target,
            room: Arc::new(AtomicUsize::new(room)),
            short_ways,
            wakeups: Arc::clone(wakeups),
            channels,
            routes: (0..ROUTES).map(|_| Mutex::default()).collect(),
            closing,
        };
        (node, keepers)
    }

    pub(super) fn lanes(&self) -> &Arc<[Arc<Link>]> {
        &self.lanes
    }

    /// Where the server is.
    pub(super) fn address(&self) -> &str {
        &self.target.address
    }

    /// Told when the links are closed.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Which lane is that of `key`: always the same, so that whatever concerns one key stays in
    /// order.
    pub(super) fn lane_of(&self, key: &LockKey) -> usize {
        key.hash_value() as usize % self.lanes.len()
    }

    /// The link that is to be told of hand-overs of `key`: that of the caller's tokio runtime, on
    /// which whoever waits is woken without a way from thread to thread.
    pub(super) fn listener(&self, key: &LockKey) -> Listener {
        let lane = self.lane(key);
        let short = self.short_way();
        let short = short.filter(|link| lane.works() && link.listens_in_time());
        let short = short.and_then(|link| Listener::new(&link));
        short.unwrap_or_else(|| self.lane_listener(key))
    }

    /// The lane of `key` as a listener.
    pub(super) fn lane_listener(&self, key: &LockKey) -> Listener {
        self.lane_listeners[self.lane_of(key)].clone()
    }

    fn lane(&self, key: &LockKey) -> &Arc<Link> {
        &self.lanes[self.lane_of(key)]
    }

    /// The reply to a call about `key`, which is the question of its caller with this `number`. It
    /// takes its turn as this is called, and goes out at the first poll, at the latest.
    pub(super) fn ask(
        &self,
        key: &LockKey,
        number: AskNumber,
        call: Call,
        unheard: Unheard,
    ) -> impl Future<Output = Result<Reply, Fault>> {
        let turn = self.turn(key, number);
        // Not in the future, which is a small one like this.
        let asked = turn.map(|(turn, via)| (turn, via.ask(call, unheard)));
        async move {
            let (turn, asked) = asked?;
            let reply = asked.reply().await;
            if reply.is_ok() {
                turn.answered();
            }
            reply
        }
    }

    /// Closes the links; resolves when the lanes have ended.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        for lane in &*self.lanes {
            lane.ended().await;
        }
        self.target.pool.close();
    }

    /// Gives a call about `key` its turn and its link, unless one with a larger number went ahead.
    ///
    /// The short way is for while the lane is well: a claim that queues by it would be taken for
    /// dead if nobody heard of its turn.
    fn turn(&self, key: &LockKey, number: AskNumber) -> Result<(Turn<'_>, Arc<Link>), Overtaken> {
        let lane = self.lane(key);
        let short = self.short_way().filter(|_| lane.works());
        let route = &self.routes[key.hash_value() as usize % ROUTES];
        let mut state = lock(route);
        state.numbers.admit(key, number)?;
        let mut via = None;
        if state.answered < state.sent {
            // A connection that is gone binds nobody.
            let is_bound = |link: &Arc<Link>| link.works() || Arc::ptr_eq(link, lane);
            via = state.via.upgrade().filter(is_bound);
        }
        let via = via.or(short).unwrap_or_else(|| Arc::clone(lane));
        if state.via.as_ptr() != Arc::as_ptr(&via) {
            state.via = Arc::downgrade(&via);
        }
        state.sent += 1;
        let number = state.sent;
        Ok((Turn { route, number }, via))
    }

    /// The link of the tokio runtime that this is called on; one that has none yet is given one.
    fn short_way(&self) -> Option<Arc<Link>> {
        let handle = Handle::try_current().ok()?;
        let runtime = handle.id();
        if runtime == self.home {
            return None;
        }
        let mut ways = lock(&self.short_ways);
        if let Some((_, link)) = ways.iter().find(|(owner, _)| *owner == runtime) {
            return link.works().then(|| Arc::clone(link));
        }
        let has_room = |room: usize| room.checked_sub(1);
        self.room
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, has_room)
            .ok()?;
        let listening = Listening::Anew(Arc::clone(&self.channels));
        let listening = Some((listening, Arc::clone(&self.wakeups)));
        let (link, keeper) = Keeper::new(
            SHORT,
            self.target.clone(),
            listening,
            self.closing.subscribe(),
        );
        ways.push((runtime, link));
        drop(ways);
        let place = Place {
            runtime,
            ways: Arc::clone(&self.short_ways),
            room: Arc::clone(&self.room),
        };
        handle.spawn(async move {
            let _place = place;
            keeper.run().await;
        });
        None
    }
}

impl Turn<'_> {
    /// The server has answered.
    fn answered(&self) {
        let mut route = lock(self.route);
        route.answered = route.answered.max(self.number);
    }
}

/// The place of a tokio runtime among those that have a link.
struct Place {
    runtime: Id,
    ways: ShortWays,
    room: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.ways).retain(|(owner, _)| *owner != self.runtime);
        self.room.fetch_add(1, Ordering::AcqRel);
    }
}
