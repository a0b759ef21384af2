#![doc = include_str!("../README.md")]

pub mod inbox;
mod process;
pub mod promises;
pub mod saboteurs;
mod store;

pub use crate::process::poll_once;
pub use crate::store::{Remaining, Store};

/// Calls the macro `$callback` with `$context` and the names of all promises.
#[macro_export]
macro_rules! for_each_promise {
    ($callback:path, $context:tt) => {
        $callback! {
            $context
            a_key_has_one_owner
            different_keys_do_not_exclude_each_other
            of_claims_that_race_one_is_granted
            contending_claims_are_all_served_one_at_a_time
            a_lease_ends_with_its_ttl
            a_refusal_tells_what_is_left_of_the_lease
            a_foreign_owner_is_told_from_our_own
            a_lease_that_a_foreign_owner_took_is_lost
            fences_grow_with_every_grant
            fences_grow_over_an_expiry
            fences_grow_over_a_hand_over
            fences_grow_over_a_whole_block
            a_renewal_reserves_fences
            fences_survive_json
            a_repeated_acquire_is_granted_again
            a_repeated_acquire_gives_the_full_ttl
            a_repeated_acquire_never_queues_twice
            a_waiter_that_asks_keeps_its_place
            a_waiter_that_asks_in_time_is_not_forgotten
            a_claim_that_the_store_forgot_is_queued_again
            a_repeated_release_does_nothing
            a_release_by_another_does_nothing
            an_abandoned_waiter_is_skipped
            an_abandoned_grant_is_free
            an_abandoned_grant_is_handed_on
            an_abandoned_hand_over_is_handed_on
            an_abandon_may_come_twice_or_first
            an_abandon_touches_no_other_claim
            an_abandon_undoes_an_acquire_that_was_dropped
            an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire
            an_abandon_in_doubt_leaves_nothing_to_a_late_acquire
            a_dark_store_is_an_error_and_never_a_refusal
            a_closed_backend_answers_with_errors
            waiters_are_served_in_the_order_of_their_first_asking
            a_hand_over_wakes_the_head_of_the_queue
            a_hand_over_leaves_no_gap
            a_handed_over_lease_lives_for_the_grace
            a_renewal_turns_the_grace_into_the_full_ttl
            a_poll_turns_the_grace_into_the_full_ttl
            a_waiter_that_is_gone_costs_the_grace
            nobody_barges_in_after_an_expiry
            an_owner_that_expired_stands_behind_the_waiters
            after_an_expiry_any_waiter_that_asks_serves_the_head
            a_release_grants_the_next_claim_if_nobody_waits
            a_release_queues_the_next_claim_behind_those_who_wait
            a_release_of_nothing_ignores_the_next_claim
            all_keys_are_taken_together_or_none
            a_kept_key_is_nobodys_and_is_served_afterwards
            what_comes_late_finds_a_kept_key_as_it_is
            those_who_share_a_key_hold_it_together
            kinds_of_claims_exclude_each_other
            those_who_share_do_not_pass_one_who_waits
            all_who_share_are_served_together
            all_who_share_come_in_though_each_asks_only_when_told
            the_last_who_shares_hands_over
            each_of_several_leases_ends_by_itself
            those_who_share_have_one_fence
            no_more_permits_are_held_than_there_are
            a_permit_that_ran_out_stays_lost
            nobody_passes_a_claim_for_more_permits
            a_permit_is_given_back_once
            a_kept_permit_is_nobodys
            a_shard_has_one_holder
            a_repeated_claim_has_the_same_shard
            an_abandoned_lease_of_several_is_free
            nobody_passes_one_who_waits_for_all
            one_who_waits_for_all_comes_after_a_kept_lease
            a_key_is_free_when_its_last_lease_has_ended
            a_lease_of_several_that_nobody_expects_is_given_back
            a_renewal_extends_all_permits_of_a_claim
            a_late_renewal_brings_no_lease_back
            a_hand_over_is_told_to_a_sink_attached_before
            a_sink_attached_late_hears_of_earlier_claims
            a_sink_hears_of_every_hand_over
            several_sinks_each_hear_of_their_own_claims
            a_claim_that_nobody_expects_is_given_back
            a_wake_up_tells_the_lease_as_it_is
            verbs_take_effect_in_the_order_of_their_first_polls
            a_verb_behind_a_larger_number_takes_no_effect
            numbers_order_the_verbs_of_one_key_and_one_process
            a_dropped_verb_breaks_nothing
            a_late_acquire_shortens_no_lease
            a_renewal_extends_the_lease
            a_renewal_never_creates_a_lease
            a_renewal_by_another_does_nothing
            a_batch_of_renewals_is_answered_in_order
            nothing_is_left_behind
        }
    };
}

/// Makes a test of each promise, with the given attributes, on a store of its own.
///
/// ```ignore
/// lock_conformance::conformance! { #[tokio::test] MyStore::start().await }
/// ```
#[macro_export]
macro_rules! conformance {
    ($($attributes_and_store:tt)+) => {
        $crate::for_each_promise! { $crate::mount_promises, { $($attributes_and_store)+ } }
    };
}

/// Makes a test of each promise that shows that the suite would find a breach on this store: each
/// [saboteur](saboteurs) of the promise, in front of the store, fails there.
///
/// The tests have the names of the promises, so they want a module of their own.
///
/// ```ignore
/// mod controls {
///     lock_conformance::controls! { #[tokio::test] super::MyStore::start().await }
/// }
/// ```
#[macro_export]
macro_rules! controls {
    ($($attributes_and_store:tt)+) => {
        $crate::for_each_promise! { $crate::mount_controls, { $($attributes_and_store)+ } }
    };
}

/// The second half of [`conformance!`](macro@crate::conformance).
#[doc(hidden)]
#[macro_export]
macro_rules! mount_promises {
    (@one { $(#[$attribute:meta])+ $store:expr } $promise:ident) => {
        $(#[$attribute])+
        async fn $promise() {
            $crate::promises::$promise(&$store).await;
        }
    };
    ($context:tt $($promise:ident)+) => {
        $( $crate::mount_promises! { @one $context $promise } )+
    };
}

/// The second half of [`controls!`](macro@crate::controls).
#[doc(hidden)]
#[macro_export]
macro_rules! mount_controls {
    (@one { $(#[$attribute:meta])+ $store:expr } $promise:ident) => {
        $(#[$attribute])+
        async fn $promise() {
            use $crate::saboteurs::{Sabotage, Sabotaged, is_kept, of_promise};
            let mut found = 0;
            for sabotage in [Sabotage::Sound].iter().chain(of_promise(stringify!($promise))) {
                let store = Sabotaged::new($store, *sabotage);
                if !store.is_in_earnest(stringify!($promise)).await {
                    continue;
                }
                let promise = async move { $crate::promises::$promise(&store).await };
                let is_kept = is_kept(promise).await;
                if *sabotage == Sabotage::Sound {
                    assert!(is_kept, "the store breaks it by itself");
                } else {
                    assert!(!is_kept, "{sabotage} was not found");
                    found += 1;
                }
            }
            assert!(found > 0, "no saboteur breaks this promise on this store");
        }
    };
    ($context:tt $($promise:ident)+) => {
        $( $crate::mount_controls! { @one $context $promise } )+
    };
}
