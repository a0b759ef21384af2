//! Leases that are taken on one tokio runtime and watched while another runs: nobody's lease
//! depends on a runtime that is idle or has ended.
//!
//! On Redis, whose backend has a thread of its own, it is so; those tests are the control.

use std::future::pending;
use std::thread;
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::{DEADLINE, SLACK, eventually};
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// Longer than a busy machine stands still.
const TTL: Duration = ms(3000);

/// A runtime like that of `#[tokio::test]`.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn acquired(locks: &LockRuntime, key: &str) -> LockGuard {
    locks.lock(key).ttl(TTL).acquire().await.unwrap()
}

/// A guard that was taken on a runtime which is idle from then on.
fn taken_on_an_idle_runtime(locks: &LockRuntime, key: &str, renew: bool) -> (Runtime, LockGuard) {
    let idle = runtime();
    let lock = locks.lock(key).ttl(TTL).renew(renew);
    let guard = idle.block_on(lock.acquire()).unwrap();
    (idle, guard)
}

/// One guard is on a runtime that is idle, and another on one that runs.
fn beside_an_idle_runtime(locks: LockRuntime) {
    let idle = taken_on_an_idle_runtime(&locks, "idle", true);
    runtime().block_on(async {
        let guard = acquired(&locks, "busy").await;
        sleep(2 * TTL).await;
        assert!(guard.is_held(), "it was not renewed");
        guard.release().await.unwrap();
    });
    drop(idle);
}

/// One guard is left over from a runtime that has ended, and another is on one that runs.
fn beside_an_ended_runtime(locks: LockRuntime) {
    let (ended, left) = taken_on_an_idle_runtime(&locks, "ended", true);
    runtime().block_on(async {
        let guard = acquired(&locks, "busy").await;
        thread::spawn(move || drop(ended)).join().unwrap();
        sleep(2 * TTL).await;
        assert!(guard.is_held(), "it was not renewed");
        guard.release().await.unwrap();
    });
    drop(left);
}

/// Several tests share a runtime, each with a tokio runtime of its own, and end one after the
/// other.
fn among_tests_that_share_it(locks: LockRuntime) {
    let tests = (0..5).map(|number| {
        let locks = locks.clone();
        let (began, begins) = std::sync::mpsc::channel();
        let test = thread::spawn(move || {
            runtime().block_on(async {
                let guard = acquired(&locks, &format!("test {number}")).await;
                began.send(()).unwrap();
                sleep(TTL / 2 + number * TTL).await;
                let is_held = guard.is_held();
                drop(guard.release().await);
                is_held
            })
        });
        // In this order: the first to begin is the first to end.
        begins.recv().unwrap();
        test
    });
    let tests: Vec<_> = tests.collect();
    let held: Vec<bool> = tests.into_iter().map(|test| test.join().unwrap()).collect();
    assert_eq!(held, [true; 5]);
}

/// A lease has ended, and the runtime where it was taken is idle.
fn after_a_lease_that_ended_on_an_idle_runtime(locks: LockRuntime) {
    let (_idle, guard) = taken_on_an_idle_runtime(&locks, "k", false);
    runtime().block_on(async {
        eventually("the lease ends", || !guard.is_held()).await;
        // The store counts a little longer than the holder does.
        sleep(TTL / 2).await;
        let tried = locks.lock("k").try_acquire().await.unwrap();
        let tried = tried.expect("nobody holds it, and it is taken");
        tried.release().await.unwrap();
        let again = locks.lock("k").wait(DEADLINE).acquire().await.unwrap();
        again.release().await.unwrap();
    });
}

/// Somebody waits behind a lease that is not renewed, and whose tokio runtime is idle as it ends.
fn behind_a_lease_of_an_idle_runtime(locks: LockRuntime) {
    let _idle = taken_on_an_idle_runtime(&locks, "k", false);
    runtime().block_on(async {
        let next = locks.lock("k").wait(DEADLINE).acquire();
        let next = timeout(TTL + SLACK, next).await.expect("the lease is over");
        next.unwrap().release().await.unwrap();
    });
}

/// A guard is dropped with the task that has it, as the tokio runtime of that ends, while the store
/// does not answer at once.
#[test]
fn a_guard_that_ends_with_its_runtime_is_released_in_a_store_that_is_slow() {
    for fault in [Fault::Unavailable, Fault::Slow(ms(20)), Fault::Hang(ms(20))] {
        let (home, store) = (runtime(), MemoryBackend::new());
        let locks = home.block_on(LockRuntime::backend(store.clone()).build());
        let (locks, ending) = (locks.unwrap(), runtime());
        let lock = locks.lock("k").ttl(2 * DEADLINE);
        let guard = ending.block_on(lock.acquire()).unwrap();
        ending.spawn(async move {
            pending::<()>().await;
            drop(guard);
        });
        ending.block_on(async { sleep(ms(1)).await });
        store.fail_next(1, fault);
        drop(ending);
        home.block_on(eventually("it is released", || store.is_idle()));
    }
}

async fn in_memory() -> LockRuntime {
    LockRuntime::backend(MemoryBackend::new())
        .build()
        .await
        .unwrap()
}

macro_rules! on_each_store {
    ($($promise:ident: $in_memory:ident, $on_redis:ident;)+) => {
        $(
            #[test]
            fn $in_memory() {
                $promise(runtime().block_on(in_memory()));
            }

            #[test]
            fn $on_redis() {
                let server = Server::start();
                let locks = LockRuntime::redis(server.url()).build();
                $promise(runtime().block_on(locks).unwrap());
            }
        )+
    };
}

on_each_store! {
    beside_an_idle_runtime:
        a_guard_on_an_idle_runtime_costs_no_other_its_lease_in_memory,
        a_guard_on_an_idle_runtime_costs_no_other_its_lease_on_redis;
    beside_an_ended_runtime:
        a_guard_of_an_ended_runtime_costs_no_other_its_lease_in_memory,
        a_guard_of_an_ended_runtime_costs_no_other_its_lease_on_redis;
    among_tests_that_share_it:
        tests_that_share_a_runtime_keep_their_leases_in_memory,
        tests_that_share_a_runtime_keep_their_leases_on_redis;
    after_a_lease_that_ended_on_an_idle_runtime:
        a_lease_that_ended_on_an_idle_runtime_blocks_nobody_in_memory,
        a_lease_that_ended_on_an_idle_runtime_blocks_nobody_on_redis;
    behind_a_lease_of_an_idle_runtime:
        a_waiter_hears_of_the_end_of_a_lease_of_an_idle_runtime_in_memory,
        a_waiter_hears_of_the_end_of_a_lease_of_an_idle_runtime_on_redis;
}
