//! Promises about holders that die, stop, block, panic or are too late: rows H1 to H14 of the fault catalogue.
//!
//! Of H12 a fork; the suspension of a machine cannot be had in a test.

// A guard that is forgotten is one of the faults.
#![allow(clippy::mem_forget)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_runtime::backend::{Backend, Claim, LockKey, OwnerToken, Release, Renewal, Renewed};
use lock_runtime::{LockError, LostReason};
use lock_tests::alone;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::proxy::Fault;
use lock_tests::faults::resource::Resource;
use lock_tests::faults::{
    DEADLINE, SLACK, eventually, free, locks, ms, nothing_left, owner, queued, remaining, start,
    start_patient,
};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");
const FORKER: &str = env!("CARGO_BIN_EXE_forker");

#[tokio::test]
async fn h01_a_killed_holder_costs_what_was_left_of_its_lease() {
    let _alone = alone().await;
    let server = Server::start();
    let locks = locks(server.url()).await;
    for _ in 0..3 {
        let mut holder = Process::start(HOLDER, &server.url()).await;
        let first = token(&holder.ask("acquire k 3000 30000").await);
        let waiter = tokio::spawn(locks.lock("k").acquire());
        queued(&server, "k", 1).await;
        holder.kill();
        let killed = Instant::now();
        let left = remaining(&server, "k").expect("it did not hold the lock");
        let guard = waiter.await.unwrap().unwrap();
        assert!(
            killed.elapsed() <= left + SLACK,
            "{:?} of {left:?}",
            killed.elapsed()
        );
        assert!(guard.fencing_token().as_u64() > first);
        guard.release().await.unwrap();
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn h02_a_holder_that_was_stopped_for_too_long_is_told_fenced_and_harmless() {
    let (server, store) = (Server::start(), Server::start());
    let directory = tempfile::tempdir().unwrap();
    for resource in [
        Resource::in_redis(&store),
        Resource::in_sqlite(directory.path()),
    ] {
        let mut stopped = Process::start(HOLDER, &server.url()).await;
        let mut other = Process::start(HOLDER, &server.url()).await;
        let write = format!("write {}", resource.place());
        let first = token(&stopped.ask("acquire k 3000 30000").await);
        assert_eq!(stopped.ask(&write).await, "accepted");
        stopped.pause().await;
        let second = token(&other.ask("acquire k 60000 30000").await);
        assert!(second > first);
        assert_eq!(other.ask(&write).await, "accepted");
        let owner_of_other = owner(&server, "k");

        stopped.resume();
        assert_eq!(stopped.ask("state").await, "lost");
        assert_eq!(stopped.ask(&write).await, "refused");
        assert_eq!(stopped.ask("release").await, "error lost");
        assert_eq!(
            owner(&server, "k"),
            owner_of_other,
            "it released the lock of another"
        );
        assert_eq!(other.ask("state").await, "held");
        assert_eq!(resource.stale_writes().await, 0);
        assert_eq!(other.ask("release").await, "released");
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn h02_without_a_fence_the_write_of_a_stopped_holder_does_harm() {
    let (server, store) = (Server::start(), Server::start());
    let resource = Resource::in_redis(&store);
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    let mut other = Process::start(HOLDER, &server.url()).await;
    let write = format!("write-unguarded {}", resource.place());
    token(&stopped.ask("acquire k 3000 30000").await);
    stopped.pause().await;
    token(&other.ask("acquire k 60000 30000").await);
    other.ask(&write).await;
    stopped.resume();
    stopped.ask(&write).await;
    assert_eq!(resource.stale_writes().await, 1);
}

#[tokio::test]
async fn h02_a_body_that_was_stopped_for_too_long_does_not_end_well() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    token(&stopped.ask("run k 3000 3000").await);
    let begun = Instant::now();
    stopped.pause().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    // Its body has nothing more to wait for when it goes on.
    sleep_until(begun + ms(3000)).await;
    stopped.resume();
    assert_eq!(stopped.hear().await, "error lost");
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn h03_a_holder_that_was_stopped_for_less_than_its_lease_keeps_it() {
    let server = Server::start();
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    token(&stopped.ask("acquire k 20000 30000").await);
    stopped.pause().await;
    sleep(ms(2500)).await;
    assert!(
        remaining(&server, "k").unwrap() < ms(17_600),
        "it was renewed while it was stopped"
    );
    stopped.resume();
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() > ms(18_500)
    })
    .await;
    assert_eq!(stopped.ask("state").await, "held");
    assert_eq!(stopped.ask("release").await, "released");
    nothing_left(&server).await;
}

#[tokio::test]
async fn h04_a_grant_that_arrives_after_its_lease_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.fault_all("acquire", Fault::DelayAnswer(ms(300)));
    let started = Instant::now();
    let outcome = locks.lock("k").ttl(ms(200)).wait(ms(1000)).acquire().await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(proxy.faults() > 0 && started.elapsed() < ms(1000) + SLACK);
    proxy.heal();
    free(&server, "k").await;

    // Late, but not too late: what is told is what is left.
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::DelayAnswer(ms(300)));
    let guard = locks
        .lock("k")
        .ttl(ms(20_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 1));
    assert!(guard.remaining() <= ms(19_700));
    assert!(remaining(&server, "k").unwrap() >= guard.remaining());
    guard.release().await.unwrap();
}

