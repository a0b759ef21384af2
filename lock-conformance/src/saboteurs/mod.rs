//! Stores that break a promise: the control of the suite.
//!
//! A [saboteur](Sabotaged) stands in front of a store that keeps its promises and breaks one clause
//! of the contract, as a mistake in a backend would. The suite has to find it: a suite that passes
//! on everything says nothing of a store on which it passes. [`controls!`](macro@crate::controls)
//! makes a test of that for each promise; to see a failure itself, mount
//! [`conformance!`](macro@crate::conformance) on a sabotaged store.

mod backend;
mod modes;
mod queueing;
mod sabotaged;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lock_protocol::{AskNumber, Claim, GraceBy, Limits, LockKey, Order, OwnerToken, Renewal};
use tokio::time::Instant;

pub use self::backend::Saboteur;
pub use self::sabotaged::Sabotaged;
use crate::store::Store;

/// Makes the enum, and the list of all it has.
macro_rules! sabotages {
    ($($(#[$doc:meta])+ $sabotage:ident,)+) => {
        /// One way to break the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Sabotage {
            $($(#[$doc])+ $sabotage,)+
        }

        impl Sabotage {
            /// Every sabotage, [`Sound`](Sabotage::Sound) included.
            pub const ALL: &[Sabotage] = &[$(Sabotage::$sabotage),+];
        }
    };
}

sabotages! {
    /// None: the wrapper itself breaks nothing.
    Sound,
    /// Grants a lock that is held.
    GrantsTwice,
    /// Takes all keys for one.
    OneLockForAll,
    /// Grants leases that end within a moment.
    GrantsForAMoment,
    /// Keeps leases as long as it can.
    LeasesNeverEnd,
    /// Tells that nothing is left of a lease.
    HidesRemaining,
    /// Takes foreign owners for ours.
    HidesForeigners,
    /// Takes every owner for a foreign one.
    InventsForeigners,
    /// Gives the same fencing token with each grant.
    SameFenceAlways,
    /// Counts fencing tokens from one after an expiry.
    FenceRestartsAfterExpiry,
    /// Gives more fencing tokens with a grant than it reserved.
    BlockNotReserved,
    /// Gives more fencing tokens with a renewal than it reserved.
    RenewedBlockNotReserved,
    /// Gives fencing tokens that JSON does not hold.
    HugeFence,
    /// Refuses an owner that asks again.
    RefusesRepeats,
    /// Grants an owner that asks again, and leaves the lease as it is.
    RepeatsWithoutExtending,
    /// Queues a waiter that asks again once more.
    QueuesTwice,
    /// Puts a waiter that asks again to the end of the queue.
    AskingCostsThePlace,
    /// Forgets waiters that asked a fifth of a heartbeat ago.
    ForgetsWaiters,
    /// Does not queue again what it has forgotten.
    QueuesOnceInALife,
    /// Answers those who ask again that they wait, whatever happens.
    StarvesWaiters,
    /// Releases whatever lease there is.
    AnyoneReleases,
    /// Forgets those who wait at a release.
    ReleaseForgetsQueue,
    /// Withdraws nothing.
    AbandonDoesNothing,
    /// Withdraws leases alone.
    AbandonLeavesWaiters,
    /// Withdraws a lease, and hands the lock to nobody.
    AbandonWithoutHandOver,
    /// Refuses to withdraw what it does not know.
    AbandonOfUnknownFails,
    /// Ends whatever lease there is at a withdrawal.
    AbandonEndsAnyLease,
    /// Asks for a claim later, also when its caller is gone.
    AcquireOutlivesItsFuture,
    /// Does not remember what was withdrawn before it came.
    ForgetsWithdrawals,
    /// Takes no notice of what a claim says of its doubts.
    ForgetsDoubts,
    /// Ends a lease early when its owner asks again with a shorter ttl.
    LateAcquireShortens,
    /// Takes an error for a refusal.
    ErrorsAreRefusals,
    /// Goes on after it was closed.
    NeverCloses,
    /// Serves whoever came last.
    LatestFirst,
    /// Serves whoever asks first after an expiry.
    Barging,
    /// Hands a lock over for its whole ttl.
    GraceIsTtl,
    /// Takes what is free of several keys.
    AllTakesSome,
    /// Hands a key over that is to be kept.
    KeepHandsOver,
    /// Keeps a key by leaving it to its owner.
    KeepLeavesOwner,
    /// Grants every claim alone, and says that it knows modes.
    IgnoresModes,
    /// Takes claims for permits and shards for claims to share.
    MixesKinds,
    /// Tells of the first sixteen hand-overs only.
    TellsSixteen,
    /// Lets a claim for fewer permits pass one for more.
    LightPassesHeavy,
    /// Renews all leases of a key when one is renewed.
    RenewsOthers,
    /// Frees somebody's permit when whoever has none gives one back.
    FreesOthersPermits,
    /// Gives a shard to a claim that does not want that one.
    IgnoresExcept,
    /// Lets those who go together pass whoever waits.
    SharesPassWaiters,
    /// Ends all leases when the first of those who share goes.
    FirstShareEndsAll,
    /// Gives each of those who share a fencing token of its own.
    EachShareHasItsFence,
    /// Grants one permit more than there are.
    OnePermitMore,
    /// Tells everybody that it has the first shard.
    SameShardAlways,
    /// Renews permits for a moment.
    PermitRenewalIsShort,
    /// Keeps what it handed to nobody, where leases go together.
    GivesNoShareBack,
    /// Does not ask for the claim that comes with a release.
    NextIsForgotten,
    /// Answers that the claim that comes with a release waits, and does not queue it.
    NextIsNotQueued,
    /// Asks for the claim that comes with a release also when there is nothing to release.
    NextIsAlwaysTaken,
    /// Tells no news.
    NoNews,
    /// Tells news to those only who attach after a release.
    AttachesLate,
    /// Tells no news to a sink that attaches after the first question.
    TellsNoLateSink,
    /// Tells of one hand-over only.
    TellsOnce,
    /// Tells news to the first sink alone.
    TellsTheFirstSink,
    /// Keeps what it handed to nobody.
    GivesNothingBack,
    /// Counts a lease that was handed over from later than that.
    NewsPromiseTooMuch,
    /// Tells those who wait of a hand-over that has not been.
    TellsWhatIsNot,
    /// Lets later verbs go first.
    LaterVerbsOvertake,
    /// Does not look at the numbers of verbs.
    OverlooksNumbers,
    /// Compares the numbers of different keys.
    NumbersAllKeysAlike,
    /// Answers nothing any more after a verb was dropped.
    DroppedVerbsPoison,
    /// Renews a lease for a moment.
    RenewalIsShort,
    /// Takes what is lost for held.
    RenewalIsAlwaysHeld,
    /// Takes a free lock for whoever renews it.
    RenewalCreates,
    /// Renews whatever lease there is.
    AnyoneRenews,
    /// Answers a batch of renewals backwards.
    BatchIsReversed,
}

impl Sabotage {
    /// Whether this breaks a promise of a store with these limits.
    pub fn is_in_earnest(self, limits: &Limits) -> bool {
        let is_fifo = limits.order == Order::Fifo;
        match self {
            Sabotage::LatestFirst
            | Sabotage::Barging
            | Sabotage::AskingCostsThePlace
            | Sabotage::ForgetsWaiters => is_fifo,
            Sabotage::NextIsNotQueued => is_fifo && limits.hand_over,
            Sabotage::QueuesTwice
            | Sabotage::ReleaseForgetsQueue
            | Sabotage::AbandonLeavesWaiters
            | Sabotage::GraceIsTtl
            | Sabotage::GivesNothingBack
            | Sabotage::NewsPromiseTooMuch => limits.hand_over,
            // Elsewhere the lock is the next waiter's as soon as the claim in front has gone,
            // however that went, and its process hears of it.
            Sabotage::AbandonWithoutHandOver | Sabotage::TellsOnce => {
                limits.hand_over && limits.grace == GraceBy::Store
            }
            Sabotage::KeepHandsOver | Sabotage::KeepLeavesOwner => limits.keep,
            Sabotage::IgnoresModes
            | Sabotage::MixesKinds
            | Sabotage::TellsSixteen
            | Sabotage::LightPassesHeavy
            | Sabotage::RenewsOthers
            | Sabotage::FreesOthersPermits
            | Sabotage::IgnoresExcept
            | Sabotage::SharesPassWaiters
            | Sabotage::FirstShareEndsAll
            | Sabotage::EachShareHasItsFence
            | Sabotage::OnePermitMore
            | Sabotage::SameShardAlways
            | Sabotage::PermitRenewalIsShort
            | Sabotage::GivesNoShareBack => limits.modes,
            Sabotage::HidesForeigners => limits.foreign_holders,
            _ => true,
        }
    }

    /// The promises that this breaks.
    pub fn promises(self) -> impl Iterator<Item = &'static str> {
        BREACHES
            .iter()
            .filter(move |(_, saboteurs)| saboteurs.contains(&self))
            .map(|(promise, _)| *promise)
    }
}

/// As in the source.
impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// There is no sabotage of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSabotage(String);

impl fmt::Display for UnknownSabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no sabotage is called {:?}", self.0)
    }
}

