//! What the server sends without being asked: hand-overs, on the connections that carry the
//! commands.

use std::sync::{Arc, OnceLock};

use deadpool_redis::redis::{PushInfo, PushKind, Value};

use super::link::Link;
use super::message::Unheard;
use super::node::ShortWays;
use super::scripts::{self, HandOver};
use super::wakeups::Wakeups;
use crate::clock::to_seam;
use crate::sync::lock;

/// Sorts what comes to the claims that wait for it.
///
/// Its methods are called by the tasks that drive the connections and must not block.
pub(super) struct Pushes {
    wakeups: Arc<Wakeups>,
    /// Filled once; connections, and so pushes, come only later.
    lanes: OnceLock<Arc<[Arc<Link>]>>,
    short_ways: ShortWays,
}

impl Pushes {
    pub(super) fn new(wakeups: Arc<Wakeups>, short_ways: ShortWays) -> Pushes {
        Pushes {
            wakeups,
            lanes: OnceLock::new(),
            short_ways,
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
                self.lanes().iter().for_each(|lane| lane.suspect());
                for (_, link) in &*lock(&self.short_ways) {
                    link.suspect();
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
        let lane = self
            .lanes()
            .iter()
            .find(|lane| lane.channel().map(str::as_bytes) == Some(channel));
        let Some(lane) = lane else { return };
        if let Some(hand_over) = scripts::hand_over(message) {
            self.hand_over(lane, &hand_over);
        } else if let Some((owner, remaining)) = scripts::announcement(message) {
            self.wakeups.look_after(owner, remaining);
        }
    }

    fn hand_over(&self, lane: &Link, hand_over: &HandOver) {
        // The message came behind the answer to that command, on the same connection: the hand-over
        // is younger than it. When the message itself was sent nobody knows; it may have lain in a
        // buffer of a stopped process for any time.
        let since = to_seam(lane.last_answered());
        let HandOver {
            owner,
            key,
            grant,
            want,
        } = hand_over;
        // If it is in vain, nobody will use it, or release it.
        if self.wakeups.is_in_vain(key, owner, *grant, since) {
            let call = scripts::give_back(key, owner, want.as_deref());
            // If the lane has ended, the grace ends the lease.
            let _ = lane.send(vec![call], Unheard::Run);
        }
    }

    fn lanes(&self) -> &[Arc<Link>] {
        self.lanes.get().map_or(&[], |lanes| &**lanes)
    }
}
