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
    /// A process asks again for a claim of which a withdrawal is on its way.
    AsksForWithdrawnClaim,
    /// The server does not remember a withdrawal or a release for a question that comes after it.
    ForgetsWithdrawals,
    /// A late question sets the ttl that it asks for, though the lease has more.
    LateQuestionShortens,
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
    pub const ALL: [Bug; 23] = [
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
        Bug::AsksForWithdrawnClaim,
        Bug::ForgetsWithdrawals,
        Bug::LateQuestionShortens,
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
            Bug::RepeatQueuesAgain | Bug::OwnerNotRecognised => &[ClaimStandsOnce],
            Bug::AbandonOnlyLeavesQueue | Bug::ForgetsWithdrawals => &[WithdrawnIsGone],
            Bug::AsksForWithdrawnClaim
            | Bug::LateQuestionShortens
            | Bug::LeaseCountedFromArrival
            | Bug::GraceTakenForTtl
            | Bug::PassesSpentLease => &[ValidLeaseIsTheStores],
            Bug::PassesWithoutEnd => &[PassesAreBounded],
        }
    }

    /// The test of the product that fails when the same mistake is put into its code, as the table in the README says it was.
    pub fn guarded_by(self) -> &'static str {
        match self {
            Bug::HandOffWithoutLease => "a_waiter_that_is_gone_costs_the_grace",
            Bug::ResourceIgnoresToken => "a_stale_write_is_refused",
            Bug::ReleaseWithoutCompare => "a_release_by_another_does_nothing",
            Bug::RenewWithoutCompare => "a_renewal_never_creates_a_lease",
            Bug::ReleaseForgetsQueue => "a_hand_over_wakes_the_head_of_the_queue",
            Bug::WaiterNeverAsks => "a_waiter_takes_over_when_the_lease_of_a_vanished_holder_ends",
            Bug::WaiterAsksOnlyForOwner => "w12_a_queue_that_is_evicted_or_flushed_is_joined_again",
            Bug::FreeForAnyone => "nobody_barges_in_after_an_expiry",
            Bug::TokensWithoutTime | Bug::BlocksOutrunTime => {
                "a_token_is_the_time_or_one_more_than_the_last"
            }
            Bug::PassesBeyondBlock => "a_lease_is_passed_on_with_reserved_tokens_only",
            Bug::HandOffKeepsToken => "fences_grow_over_a_hand_over",
            Bug::RepeatQueuesAgain => "a_repeated_acquire_never_queues_twice",
            Bug::OwnerNotRecognised => "a_repeated_acquire_is_granted_again",
            Bug::AbandonOnlyLeavesQueue => "an_abandoned_grant_is_free",
            Bug::AbandonForgetsQueue => "an_abandoned_grant_is_handed_on",
            Bug::AsksForWithdrawnClaim => {
                "w02_a_withdrawal_that_is_late_frees_no_lock_that_was_granted_meanwhile"
            }
            Bug::ForgetsWithdrawals => "w02_a_claim_that_its_withdrawal_overtook_gets_no_lock",
            Bug::LateQuestionShortens => "w03_a_question_that_comes_late_shortens_no_lease",
            Bug::LeaseCountedFromArrival => {
                "w09_a_stopped_waiter_does_not_believe_in_a_grace_that_has_passed"
            }
            Bug::GraceTakenForTtl => "a_handed_over_lease_is_relied_on_for_its_grace_only",
            Bug::PassesSpentLease => "a_spent_lease_is_not_passed_on",
            Bug::PassesWithoutEnd => "others_get_their_turn_when_the_share_of_a_process_is_used_up",
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
