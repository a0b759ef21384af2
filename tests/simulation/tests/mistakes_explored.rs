//! Mistakes that are put into the shipped machine and store, one at a time: each breaks its promise
//! in a state that two processes can reach through two faults at most. The others take more time or
//! faults, and `mistakes.rs` finds them. `scripts/mistakes` runs both.

#![cfg(lock_mistakes)]

use lock_protocol::Mode;
use lock_protocol::mistakes::Mistake;
use lock_simulation::explore::Bound;
use lock_simulation::{Promise, Wish};
use stateright::{Checker, HasDiscoveries, Model};

/// The promises that the mistake was found to break, in the smallest bound that shows it.
fn broken_by(mistake: Mistake, callers: &[usize], faults: u8) -> Vec<Promise> {
    broken_in(mistake, Bound::new(callers, faults))
}

fn broken_in(mistake: Mistake, mut bound: Bound) -> Vec<Promise> {
    bound.mistake = Some(mistake);
    let promises = Promise::ALL.iter().map(|promise| promise.text());
    let checker = bound
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(promises.collect()))
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let is_broken = |promise: &&Promise| found.contains_key(promise.text());
    Promise::ALL.iter().filter(is_broken).copied().collect()
}

macro_rules! each_is_caught {
    ($($test:ident: $mistake:ident, $callers:expr, $faults:literal, $promise:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let broken = broken_by(Mistake::$mistake, &$callers, $faults);
                assert!(broken.contains(&Promise::$promise), "{broken:?}");
            }
        )*
    };
}

each_is_caught! {
    a_hand_over_without_a_lease_is_caught: HandOverWithoutLease, [2, 1], 0, OwnerHasLease;
    a_release_that_does_not_compare_is_caught: ReleaseWithoutCompare, [2, 1], 1, NoEviction;
    a_renewal_that_does_not_compare_is_caught: RenewWithoutCompare, [2, 1], 1, NoEviction;
    a_release_that_forgets_the_queue_is_caught: ReleaseForgetsQueue, [2, 1], 0, PromptHandOver;
    an_abandon_that_forgets_the_queue_is_caught: AbandonForgetsQueue, [2, 1], 1, PromptHandOver;
    a_free_lock_that_anyone_takes_is_caught: FreeForAnyone, [2, 1], 1, NobodyOvertaken;
    tokens_without_time_are_caught: TokensWithoutTime, [2, 1], 1, TokensGrow;
    a_hand_over_with_the_old_token_is_caught: HandOverKeepsToken, [2, 1], 0, TokensGrow;
    a_repeated_acquire_that_queues_again_is_caught: RepeatQueuesAgain, [2, 1], 1, ClaimStandsOnce;
    an_acquire_that_does_not_know_its_own_claim_is_caught:
        OwnerNotRecognised, [2, 1], 1, ClaimStandsOnce;
    an_abandon_that_only_leaves_the_queue_is_caught:
        AbandonOnlyLeavesQueue, [2, 1], 1, WithdrawnIsGone;
    forgetting_withdrawals_is_caught: ForgetsWithdrawals, [2, 1], 1, WithdrawnIsGone;
    a_waiter_that_asks_only_whether_it_is_the_owner_is_caught:
        WaiterAsksOnlyForOwner, [2, 1], 1, InQueue;
    asking_for_a_withdrawn_claim_is_caught: AsksForWithdrawnClaim, [2, 1], 1, WithdrawnIsGone;
    a_lease_counted_from_the_arrival_of_its_message_is_caught:
        LeaseCountedFromArrival, [2, 1], 1, ValidLeaseIsTheStores;
    a_grace_taken_for_the_whole_ttl_is_caught: GraceTakenForTtl, [2, 1], 1, ValidLeaseIsTheStores;
    a_resource_that_ignores_the_token_is_caught: ResourceIgnoresToken, [1, 1], 2, NoStaleWrite;
}

const fn wish(mode: Mode) -> Wish {
    Wish { mode, keeps: false }
}

const WRITER: Wish = wish(Mode::Exclusive);
const READER: Wish = wish(Mode::Shared);
const PERMIT: Wish = wish(Mode::Permits { take: 1, of: 1 });
const SHARD: Wish = wish(Mode::Shard {
    of: 2,
    prefer: 0,
    except: 0,
});

macro_rules! each_is_caught_together {
    ($($test:ident: $mistake:ident, $wishes:expr, $faults:literal, $promise:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let wishes: &[&[Wish]] = &$wishes;
                let callers = wishes.iter().map(|wishes| wishes.to_vec()).collect();
                let broken = broken_in(Mistake::$mistake, Bound::of(callers, $faults));
                assert!(broken.contains(&Promise::$promise), "{broken:?}");
            }
        )*
    };
}

each_is_caught_together! {
    a_reader_that_passes_a_writer_is_caught:
        ReaderPassesWriter, [&[READER], &[WRITER], &[READER]], 0, NobodyOvertaken;
    a_batch_of_one_is_caught: BatchOfOne, [&[WRITER, READER], &[READER]], 0, PromptHandOver;
    a_last_reader_that_forgets_the_queue_is_caught:
        LastReaderForgetsQueue, [&[READER], &[WRITER]], 0, PromptHandOver;
    a_token_of_readers_that_was_given_before_is_caught:
        PhaseTokenReused, [&[WRITER], &[READER]], 0, TokensGrow;
    a_permit_too_many_is_caught: OnePermitMore, [&[PERMIT], &[PERMIT]], 0, MutualExclusion;
    a_shard_that_two_have_is_caught: ShardTwice, [&[SHARD], &[SHARD]], 0, MutualExclusion;
    a_first_reader_that_ends_all_is_caught:
        FirstReaderEndsAll, [&[READER, READER], &[WRITER]], 0, NoEviction;
}
