//! Promises to those who wait: rows W1 to W14 and W16 to W19 of the fault catalogue.

mod w01_lost_answers;
mod w02_late_withdrawals;
mod w03_late_and_repeated_questions;
mod w04_late_answers;
mod w06_killed_in_the_queue;
mod w07_killed_at_the_hand_over;
mod w08_lost_wake_ups;
mod w09_stopped_waiter;
mod w10_end_of_the_wait;
mod w11_many_waiters_and_keys;
mod w12_lost_queue;
mod w13_odd_waits;
mod w14_deadlock;
mod w16_dead_receiver;
mod w17_between_connections;
mod w18_end_of_a_lease;
mod w19_passing_on;

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_conformance::inbox::{Inbox, Told};
use lock_conformance::poll_once;
use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::proxy::{Fault, Proxy, Way};
use lock_tests::faults::{
    COMMAND, DEADLINE, GRACE, SLACK, builder, by_the_direct_link, can_be_had, channels, eventually,
    free, listeners, locks, nothing_left, owner, queued, remaining, start, start_patient,
    statistic, waiters,
};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use lock_tests::{alone, ms};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");

/// Lets the request arrive that was held, and waits until the server has read it.
async fn let_arrive(server: &Server, proxy: &Proxy) {
    proxy.let_go(1).await;
    // What the server is asked after it on other connections, one after the other.
    for _ in 0..5 {
        server.run::<()>(&["PING"]);
        sleep(ms(20)).await;
    }
}