#[test]
fn h05_a_body_that_blocks_its_thread_does_not_lose_its_lease() {
    let server = Server::start();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let locks = locks(server.url()).await;
        let ran = locks.lock("k").ttl(ms(2000)).run(async |lock| {
            std::thread::sleep(ms(4000));
            assert!(lock.is_held());
            assert!(owner(&server, "k").is_some(), "the server gave it away");
        });
        ran.await.unwrap();
        nothing_left(&server).await;
    });
}

#[test]
fn h05_a_body_that_blocks_beyond_a_lease_that_is_not_renewed_does_not_end_well() {
    let server = Server::start();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let locks = locks(server.url()).await;
        let ran = locks.lock("k").ttl(ms(1000)).renew(false).run(async |_| {
            std::thread::sleep(ms(1500));
            assert_eq!(owner(&server, "k"), None, "the lease did not end");
        });
        assert!(ran.await.unwrap_err().is_lost());
    });
}

#[tokio::test]
async fn h06_a_body_that_panics_releases_its_lock() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let mut process = Process::start(HOLDER, &server.url()).await;
    let waiter = {
        process.tell("panic k 60000").await;
        token(&process.hear().await);
        assert_eq!(process.hear().await, "panicked");
        locks.lock("k").acquire()
    };
    let guard = timeout(DEADLINE, waiter)
        .await
        .expect("it was not released")
        .unwrap();
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn h06_a_process_that_aborts_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.tell("abort").await).await;
}

#[tokio::test]
async fn h07_a_body_that_is_dropped_releases_its_lock_when_it_is_gone() {
    struct Witness(Arc<AtomicBool>, Arc<Server>);
    impl Drop for Witness {
        fn drop(&mut self) {
            // The body ends before its lock does.
            self.0
                .store(owner(&self.1, "k").is_some(), Ordering::SeqCst);
        }
    }
    let server = Arc::new(Server::start());
    let locks = locks(server.url()).await;
    let held_at_the_end = Arc::new(AtomicBool::new(false));
    let witness = Witness(held_at_the_end.clone(), server.clone());
    let (began, begun) = tokio::sync::oneshot::channel();
    let body = tokio::spawn(async move {
        let ran = locks.lock("k").ttl(ms(60_000)).run(async move |_| {
            let _witness = witness;
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        ran.await
    });
    begun.await.unwrap();
    body.abort();
    assert!(body.await.unwrap_err().is_cancelled());
    let dropped = Instant::now();
    free(&server, "k").await;
    assert!(dropped.elapsed() < ms(100) + SLACK);
    assert!(
        held_at_the_end.load(Ordering::SeqCst),
        "the lock ended before the body"
    );
}

/// A holder that ends without a word costs what is left of its lease, and its lock is not free before.
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

#[tokio::test]
async fn h08_a_process_that_exits_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.tell("exit").await).await;
}

#[tokio::test]
async fn h08_a_process_that_is_terminated_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.terminate()).await;
}

