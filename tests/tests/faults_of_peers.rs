//! What went wrong in other libraries when they were measured, and must not here.
//!
//! Contention is 4 processes (a runtime each, with a connection of its own) of 16 tasks. `FAULT_SECONDS=40` makes it last longer.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_runtime::{LockError, LockRuntime};
use lock_tests::faults::proxy::Proxy;
use lock_tests::faults::{builder, eventually, free, locks, nothing_left, owner, queued, waiters};
use lock_tests::server::{Options, Server};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const PROCESSES: usize = 4;
const TASKS: usize = 16;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn contention() -> Duration {
    let seconds = std::env::var("FAULT_SECONDS").map_or(5, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

async fn processes(url: &str) -> Vec<LockRuntime> {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(
            builder(url)
                .command_timeout(ms(1000))
                .build()
                .await
                .unwrap(),
        );
    }
    processes
}

/// Lets every task take the lock again and again while `interfere` does its worst, and gives what each got. None may wait for longer than
/// `longest`; where connections are cut, leases may get lost.
async fn contend(
    processes: &[LockRuntime],
    longest: Duration,
    cancel: bool,
    may_lose: bool,
    interfere: impl AsyncFn(),
) -> Vec<u64> {
    let until = Instant::now() + contention();
    let inside = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for process in processes {
        for number in 0..TASKS {
            let (locks, inside) = (process.clone(), inside.clone());
            tasks.spawn(async move {
                let mut served = 0;
                while Instant::now() < until {
                    if cancel && number % 2 == 0 {
                        // Half of the waiters leave in the middle, at all kinds of instants.
                        let patience = Duration::from_micros(fastrand::u64(0..20_000));
                        let acquiring = locks.lock("k").ttl(ms(30_000)).wait(ms(60_000)).acquire();
                        if let Ok(guard) = timeout(patience, acquiring).await {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(guard.unwrap());
                        }
                        continue;
                    }
                    let lock = locks.lock("k").ttl(ms(30_000)).wait(ms(60_000));
                    let guard = timeout(longest, lock.acquire()).await;
                    let guard = guard.expect("a waiter is forgotten").unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    let released = guard.release().await;
                    // A release that finds no connection may come after the grace.
                    let lost = released.as_ref().is_err_and(LockError::is_lost);
                    assert!(released.is_ok() || (may_lose && lost), "{released:?}");
                    served += 1;
                }
                served
            });
        }
    }
    while Instant::now() < until {
        interfere().await;
        sleep(ms(50)).await;
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_no_waiter_is_forgotten_under_contention() {
    let server = Server::start();
    let processes = processes(&server.url()).await;
    let served = contend(&processes, ms(5000), false, false, async || ()).await;
    assert!(served.iter().all(|served| *served > 3), "{served:?}");
    nothing_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_cancelled_waiters_swallow_no_wake_up_meant_for_others() {
    let server = Server::start();
    let processes = processes(&server.url()).await;
    let served = contend(&processes, ms(5000), true, false, async || ()).await;
    let stayed = served.iter().filter(|served| **served > 3).count();
    assert_eq!(stayed, PROCESSES * TASKS / 2, "{served:?}");
    nothing_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_wake_up_connections_that_are_cut_all_the_time_cost_no_waiter_its_turn() {
    let server = Server::start();
    let processes = processes(&server.url()).await;
    let (cuts, round) = (AtomicU64::new(0), AtomicU64::new(0));
    let served = contend(&processes, ms(15_000), false, true, async || {
        if round.fetch_add(1, Ordering::SeqCst).is_multiple_of(8) {
            let cut: u64 = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            cuts.fetch_add(cut, Ordering::SeqCst);
        }
    })
    .await;
    assert!(cuts.into_inner() > 10, "nothing was cut");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    nothing_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_stalls_of_the_server_hang_nobody() {
    let server = Options::default()
        .with(["--enable-debug-command", "yes"])
        .start();
    let processes = processes(&server.url()).await;
    let stalls = AtomicU64::new(0);
    let served = contend(&processes, ms(10_000), false, false, async || {
        if stalls.fetch_add(1, Ordering::SeqCst).is_multiple_of(4) {
            server.run::<()>(&["DEBUG", "SLEEP", "0.06"]);
        }
    })
    .await;
    assert!(stalls.into_inner() > 10, "it did not stall");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");

    // Also not one that takes a free lock.
    for _ in 0..10 {
        let mut client = server.client();
        let stall = std::thread::spawn(move || {
            redis::cmd("DEBUG")
                .arg("SLEEP")
                .arg("0.06")
                .exec(&mut client)
        });
        let guard = timeout(ms(2000), processes[0].lock("free").acquire()).await;
        guard.expect("it hangs").unwrap().release().await.unwrap();
        stall.join().unwrap().unwrap();
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn p3_a_cancelled_head_of_the_queue_does_not_block_those_behind_it() {
    let server = Server::start();
    let (one, two, three) = (
        locks(server.url()).await,
        locks(server.url()).await,
        locks(server.url()).await,
    );
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let head = tokio::spawn(two.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 1).await;
    let next = tokio::spawn(three.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 2).await;
    head.abort();
    assert!(head.await.unwrap_err().is_cancelled());
    queued(&server, "k", 1).await;

    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(released.elapsed() < ms(300), "{:?}", released.elapsed());
    guard.release().await.unwrap();
    let stats: String = server.run(&["INFO", "commandstats"]);
    let calls = calls(&stats, "evalsha");
    assert!(calls <= 6, "{calls} scripts: somebody spins");
    nothing_left(&server).await;
}

#[tokio::test]
async fn p4_a_wake_up_connection_cut_just_before_the_release_costs_no_ttl() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let (holding, waiting) = (locks(server.url()).await, locks(proxy.url()).await);
    for _ in 0..5 {
        let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        let waiter = tokio::spawn(waiting.lock("k").wait(ms(60_000)).acquire());
        queued(&server, "k", 1).await;
        proxy.cut();
        let cut = Instant::now();
        holder.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        assert!(cut.elapsed() < ms(1500), "{:?}", cut.elapsed());
        guard.release().await.unwrap();
    }
    let connections = proxy.log().iter().map(|command| command.connection).max();
    assert!(connections >= Some(3), "it was not cut");
    nothing_left(&server).await;
}

#[tokio::test]
async fn p6_renewals_do_not_feed_themselves() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(1000)).acquire().await.unwrap();
    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    sleep(ms(2000)).await;
    let stats: String = server.run(&["INFO", "commandstats"]);
    let renewals = calls(&stats, "evalsha");
    // A tenth of the ttl, up to a quarter early.
    assert!(
        (10..=35).contains(&renewals),
        "{renewals} renewals in two ttls"
    );
    guard.release().await.unwrap();
}

#[tokio::test]
async fn p7_an_acquire_that_was_interrupted_in_flight_is_not_renewed_for_ever() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = locks(proxy.url()).await;
    for delay in 0..20 {
        let acquiring = tokio::spawn(locks.lock("k").ttl(ms(400)).acquire());
        sleep(Duration::from_micros(delay * 100)).await;
        acquiring.abort();
        let _ = acquiring.await;
        free(&server, "k").await;
    }
    assert!(proxy.seen("acquire") > 0, "nothing was in flight");
    let renewals = proxy.seen("renew");
    sleep(ms(800)).await;
    assert_eq!(
        proxy.seen("renew"),
        renewals,
        "somebody renews what nobody holds"
    );
    assert_eq!((owner(&server, "k"), waiters(&server, "k")), (None, 0));
    eventually("it can be had", || owner(&server, "k").is_none()).await;
    locks
        .lock("k")
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

/// How often a command was called, by the statistics of the server.
fn calls(stats: &str, command: &str) -> u64 {
    let line = stats
        .lines()
        .find(|line| line.starts_with(&format!("cmdstat_{command}:")));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}
