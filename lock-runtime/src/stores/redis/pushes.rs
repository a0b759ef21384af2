//! What the server sends without being asked: hand-overs, on the connections that carry the
//! commands.

use std::sync::{Arc, OnceLock};

use deadpool_redis::redis::{PushInfo, PushKind, Value};
use lock_protocol::Instant;

use super::link::Link;
use super::message::IfCallerGone;
use super::node::DirectLinks;
use super::scripts::{self, HandOver};
use super::wakeups::Wakeups;
use crate::clock::to_seam;
use crate::sync::lock;

/// Before everything.
const AGES_AGO: Instant = Instant::from_nanos(0);

/// Sorts what comes to the claims that wait for it.
///
/// Its methods are called by the tasks that drive the connections and must not block.
pub(super) struct Pushes {
    wakeups: Arc<Wakeups>,
    /// Filled once; connections, and so pushes, come only later.
    lanes: OnceLock<Arc<[Arc<Link>]>>,
    direct_links: DirectLinks,
}

impl Pushes {
    pub(super) fn new(wakeups: Arc<Wakeups>, direct_links: DirectLinks) -> Pushes {
        Pushes {
            wakeups,
            lanes: OnceLock::new(),
            direct_links,
        }
    }

    /// Names the links that listen.
    pub(super) fn connect(&self, lanes: &Arc<[Arc<Link>]>) {
        self.lanes.get_or_init(|| Arc::clone(lanes));
    }

    pub(super) fn receive(&self, push: &PushInfo) {
        match push.kind {
            // It does not say which connection it was.
            PushKind::Disconnection => {
                self.lanes().iter().for_each(|lane| lane.check_soon());
                for (_, link) in &*lock(&self.direct_links) {
                    link.check_soon();
                }
            }
            PushKind::Message => self.message(&push.data),
            _ => {}
        }
    }

    fn message(&self, data: &[Value]) {
        let [Value::BulkString(channel), Value::BulkString(message)] = data else {
            return;
        };
        if let Some((owner, remaining)) = scripts::announcement(message) {
            return self.wakeups.look_after(owner, remaining);
        }
        let Some(hand_over) = scripts::hand_over(message) else {
            return;
        };
        match self.listener(channel) {
            Some((link, since)) => self.hand_over(&link, to_seam(since), &hand_over),
            // By a connection that was given up: it may be of any age.
            None => {
                if let Some(lane) = self.lanes().first() {
                    self.hand_over(lane, AGES_AGO, &hand_over);
                }
            }
        }
    }

    /// Who listens to `channel` by the present connection, and an instant before all that was
    /// published there and not read yet.
    fn listener(&self, channel: &[u8]) -> Option<(Arc<Link>, tokio::time::Instant)> {
        let listens = |link: &Arc<Link>| {
            // When the message itself was sent nobody knows; it may have lain in a buffer of a
            // stopped process for any time. It came behind the answer to the last command that was
            // answered, on the same connection: so the hand-over is younger than that. Read first,
            // since the connection may be given up meanwhile, and the next be answered.
            let since = link.last_answered();
            let own = link.channel()?;
            (own.as_bytes() == channel).then(|| (Arc::clone(link), since))
        };
        let lane = self.lanes().iter().find_map(listens);
        lane.or_else(|| {
            lock(&self.direct_links)
                .iter()
                .find_map(|(_, link)| listens(link))
        })
    }

    /// Takes in what was published after `since`; gives it back by `link` if nobody wants it.
    fn hand_over(&self, link: &Link, since: Instant, hand_over: &HandOver) {
        let HandOver {
            owner,
            key,
            grant,
            want,
        } = hand_over;
        // If it is in vain, nobody will use it, or release it.
        if self.wakeups.is_in_vain(key, owner, *grant, since) {
            let call = scripts::give_back(key, owner, want.as_deref());
            // If the link has ended, the grace ends the lease.
            let _ = link.send(vec![call], IfCallerGone::Send);
        }
    }

    fn lanes(&self) -> &[Arc<Link>] {
        self.lanes.get().map_or(&[], |lanes| &**lanes)
    }
}
