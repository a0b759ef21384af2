//! M3: two servers at a time hang, while three processes contend.

use super::*;

/// The oracle of exclusion: claims of three processes contend, by `try` and by waiting, while one
/// server after the other is stopped and goes on; the resource knows who is in.
#[tokio::test]
async fn nobody_is_alone_with_another_while_servers_hang_in_turn() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    let mut servers = five();
    let inside = Arc::new(AtomicBool::new(false));
    let last = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let mut runtimes = Vec::new();
    for _ in 0..3 {
        let locks = runtime(&servers).await;
        runtimes.push(locks.clone());
        for _ in 0..3 {
            let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
            let (stop, turns, locks) = (Arc::clone(&stop), Arc::clone(&turns), locks.clone());
            workers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let lock = locks.lock("k").ttl(ms(5000)).wait(ms(3000));
                    let Ok(guard) = lock.acquire().await else {
                        continue;
                    };
                    let token = guard.fencing_token().as_u64();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two are in");
                    assert!(last.swap(token, Ordering::SeqCst) < token, "tokens fall");
                    tokio::task::yield_now().await;
                    turns.fetch_add(1, Ordering::SeqCst);
                    let is_valid = !guard.remaining().is_zero();
                    inside.store(false, Ordering::SeqCst);
                    assert!(is_valid, "a lease of five seconds ran out");
                    let _ = guard.release().await;
                }
            });
        }
    }
    for round in 0..6 {
        let (one, other) = (round % 5, (round + 2) % 5);
        servers[one].pause();
        servers[other].pause();
        let before = turns.load(Ordering::SeqCst);
        comes_true("a turn with two servers that hang", async || {
            turns.load(Ordering::SeqCst) > before + 2
        })
        .await;
        servers[one].resume();
        servers[other].resume();
        sleep(ms(50)).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    for locks in &runtimes {
        locks.shutdown().await.unwrap();
    }
}
