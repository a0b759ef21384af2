//! Promises about holders that die, stop, block, panic or are too late: rows H1 to H14 of the fault
//! catalogue.
//!
//! Of H12 a fork; the suspension of a machine cannot be had in a test.

mod h01_killed;
mod h02_stopped_beyond_the_lease;
mod h03_stopped_within_the_lease;
mod h04_late_grant;
mod h05_blocked_thread;
mod h06_panic_and_abort;
mod h07_dropped_body;
mod h08_exit_and_shutdown;
mod h09_leaked_guard;
mod h10_failed_release;
mod h11_late_renewal;
mod h12_fork;
mod h13_failed_renewals;
mod h14_odd_ttls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_runtime::backend::{Backend, Claim, LockKey, OwnerToken, Release, Renewal, Renewed};
use lock_runtime::{LockError, LostReason};
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::proxy::Fault;
use lock_tests::faults::resource::Resource;
use lock_tests::faults::{
    DEADLINE, SLACK, eventually, free, locks, nothing_left, owner, queued, remaining, start,
    start_patient,
};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use lock_tests::{alone, ms};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");

/// A holder that ends without a word costs what is left of its lease, and its lock is not free
/// before.
async fn ended_by(end: impl AsyncFnOnce(&mut Process)) {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let mut process = Process::start(HOLDER, &server.url()).await;
    token(&process.ask("acquire k 3000 30000").await);
    end(&mut process).await;
    process.ended().await;
    let left = remaining(&server, "k").expect("it was released");
    let ended = Instant::now();
    let guard = locks.lock("k").acquire().await.unwrap();
    assert!(
        ended.elapsed() <= left + SLACK,
        "{:?} of {left:?}",
        ended.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
