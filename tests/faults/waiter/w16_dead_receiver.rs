//! W16: a receiver that still counts and is dead.

use super::*;

#[tokio::test]
async fn a_stopped_subscriber_that_still_counts_costs_the_grace() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    stopped.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    stopped.pause().await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() >= GRACE / 2,
        "the stopped one was not handed the lock"
    );
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    stopped.resume();
    token(&stopped.hear().await);
    assert_eq!(stopped.ask("release").await, "released");
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_dead_waiter_under_the_eyes_of_a_monitor_costs_the_grace() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut dead = Process::start(HOLDER, &server.url()).await;
    dead.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    // Whoever listens to everything is counted as a receiver of everything.
    let mut client = server.client();
    let mut monitor = client.as_pubsub();
    monitor.psubscribe("*").unwrap();
    dead.kill();
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() >= GRACE / 2, "nobody was counted");
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
