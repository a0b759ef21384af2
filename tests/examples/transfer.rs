//! Processes that move money, as a user runs them.

use lock_tests::server::Server;

use crate::example;

/// What is in the accounts before and after.
fn sums(more: &[&str]) -> (i64, i64) {
    let server = Server::start();
    let mut transfer = example::command("transfer", Some(&server));
    transfer.args(more);
    let line = example::output(transfer);
    let numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    let numbers: Vec<i64> = numbers.collect();
    server.finish();
    let [_, _, _, before, after] = numbers[..] else {
        panic!("no sums: {line}");
    };
    (before, after)
}

#[test]
fn no_money_is_lost_or_made_by_processes_that_take_both_accounts() {
    let (before, after) = sums(&["--transfers", "4000"]);
    assert_eq!(before, after);
}

#[test]
fn without_the_locks_money_is_lost_or_made() {
    let (before, after) = sums(&["--transfers", "20000", "--accounts", "3", "--without-lock"]);
    assert_ne!(before, after);
}
