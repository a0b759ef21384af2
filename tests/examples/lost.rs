//! A function whose lock is lost in the middle of its work.

use crate::example;

#[test]
fn a_function_whose_lock_is_lost_is_dropped_and_its_caller_is_told() {
    let printed = example::output(example::command("lost", None));
    let (before, after) = printed.split_once("-- another takes the lock --").unwrap();
    let count = |what: &str| printed.matches(what).count();
    assert!(before.contains("page 1 is printed"), "{printed}");
    // What it had in hand was dropped with it, and it printed no more to the end.
    assert_eq!(count("is put away"), count("is printed"), "{printed}");
    assert!(!printed.contains("page 5"), "{printed}");
    let error = "error: the lease of the lock `report:2026-11` was lost";
    assert!(after.contains(error), "{printed}");
}
