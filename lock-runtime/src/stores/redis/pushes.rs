//! What the server sends without being asked: hand-overs, on the connections that carry the commands.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_redis::redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::WeakUnboundedSender;

use super::direct::{self, Ways};
use super::lane::Lane;
use super::message::Message;
use super::pulse::Pulse;
use super::scripts::{self, HandOver};
use super::wakeups::Wakeups;
use crate::clock::to_seam;

/// Sorts what comes to the claims that wait for it.
///
/// Its methods are called by the tasks that drive the connections and must not block.
pub(super) struct Pushes {
    wakeups: Arc<Wakeups>,
    /// How long a lane may take to give back what nobody here waits for.
    timeout: Duration,
    /// Filled once; connections, and so pushes, come only later.
    lanes: OnceLock<Vec<Source>>,
    ways: Ways,
}

/// A lane as a source of pushes.
struct Source {
    channel: String,
    pulse: Arc<Pulse>,
    messages: WeakUnboundedSender<Message>,
}

impl Pushes {
    pub(super) fn new(wakeups: Arc<Wakeups>, ways: Ways, timeout: Duration) -> Pushes {
        Pushes {
            wakeups,
            timeout,
            lanes: OnceLock::new(),
            ways,
        }
    }

    /// Names the lanes whose connections push.
    pub(super) fn connect(&self, lanes: &[Lane]) {
        self.lanes
            .get_or_init(|| lanes.iter().map(Source::of).collect());
    }

    pub(super) fn receive(&self, push: &PushInfo) {
        match push.kind {
            // It does not say which connection it was.
            PushKind::Disconnection => {
                self.lanes().iter().for_each(|lane| lane.pulse.suspect());
                direct::suspect(&self.ways);
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
            .find(|lane| lane.channel.as_bytes() == channel);
        let Some(lane) = lane else { return };
        if let Some(hand_over) = scripts::hand_over(message) {
            self.hand_over(lane, &hand_over);
        } else if let Some((owner, remaining)) = scripts::announcement(message) {
            self.wakeups.look_after(owner, remaining);
        }
    }

    fn hand_over(&self, lane: &Source, hand_over: &HandOver) {
        // The message came behind the answer to that command, on the same connection: the hand-over is younger than it. When the
        // message itself was sent nobody knows; it may have lain in a buffer of a stopped process for any time.
        let since = to_seam(lane.pulse.last_answered());
        let HandOver { owner, key, grant } = hand_over;
        // If it is in vain, nobody will use it, or release it.
        if self.wakeups.is_in_vain(key, owner, *grant, since)
            && let Some(messages) = lane.messages.upgrade()
        {
            let command = scripts::give_back(key, owner);
            // If the lane has ended, the grace ends the lease.
            let _ = messages.send(Message::unheard(command, self.timeout));
        }
    }

    fn lanes(&self) -> &[Source] {
        self.lanes.get().map_or(&[], Vec::as_slice)
    }
}

impl Source {
    fn of(lane: &Lane) -> Source {
        Source {
            channel: lane.channel().to_owned(),
            pulse: Arc::clone(lane.pulse()),
            messages: lane.downgrade(),
        }
    }
}
