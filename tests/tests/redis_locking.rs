//! What the front promises, on a real Redis server.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_runtime::backend::{Backend, Claim};
use lock_runtime::{LockKey, LockRuntime, OwnerToken};
use lock_tests::faults::{owner, queued};
use lock_tests::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_task_of_two_processes_gets_its_turn_with_a_growing_token() {
    const ROUNDS: u32 = 25;
    let server = Server::start();
    let mut runtimes = Vec::new();
    for passes in [0, 32] {
        let builder = LockRuntime::redis(server.url()).local_passes(passes);
        runtimes.push(builder.build().await.unwrap());
    }
    let (inside, overlaps) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (last, stale) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(0)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let locks = runtimes[n % 2].clone();
            let (inside, overlaps) = (inside.clone(), overlaps.clone());
            let (last, stale) = (last.clone(), stale.clone());
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let lock = locks.lock("k").ttl(Duration::from_secs(5));
                    let guard = lock.wait(Duration::from_secs(60)).acquire().await.unwrap();
                    overlaps.fetch_add(inside.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    let token = guard.fencing_token().as_u64();
                    if last.fetch_max(token, Ordering::SeqCst) >= token {
                        stale.fetch_add(1, Ordering::SeqCst);
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!(
        "{:.0} hand-offs a second",
        32.0 * f64::from(ROUNDS) / started.elapsed().as_secs_f64()
    );
    assert_eq!(
        (
            overlaps.load(Ordering::SeqCst),
            stale.load(Ordering::SeqCst)
        ),
        (0, 0)
    );
    for locks in &runtimes {
        locks.shutdown().await.unwrap();
    }
    assert_eq!(
        server.run::<u32>(&["EXISTS", "lock:k", "{lock:k}:queue"]),
        0
    );
    server.finish();
}

/// W7: whoever dies as it is handed the lock tells nobody, and the next has heard only of the lease before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_dies_as_it_is_handed_the_lock_costs_the_grace() {
    let server = Server::start();
    let builder = || LockRuntime::redis(server.url()).default_ttl(Duration::from_secs(30));
    let (first, last) = (
        builder().build().await.unwrap(),
        builder().build().await.unwrap(),
    );
    let held = first.lock("k").acquire().await.unwrap();

    // It stands in the queue and will never look at what it is sent.
    let dead = lock_tests::redis_store::connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("dead"), Duration::from_secs(30)).queued();
    claim.grace = Duration::from_millis(300);
    dead.acquire(&claim).await.unwrap();
    let waiting = tokio::spawn(async move { last.lock("k").acquire().await.map(drop) });
    queued(&server, "k", 2).await;

    held.release().await.unwrap();
    let owner = owner(&server, "k").unwrap();
    assert_eq!(
        owner,
        claim.owner.as_str(),
        "the dead was not handed the lock"
    );
    let released = Instant::now();
    waiting.await.unwrap().unwrap();
    let waited = released.elapsed();
    assert!(
        waited >= claim.grace / 2,
        "{waited:?}: it was not the grace that ended"
    );
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}
