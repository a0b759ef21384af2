//! Mistakes in the protocol.

use crate::Protocol;
use crate::properties::Expected;

/// A mistake that can be put into the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A hand-over sets the new owner without a ttl.
    HandOffWithoutLease,
    /// The resource does not look at the fencing token.
    ResourceIgnoresToken,
    /// A release does not compare the owner.
    ReleaseWithoutCompare,
    /// A renewal does not compare the owner, and creates the lease if there is none.
    RenewWithoutCompare,
    /// A release gives the lock back without a look at the queue.
    ReleaseForgetsQueue,
    /// A waiter waits for its message, and never asks.
    WaiterNeverAsks,
    /// A waiter asks "am I the owner?", and not whether it is still queued.
    WaiterAsksOnlyForOwner,
    /// Whoever finds the lock free takes it, though others wait.
    FreeForAnyone,
    /// The fencing counter is a counter and nothing else.
    TokensWithoutTime,
    /// Every grant reserves a full block, however far the counter runs ahead of the time.
    BlocksOutrunTime,
    /// A process passes the lease on with tokens that it has not reserved.
    PassesBeyondBlock,
    /// A hand-over does not make new fencing tokens.
    HandOffKeepsToken,
    /// A repeated acquire queues the claim again.
    RepeatQueuesAgain,
    /// An acquire does not recognise its own claim as the owner, and queues it.
    OwnerNotRecognised,
    /// An abandon only leaves the queue, although the claim may have been granted already.
    AbandonOnlyLeavesQueue,
    /// An abandon of the owner frees the lock without a look at the queue.
    AbandonForgetsQueue,
    /// A lease that was handed over is counted from the arrival of the message.
    LeaseCountedFromArrival,
    /// A lease that was handed over is believed for the whole ttl, though it has only the grace.
    GraceTakenForTtl,
    /// A process passes a lease on without a look at what is left of it.
    PassesSpentLease,
    /// A process passes the lease on as long as it has callers of its own.
    PassesWithoutEnd,
}

impl Bug {
    /// Every mistake.
    pub const ALL: [Bug; 20] = [
        Bug::HandOffWithoutLease,
        Bug::ResourceIgnoresToken,
        Bug::ReleaseWithoutCompare,
        Bug::RenewWithoutCompare,
        Bug::ReleaseForgetsQueue,
        Bug::WaiterNeverAsks,
        Bug::WaiterAsksOnlyForOwner,
        Bug::FreeForAnyone,
        Bug::TokensWithoutTime,
        Bug::BlocksOutrunTime,
        Bug::PassesBeyondBlock,
        Bug::HandOffKeepsToken,
        Bug::RepeatQueuesAgain,
        Bug::OwnerNotRecognised,
        Bug::AbandonOnlyLeavesQueue,
        Bug::AbandonForgetsQueue,
        Bug::LeaseCountedFromArrival,
        Bug::GraceTakenForTtl,
        Bug::PassesSpentLease,
        Bug::PassesWithoutEnd,
    ];

    /// What this mistake breaks in [the smallest protocol that shows it](Bug::shown_by): the property it is about, then what follows.
    pub fn breaks(self) -> &'static [Expected] {
        use Expected::*;
        match self {
            Bug::HandOffWithoutLease => &[OwnerHasLease, EveryoneEnds],
            Bug::ResourceIgnoresToken => &[NoStaleWrite],
            Bug::ReleaseWithoutCompare | Bug::RenewWithoutCompare => {
                &[NoEviction, ValidLeaseIsTheStores, ClaimStandsOnce]
            }
            Bug::ReleaseForgetsQueue | Bug::AbandonForgetsQueue => &[PromptHandOff],
            Bug::WaiterNeverAsks | Bug::WaiterAsksOnlyForOwner => &[EveryoneEnds],
            Bug::FreeForAnyone => &[NobodyOvertaken],
            Bug::TokensWithoutTime | Bug::HandOffKeepsToken => &[TokensGrow, NoStaleWrite],
            Bug::BlocksOutrunTime | Bug::PassesBeyondBlock => &[TokensGrow],
            Bug::RepeatQueuesAgain | Bug::OwnerNotRecognised => {
                &[ClaimStandsOnce, ValidLeaseIsTheStores]
            }
            Bug::AbandonOnlyLeavesQueue => &[WithdrawnIsGone],
            Bug::LeaseCountedFromArrival | Bug::GraceTakenForTtl | Bug::PassesSpentLease => {
                &[ValidLeaseIsTheStores]
            }
            Bug::PassesWithoutEnd => &[PassesAreBounded],
        }
    }

    /// The smallest protocol in which it shows.
    pub fn shown_by(self) -> Protocol {
        let mut protocol = Protocol::new(2, 1).with(self);
        if self == Bug::PassesWithoutEnd {
            protocol.callers[0] = 3;
        }
        protocol
    }
}