impl std::error::Error for UnknownSabotage {}

impl FromStr for Sabotage {
    type Err = UnknownSabotage;

    fn from_str(name: &str) -> Result<Sabotage, UnknownSabotage> {
        let mut all = Sabotage::ALL.iter();
        let found = all.find(|sabotage| sabotage.to_string() == name);
        found
            .copied()
            .ok_or_else(|| UnknownSabotage(name.to_owned()))
    }
}

/// What breaks `promise`; nothing if there is no such promise.
pub fn of_promise(promise: &str) -> &'static [Sabotage] {
    let breach = BREACHES.iter().find(|(name, _)| *name == promise);
    breach.map_or(&[], |(_, saboteurs)| saboteurs)
}

/// What breaks each promise.
const BREACHES: &[(&str, &[Sabotage])] = {
    use Sabotage::*;
    &[
        ("a_key_has_one_owner", &[GrantsTwice]),
        ("different_keys_do_not_exclude_each_other", &[OneLockForAll]),
        ("of_claims_that_race_one_is_granted", &[GrantsTwice]),
        (
            "contending_claims_are_all_served_one_at_a_time",
            &[GrantsTwice],
        ),
        ("a_lease_ends_with_its_ttl", &[LeasesNeverEnd]),
        (
            "a_refusal_tells_what_is_left_of_the_lease",
            &[HidesRemaining],
        ),
        (
            "a_foreign_owner_is_told_from_our_own",
            &[HidesForeigners, InventsForeigners],
        ),
        (
            "a_lease_that_a_foreign_owner_took_is_lost",
            &[RenewalIsAlwaysHeld],
        ),
        ("fences_grow_with_every_grant", &[SameFenceAlways]),
        ("fences_grow_over_an_expiry", &[FenceRestartsAfterExpiry]),
        ("fences_grow_over_a_hand_over", &[SameFenceAlways]),
        ("fences_grow_over_a_whole_block", &[BlockNotReserved]),
        ("a_renewal_reserves_fences", &[RenewedBlockNotReserved]),
        ("fences_survive_json", &[HugeFence]),
        ("a_repeated_acquire_is_granted_again", &[RefusesRepeats]),
        (
            "a_repeated_acquire_gives_the_full_ttl",
            &[RepeatsWithoutExtending],
        ),
        (
            "a_repeated_acquire_never_queues_twice",
            &[QueuesTwice, StarvesWaiters],
        ),
        (
            "a_waiter_that_asks_keeps_its_place",
            &[AskingCostsThePlace, GrantsTwice],
        ),
        (
            "a_waiter_that_asks_in_time_is_not_forgotten",
            &[ForgetsWaiters, GrantsTwice],
        ),
        (
            "a_claim_that_the_store_forgot_is_queued_again",
            &[QueuesOnceInALife],
        ),
        ("a_repeated_release_does_nothing", &[AnyoneReleases]),
        ("a_release_by_another_does_nothing", &[AnyoneReleases]),
        (
            "an_abandoned_waiter_is_skipped",
            &[AbandonLeavesWaiters, StarvesWaiters],
        ),
        ("an_abandoned_grant_is_free", &[AbandonDoesNothing]),
        (
            "an_abandoned_grant_is_handed_on",
            &[AbandonWithoutHandOver, NoNews],
        ),
        (
            "an_abandoned_hand_over_is_handed_on",
            &[AbandonWithoutHandOver, NoNews],
        ),
        (
            "an_abandon_may_come_twice_or_first",
            &[AbandonOfUnknownFails],
        ),
        ("an_abandon_touches_no_other_claim", &[AbandonEndsAnyLease]),
        (
            "an_abandon_undoes_an_acquire_that_was_dropped",
            &[AcquireOutlivesItsFuture],
        ),
        (
            "an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire",
            &[ForgetsWithdrawals],
        ),
        (
            "an_abandon_in_doubt_leaves_nothing_to_a_late_acquire",
            &[ForgetsDoubts],
        ),
        (
            "all_keys_are_taken_together_or_none",
            &[AllTakesSome, GrantsTwice],
        ),
        (
            "a_kept_key_is_nobodys_and_is_served_afterwards",
            &[KeepHandsOver, KeepLeavesOwner, GrantsTwice],
        ),
        (
            "what_comes_late_finds_a_kept_key_as_it_is",
            &[KeepLeavesOwner, KeepHandsOver, GrantsTwice],
        ),
        (
            "those_who_share_a_key_hold_it_together",
            &[IgnoresModes, GrantsTwice],
        ),
        (
            "kinds_of_claims_exclude_each_other",
            &[MixesKinds, GrantsTwice],
        ),
        (
            "those_who_share_do_not_pass_one_who_waits",
            &[SharesPassWaiters, GrantsTwice],
        ),
        (
            "all_who_share_are_served_together",
            &[IgnoresModes, SharesPassWaiters, GrantsTwice],
        ),
        (
            "all_who_share_come_in_though_each_asks_only_when_told",
            &[TellsSixteen, GrantsTwice],
        ),
        (
            "the_last_who_shares_hands_over",
            &[FirstShareEndsAll, GrantsTwice],
        ),
        (
            "each_of_several_leases_ends_by_itself",
            &[RenewsOthers, RenewalIsAlwaysHeld, GrantsTwice],
        ),
        (
            "those_who_share_have_one_fence",
            &[EachShareHasItsFence, GrantsTwice],
        ),
        (
            "no_more_permits_are_held_than_there_are",
            &[OnePermitMore, IgnoresModes, GrantsTwice],
        ),
        (
            "a_permit_that_ran_out_stays_lost",
            &[RenewalIsAlwaysHeld, OnePermitMore, GrantsTwice],
        ),
        (
            "nobody_passes_a_claim_for_more_permits",
            &[LightPassesHeavy, OnePermitMore, GrantsTwice],
        ),
        (
            "a_permit_is_given_back_once",
            &[FreesOthersPermits, OnePermitMore, GrantsTwice],
        ),
        ("a_kept_permit_is_nobodys", &[KeepHandsOver, GrantsTwice]),
        (
            "a_shard_has_one_holder",
            &[SameShardAlways, IgnoresExcept, MixesKinds, GrantsTwice],
        ),
        (
            "a_repeated_claim_has_the_same_shard",
            &[SameShardAlways, GrantsTwice],
        ),
        (
            "an_abandoned_lease_of_several_is_free",
            &[AbandonDoesNothing, GrantsTwice],
        ),
        (
            "nobody_passes_one_who_waits_for_all",
            &[SharesPassWaiters, GrantsTwice],
        ),
        (
            "one_who_waits_for_all_comes_after_a_kept_lease",
            &[KeepHandsOver, GrantsTwice],
        ),
        (
            "a_key_is_free_when_its_last_lease_has_ended",
            &[FirstShareEndsAll, GrantsTwice],
        ),
        (
            "a_lease_of_several_that_nobody_expects_is_given_back",
            &[GivesNoShareBack, GrantsTwice],
        ),
        (
            "a_renewal_extends_all_permits_of_a_claim",
            &[PermitRenewalIsShort, OnePermitMore, GrantsTwice],
        ),
        (
            "a_late_renewal_brings_no_lease_back",
            &[RenewalIsAlwaysHeld, GrantsTwice],
        ),
        ("a_late_acquire_shortens_no_lease", &[LateAcquireShortens]),
        (
            "a_dark_store_is_an_error_and_never_a_refusal",
            &[ErrorsAreRefusals],
        ),
        ("a_closed_backend_answers_with_errors", &[NeverCloses]),
        (
            "waiters_are_served_in_the_order_of_their_first_asking",
            &[LatestFirst, GrantsTwice],
        ),
        ("a_hand_over_wakes_the_head_of_the_queue", &[NoNews]),
        (
            "a_hand_over_leaves_no_gap",
            &[ReleaseForgetsQueue, GrantsTwice],
        ),
        (
            "a_handed_over_lease_lives_for_the_grace",
            &[GraceIsTtl, GrantsForAMoment],
        ),
        (
            "a_renewal_turns_the_grace_into_the_full_ttl",
            &[RenewalIsShort],
        ),
        (
            "a_poll_turns_the_grace_into_the_full_ttl",
            &[RepeatsWithoutExtending, GrantsForAMoment],
        ),
        (
            "a_waiter_that_is_gone_costs_the_grace",
            &[GraceIsTtl, StarvesWaiters],
        ),
        ("nobody_barges_in_after_an_expiry", &[Barging, GrantsTwice]),
        (
            "an_owner_that_expired_stands_behind_the_waiters",
            &[Barging, GrantsTwice],
        ),
        (
            "after_an_expiry_any_waiter_that_asks_serves_the_head",
            &[Barging, GrantsTwice],
        ),
        (
            "a_release_grants_the_next_claim_if_nobody_waits",
            &[NextIsForgotten],
        ),
        (
            "a_release_queues_the_next_claim_behind_those_who_wait",
            &[NextIsNotQueued, GrantsTwice],
        ),
        (
            "a_release_of_nothing_ignores_the_next_claim",
            &[NextIsAlwaysTaken],
        ),
        (
            "a_hand_over_is_told_to_a_sink_attached_before",
            &[AttachesLate],
        ),
        (
            "a_sink_attached_late_hears_of_earlier_claims",
            &[TellsNoLateSink],
        ),
        ("a_sink_hears_of_every_hand_over", &[TellsOnce, NoNews]),
        (
            "several_sinks_each_hear_of_their_own_claims",
            &[TellsTheFirstSink],
        ),
        (
            "a_claim_that_nobody_expects_is_given_back",
            &[GivesNothingBack, NoNews],
        ),
        (
            "a_wake_up_tells_the_lease_as_it_is",
            &[NewsPromiseTooMuch, TellsWhatIsNot],
        ),
        (
            "verbs_take_effect_in_the_order_of_their_first_polls",
            &[LaterVerbsOvertake],
        ),
        (
            "a_verb_behind_a_larger_number_takes_no_effect",
            &[OverlooksNumbers],
        ),
        (
            "numbers_order_the_verbs_of_one_key_and_one_process",
            &[NumbersAllKeysAlike],
        ),
        ("a_dropped_verb_breaks_nothing", &[DroppedVerbsPoison]),
        ("a_renewal_extends_the_lease", &[RenewalIsShort]),
        ("a_renewal_never_creates_a_lease", &[RenewalCreates]),
        ("a_renewal_by_another_does_nothing", &[AnyoneRenews]),
        (
            "a_batch_of_renewals_is_answered_in_order",
            &[BatchIsReversed],
        ),
        ("nothing_is_left_behind", &[AbandonDoesNothing]),
    ]
};

/// Whether a promise is kept, for [`controls!`](macro@crate::controls).
#[doc(hidden)]
pub async fn is_kept(promise: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(promise).await.is_ok()
}

/// The claims that were told to wait, in that order, each with the process that asked: a store may
/// look for a claim only where that process does.
type Waiters<S> = Arc<Mutex<Vec<(Claim, Weak<<S as Store>::Backend>)>>>;

/// What all saboteurs of a store need to remember.
#[derive(Default)]
struct Memo {
    /// Whom the locks were granted to, as far as answers and news have said.
    owners: HashMap<LockKey, OwnerToken>,
    /// The leases that went together when they were granted, as they are renewed.
    company: HashMap<LockKey, Vec<Renewal>>,
    /// When each claim was last asked for.
    heard: HashMap<OwnerToken, Instant>,
    /// The largest number of a question.
    number: AskNumber,
    /// Grants since the last expiry.
    grants: u64,
    acquires: u32,
    is_poisoned: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
