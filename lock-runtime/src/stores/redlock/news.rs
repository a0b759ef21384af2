//! What the nodes tell of votes that were handed over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_protocol::{Card, Grant, Instant, LockKey, News, Note, OwnerToken};
use tokio::time::sleep;

use super::claims::VoteNews;
use super::shared::Shared;
use crate::clock;

/// For how long a vote that was handed over is kept for a claim that does not ask.
const UNCONFIRMED: Duration = Duration::from_secs(1);

/// What one node tells of the claims that it knows.
pub(super) struct NodeNews {
    node: usize,
    shared: Weak<Shared>,
}

impl NodeNews {
    pub(super) fn new(node: usize, shared: &Arc<Shared>) -> NodeNews {
        NodeNews {
            node,
            shared: Arc::downgrade(shared),
        }
    }
}

impl News for NodeNews {
    /// A vote is no lock: its claim asks when a majority has told, or others had time to tell.
    fn granted(&self, key: &LockKey, owner: &str, _: Grant, _: Instant) -> bool {
        let Some(shared) = self.shared.upgrade() else {
            return true;
        };
        let now = clock::now();
        match shared.claims.told(self.node, owner, now) {
            VoteNews::Unknown => false,
            VoteNews::More => true,
            VoteNews::Waiting { told, owner, round } => {
                if told == shared.quorum() {
                    shared.sinks.ask_at(key, &owner, now);
                } else if told == 1 {
                    let patience = (shared.round_trip() * 3).max(Duration::from_millis(5));
                    shared.sinks.ask_at(key, &owner, now + patience);
                    let weak = Weak::clone(&self.shared);
                    shared.handle.spawn(unless_asked(weak, owner, round));
                }
                true
            }
        }
    }

    fn ask_at(&self, _: &LockKey, owner: &OwnerToken, at: Instant) {
        if let Some(shared) = self.shared.upgrade()
            && let Some((key, owner)) = shared.claims.named(owner)
        {
            shared.sinks.ask_at(&key, &owner, at);
        }
    }

    fn ask_all(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.sinks.ask_all();
        }
    }

    /// On each server, so that it is found whichever of them is away.
    fn card(&self) -> Option<Card> {
        self.shared.upgrade()?.sinks.cards().into_iter().next()
    }

    fn noted(&self, note: &Note) {
        if let Some(shared) = self.shared.upgrade() {
            shared.sinks.note(note);
        }
    }
}

/// Gives back what was handed over to a claim that does not ask for it.
async fn unless_asked(shared: Weak<Shared>, owner: OwnerToken, round: u64) {
    sleep(UNCONFIRMED).await;
    if let Some(shared) = shared.upgrade() {
        let (stubs, _) = shared.claims.give_back(&owner, round, false, clock::now());
        shared.give_back(stubs).await;
    }
}
