//! W7: a process crashes as it is handed the lock.

use super::*;

#[tokio::test]
async fn a_process_that_crashes_as_it_is_handed_the_lock_costs_the_grace() {
    let _alone = alone().await;
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Process::start(HOLDER, &server.url()).await;
    doomed.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 2).await;

    doomed.pause().await;
    let first = owner(&server, "k");
    let released = Instant::now();
    holder.release().await.unwrap();
    assert!(
        owner(&server, "k").is_some() && owner(&server, "k") != first,
        "not handed over"
    );
    assert!(remaining(&server, "k").unwrap() <= GRACE);
    doomed.kill();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn several_that_die_with_the_lock_in_hand_cost_a_grace_each() {
    let _alone = alone().await;
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Vec::new();
    for place in 1..=3 {
        let mut process = Process::start(HOLDER, &server.url()).await;
        process.tell("acquire k 60000 60000").await;
        queued(&server, "k", place).await;
        doomed.push(process);
    }
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 4).await;
    for process in &doomed {
        process.pause().await;
    }
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() >= GRACE,
        "the stopped ones were not served"
    );
    assert!(
        released.elapsed() < 3 * GRACE + 2 * SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
}
