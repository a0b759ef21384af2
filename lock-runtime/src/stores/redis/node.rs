//! A server and the links to it: which of them a call takes.
//!
//! A lane lives on the thread of the backend, so a call that takes it wakes two threads, which
//! costs as much as the round trip itself on a fast network. So each tokio runtime that uses the
//! backend gets a link of its own, as far as the pool has room, and what is asked there takes this
//! direct link. By it, too, the news come of what was queued there. Renewals and repairs are left
//! to the lanes, which go on while callers block their threads. Whenever it is not there, or not
//! well, the lane does the same.
//!
//! The calls about one key keep to one link as long as one of them may be unanswered, so that none
//! overtakes another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lock_protocol::{AskNumber, LockKey};
use lock_protocol::{Numbers, Overtaken};
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;

use super::call::{Call, Reply};
use super::connection::Target;
use super::fault::Fault;
use super::keeper::Keeper;
use super::link::{DIRECT, LANE, Link};
use super::listening::{Channels, Listening};
use super::message::IfCallerGone;
use super::wakeups::{Listener, Wakeups};
use crate::sync::lock;

/// Enough that keys that are asked for at the same moment seldom share one.
const ROUTES: usize = 1024;

/// A server and the links to it.
pub(super) struct Node {
    lanes: Arc<[Arc<Link>]>,
    lane_listeners: Vec<Listener>,
    /// The tokio runtime of the lanes, on which they are the direct link.
    lanes_runtime: Id,
    target: Target,
    /// How many more links the pool has room for.
    room: Arc<AtomicUsize>,
    direct_links: DirectLinks,
    /// Who has to ask when a link may have missed what it listens to.
    wakeups: Arc<Wakeups>,
    channels: Arc<Channels>,
    /// By a part of the key's hash.
    routes: Vec<Mutex<Route>>,
    closing: watch::Sender<bool>,
}

/// The links of the tokio runtimes that have one.
pub(super) type DirectLinks = Arc<Mutex<Vec<(Id, Arc<Link>)>>>;

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

impl Node {
    /// The server at `target`, with so many lanes. The names of channels begin with `channel`. The
    /// keepers of the lanes are still to be run, by `handle`.
    pub(super) fn new(
        handle: &Handle,
        target: Target,
        lanes: usize,
        channel: String,
        wakeups: &Arc<Wakeups>,
        direct_links: DirectLinks,
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
            lanes_runtime: handle.id(),
            target,
            room: Arc::new(AtomicUsize::new(room)),
            direct_links,
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
        let direct = self.direct_link();
        let direct = direct.filter(|link| lane.works() && link.listens_in_time());
        let direct = direct.and_then(|link| Listener::new(&link));
        direct.unwrap_or_else(|| self.lane_listener(key))
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
        if_gone: IfCallerGone,
    ) -> impl Future<Output = Result<Reply, Fault>> {
        let turn = self.turn(key, number);
        // Not in the future, which is a small one like this.
        let asked = turn.map(|(turn, via)| (turn, via.ask(call, if_gone)));
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
    /// The direct link is for while the lane is well: a claim that queues by it would be taken for
    /// dead if nobody heard of its turn.
    fn turn(
        &self,
        key: &LockKey,
        number: AskNumber,
    ) -> Result<(RouteTurn<'_>, Arc<Link>), Overtaken> {
        let lane = self.lane(key);
        let direct = self.direct_link().filter(|_| lane.works());
        let route = &self.routes[key.hash_value() as usize % ROUTES];
        let mut state = lock(route);
        state.numbers.admit(key, number)?;
        let mut via = None;
        if state.answered < state.sent {
            // A connection that is gone binds nobody.
            let is_bound = |link: &Arc<Link>| link.works() || Arc::ptr_eq(link, lane);
            via = state.via.upgrade().filter(is_bound);
        }
        let via = via.or(direct).unwrap_or_else(|| Arc::clone(lane));
        if state.via.as_ptr() != Arc::as_ptr(&via) {
            state.via = Arc::downgrade(&via);
        }
        state.sent += 1;
        let number = state.sent;
        Ok((RouteTurn { route, number }, via))
    }

    /// The link of the tokio runtime that this is called on; one that has none yet is given one.
    fn direct_link(&self) -> Option<Arc<Link>> {
        let handle = Handle::try_current().ok()?;
        let runtime = handle.id();
        if runtime == self.lanes_runtime {
            return None;
        }
        let mut links = lock(&self.direct_links);
        if let Some((_, link)) = links.iter().find(|(owner, _)| *owner == runtime) {
            return link.works().then(|| Arc::clone(link));
        }
        let has_room = |room: usize| room.checked_sub(1);
        self.room
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, has_room)
            .ok()?;
        let listening = Listening::Anew(Arc::clone(&self.channels));
        let listening = Some((listening, Arc::clone(&self.wakeups)));
        let (link, keeper) = Keeper::new(
            DIRECT,
            self.target.clone(),
            listening,
            self.closing.subscribe(),
        );
        links.push((runtime, link));
        drop(links);
        let place = RuntimeEntry {
            runtime,
            links: Arc::clone(&self.direct_links),
            room: Arc::clone(&self.room),
        };
        handle.spawn(async move {
            let _place = place;
            keeper.run().await;
        });
        None
    }
}

/// The place of one call among those about its key.
struct RouteTurn<'a> {
    route: &'a Mutex<Route>,
    number: u64,
}

impl RouteTurn<'_> {
    /// The server has answered.
    fn answered(&self) {
        let mut route = lock(self.route);
        route.answered = route.answered.max(self.number);
    }
}

/// The place of a tokio runtime among those that have a link.
struct RuntimeEntry {
    runtime: Id,
    links: DirectLinks,
    room: Arc<AtomicUsize>,
}

impl Drop for RuntimeEntry {
    fn drop(&mut self) {
        lock(&self.links).retain(|(owner, _)| *owner != self.runtime);
        self.room.fetch_add(1, Ordering::AcqRel);
    }
}
