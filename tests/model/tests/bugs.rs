//! Every mistake that can be put into the protocol breaks the promise it is about, and nothing that does not follow from it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lock_model::{Bug, Expected};
use stateright::{Checker, Expectation, Model};

/// The properties that do not hold with `bug` in the protocol.
fn broken_by(bug: Bug) -> BTreeSet<Expected> {
    let checker = bug.shown_by().checker().spawn_bfs().join();
    let found = checker.discoveries();
    let fails = |expected: &Expected| {
        let property = checker.model().property(expected.name());
        found.contains_key(expected.name()) == (property.expectation != Expectation::Sometimes)
    };
    Expected::ALL.into_iter().filter(fails).collect()
}

#[test]
fn every_mistake_names_a_test_of_the_product_that_is_there() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let folders = ["tests/src", "tests/tests", "lock-conformance/src"];
    let texts = folders.map(|folder| sources(&root.join(folder)));
    let text = texts.concat();
    for bug in Bug::ALL {
        let test = bug.guarded_by();
        // Those of the conformance suite take a type.
        let is_there = ["(", "<"].map(|end| text.contains(&format!("async fn {test}{end}")));
        assert!(is_there.contains(&true), "{test}");
    }
}

#[test]
fn every_mistake_is_in_the_table_of_those_that_were_put_into_the_code() {
    let table = include_str!("../README.md");
    for bug in Bug::ALL {
        assert!(table.contains(&format!("| `{bug:?}` |")), "{bug:?}");
    }
}

/// The text of all files in `folder` and the folders in it.
fn sources(folder: &Path) -> String {
    let files = fs::read_dir(folder).expect("a folder of tests");
    let paths = files.map(|file| file.expect("it can be listed").path());
    let texts = paths.map(|path| match path.is_dir() {
        true => sources(&path),
        false => fs::read_to_string(path).unwrap_or_default(),
    });
    texts.collect()
}

macro_rules! each_is_caught {
    ($($test:ident: $bug:ident,)*) => {
        $(
            #[test]
            fn $test() {
                assert_eq!(broken_by(Bug::$bug), BTreeSet::from_iter(Bug::$bug.breaks().iter().copied()));
            }
        )*

        #[test]
        fn no_mistake_is_left_out() {
            assert_eq!([$(Bug::$bug),*], Bug::ALL);
        }
    };
}

each_is_caught! {
    a_hand_over_without_a_lease_is_caught: HandOffWithoutLease,
    a_resource_that_ignores_the_token_is_caught: ResourceIgnoresToken,
    a_release_that_does_not_compare_is_caught: ReleaseWithoutCompare,
    a_renewal_that_does_not_compare_is_caught: RenewWithoutCompare,
    a_release_that_forgets_the_queue_is_caught: ReleaseForgetsQueue,
    a_waiter_that_never_asks_is_caught: WaiterNeverAsks,
    a_waiter_that_asks_only_whether_it_is_the_owner_is_caught: WaiterAsksOnlyForOwner,
    a_free_lock_that_anyone_takes_is_caught: FreeForAnyone,
    tokens_without_time_are_caught: TokensWithoutTime,
    blocks_that_outrun_the_time_are_caught: BlocksOutrunTime,
    passing_beyond_the_block_is_caught: PassesBeyondBlock,
    a_hand_over_with_the_old_token_is_caught: HandOffKeepsToken,
    a_repeated_acquire_that_queues_again_is_caught: RepeatQueuesAgain,
    an_acquire_that_does_not_know_its_own_claim_is_caught: OwnerNotRecognised,
    an_abandon_that_only_leaves_the_queue_is_caught: AbandonOnlyLeavesQueue,
    an_abandon_that_forgets_the_queue_is_caught: AbandonForgetsQueue,
    asking_for_a_withdrawn_claim_is_caught: AsksForWithdrawnClaim,
    forgetting_withdrawals_is_caught: ForgetsWithdrawals,
    a_late_question_that_shortens_is_caught: LateQuestionShortens,
    a_lease_counted_from_the_arrival_of_its_message_is_caught: LeaseCountedFromArrival,
    a_grace_taken_for_the_whole_ttl_is_caught: GraceTakenForTtl,
    passing_a_spent_lease_on_is_caught: PassesSpentLease,
    passing_on_without_end_is_caught: PassesWithoutEnd,
}
