//! Servers that keep to a limit together, as a user runs them.

use lock_tests::server::Server;

use crate::example;

/// How many calls were refused.
fn refused(more: &[&str]) -> u64 {
    let server = Server::start();
    let mut throttle = example::command("throttle", Some(&server));
    // Long enough that no slow machine makes a call late by a fifth of it.
    throttle
        .args(["--calls", "25", "--second", "4000"])
        .args(more);
    let line = example::output(throttle);
    let words = line.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    server.finish();
    assert_eq!(numbers[..2], [25, 4]);
    numbers[2]
}

#[test]
fn no_call_is_too_many_for_a_limit_that_all_servers_keep() {
    assert_eq!(refused(&[]), 0);
}

#[test]
fn without_the_limit_what_is_too_much_is_refused() {
    assert_eq!(refused(&["--without-limit"]), 15);
}