#[test]
fn h08_the_end_of_a_tokio_runtime_drops_the_body_and_releases_its_lock() {
    let server = Server::start();
    let keeping = tokio::runtime::Runtime::new().unwrap();
    let locks = keeping.block_on(locks(server.url()));
    let ending = tokio::runtime::Runtime::new().unwrap();
    let (began, begun) = std::sync::mpsc::channel();
    let lock = locks.lock("k").ttl(ms(60_000));
    ending.spawn(async move {
        let ran = lock.run(async move |_| {
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        ran.await
    });
    begun.recv().unwrap();
    assert!(owner(&server, "k").is_some());
    drop(ending);
    keeping.block_on(free(&server, "k"));
    keeping.block_on(async {
        locks
            .lock("k")
            .acquire()
            .await
            .unwrap()
            .release()
            .await
            .unwrap()
    });
}

#[tokio::test]
async fn h08_a_shutdown_frees_no_lock_while_its_body_runs() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(2500)).acquire().await.unwrap();
    let shutdown = tokio::spawn({
        let locks = locks.clone();
        async move { locks.shutdown().await }
    });
    sleep(ms(4000)).await;
    assert!(
        guard.is_held() && owner(&server, "k").is_some(),
        "it was not renewed any more"
    );
    assert!(!shutdown.is_finished());
    assert!(locks.lock("k2").acquire().await.unwrap_err().is_shut_down());
    guard.release().await.unwrap();
    shutdown.await.unwrap().unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn h09_a_leaked_guard_is_renewed_until_its_max_hold() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let leaked = Instant::now();
    let guard = locks
        .lock("k")
        .ttl(ms(2000))
        .max_hold(ms(5000))
        .acquire()
        .await
        .unwrap();
    std::mem::forget(guard);
    let next = locks.lock("k").acquire().await.unwrap();
    assert!(leaked.elapsed() >= ms(4500), "it was not renewed");
    assert!(
        leaked.elapsed() < ms(7000) + SLACK,
        "{:?}",
        leaked.elapsed()
    );
    next.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn h10_a_release_that_fails_is_told_and_nothing_renews_the_lock_after_it() {
    let (server, proxy, locks) = start().await;
    let guard = locks.lock("k").ttl(ms(8000)).acquire().await.unwrap();
    proxy.fault_all("release", Fault::Reply("-ERR not today"));
    let error = guard.release().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(proxy.faults() > 0);
    let log = proxy.log();
    let released = log
        .iter()
        .position(|command| command.name == "release")
        .unwrap();
    free(&server, "k").await;
    let renewed = proxy.log()[released..]
        .iter()
        .any(|command| command.name == "renew");
    assert!(!renewed, "it was renewed after its release");
}

#[tokio::test]
async fn h10_a_release_that_fails_does_not_replace_the_result_of_the_body() {
    let (_server, proxy, locks) = start().await;
    proxy.fault_all("release", Fault::Reply("-ERR not today"));
    let ran = locks.lock("k").ttl(ms(8000)).run(async |_| 7).await;
    assert!(proxy.faults() > 0);
    assert_eq!(ran.unwrap(), 7);
}

#[tokio::test]
async fn h11_a_renewal_that_arrives_after_the_next_grant_does_nothing() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let claim = |name| Claim::new(key.clone(), OwnerToken::unique(name), ms(20_000));
    let (first, second) = (claim("first"), claim("second"));
    backend.acquire(&first).await.unwrap();
    let ending = Release::new(key.clone(), first.owner.clone());
    backend.release(&ending).await.unwrap();
    backend.acquire(&second).await.unwrap();
    let late = Renewal::new(key.clone(), first.owner, ms(60_000));
    let answer = backend.renew(&[late]).await.remove(0).unwrap();
    assert_eq!(answer, Renewed::Lost(LostReason::TakenOver));
    assert_eq!(owner(&server, "k").as_deref(), Some(second.owner.as_str()));
    assert!(remaining(&server, "k").unwrap() <= ms(20_000));
}

#[tokio::test]
async fn h12_a_forked_child_neither_owns_nor_releases_the_locks_of_its_parent() {
    let server = Server::start();
    let mut process = Process::start(FORKER, &server.url()).await;
    let owners = || ["dropped", "kept"].map(|key| owner(&server, key));
    let before = owners();
    assert!(before.iter().all(Option::is_some), "{before:?}");

    let child = process.hear().await;
    for answer in ["runs out", "taken", "taken", "refused"] {
        assert_eq!(process.hear().await, answer);
    }
    assert_eq!(owners(), before);
    let parent = process.ask("go on").await;
    for answer in ["held", "released", "held", "released"] {
        assert_eq!(process.hear().await, answer);
    }

    // The copy would have made the same token but for the process id.
    let (child, parent) = (parts(&child, "child "), parts(&parent, "parent "));
    assert_eq!((&child[..2], &child[3..]), (&parent[..2], &parent[3..]));
    assert_ne!(child[2], parent[2]);
    nothing_left(&server).await;
}

/// The parts of the owner token in `answer`: a text, what is random, the process id and the count.
fn parts<'a>(answer: &'a str, who: &str) -> Vec<&'a str> {
    let token = answer.strip_prefix(who).expect(answer);
    let parts: Vec<_> = token.split("-").collect();
    assert_eq!(parts.len(), 4, "{token}");
    parts
}

#[tokio::test]
async fn h13_renewals_that_fail_are_repeated_before_the_lease_ends() {
    for failures in 1..=4 {
        let (server, proxy, locks) = start().await;
        let guard = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
        proxy.fault_times("renew", failures, Fault::Reply("-BUSY Redis is busy"));
        eventually("they fail", || proxy.faults() == failures).await;
        let before = remaining(&server, "k").unwrap();
        eventually("it is renewed", || {
            remaining(&server, "k").unwrap() > before
        })
        .await;
        assert_eq!(proxy.faults(), failures);
        assert!(guard.is_held(), "{failures} failures");
        guard.release().await.unwrap();
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn h13_a_lease_whose_renewals_all_fail_is_lost_before_the_server_ends_it() {
    struct Ended<'a>(&'a Server, &'a AtomicBool);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.1.store(owner(self.0, "k").is_some(), Ordering::SeqCst);
        }
    }
    let (server, proxy, locks) = start().await;
    proxy.fault_all("renew", Fault::Reply("-BUSY Redis is busy"));
    let mut tries = 0;
    // A machine that stands still in the few milliseconds between the two ends shows nothing.
    for _ in 0..10 {
        let was_owner = AtomicBool::new(false);
        let faults = proxy.faults();
        let started = Instant::now();
        let ran = locks.lock("k").ttl(ms(1500)).run(async |lock| {
            let _ended = Ended(&server, &was_owner);
            loop {
                let is_owner = owner(&server, "k").is_some();
                assert!(
                    is_owner || !lock.is_held(),
                    "another could have had it while it was held"
                );
                sleep(ms(2)).await;
            }
        });
        let ran: Result<(), LockError> = ran.await;
        assert!(ran.unwrap_err().is_lost());
        assert!(started.elapsed() < ms(1500) + SLACK);
        tries = proxy.faults() - faults;
        if was_owner.into_inner() && tries >= 3 {
            return;
        }
        free(&server, "k").await;
    }
    panic!("another could have had it while the body ran, or too little was tried: {tries} times");
}

#[tokio::test]
async fn h14_a_ttl_that_no_lease_can_have_is_refused_before_anything_is_sent() {
    let (server, proxy, locks) = start().await;
    let sent = proxy.log().len();
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(1),
        ms(1),
        ms(9),
        Duration::from_secs(24 * 60 * 60 + 1),
        ms(u64::MAX),
        Duration::MAX,
    ] {
        let error = locks.lock("k").ttl(ttl).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{ttl:?}: {error}");
        assert!(error.to_string().contains("ttl"), "{error}");
    }
    assert_eq!(proxy.log().len(), sent);
    assert!(owner(&server, "k").is_none());
}

#[tokio::test]
async fn h14_a_renewal_for_no_time_does_not_make_a_lock_eternal_nor_delete_another() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    for ttl in [Duration::ZERO, Duration::MAX] {
        let claim = Claim::new(key.clone(), OwnerToken::unique("k"), ms(60_000));
        backend.acquire(&claim).await.unwrap();
        let renewal = Renewal::new(key.clone(), claim.owner.clone(), ttl);
        let _ = backend.renew(&[renewal]).await;
        let millis: i64 = server.run(&["PTTL", "lock:k"]);
        assert_ne!(millis, -1, "{ttl:?}: it never ends");
        server.run::<()>(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn h14_a_ttl_shorter_than_the_round_trip_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.lag(ms(40));
    let outcome = locks.lock("k").ttl(ms(50)).wait(ms(600)).acquire().await;
    assert!(outcome.is_err(), "{outcome:?}");
    eventually("it asked", || proxy.seen("acquire") > 0).await;
    proxy.heal();
    free(&server, "k").await;
}
