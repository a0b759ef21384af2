//! C5: a waiter dies, some time before the hand-over to it or just before.

use super::*;

/// A process that waits dies; when its session has ended it is passed over, in no time.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_died_is_passed_over_at_the_hand_over() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let before = cluster.sessions();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let its = since(&cluster, &before);
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 2).await;
    process.kill();
    ended(&cluster, &its).await;
    let first = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// A process is handed the lock just after it died: it costs the others its session and its delay,
/// as one that died holding does, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_dies_as_it_is_served_costs_what_a_holder_does() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 2).await;
    process.kill();
    guard.release().await.unwrap();
    let handed_over = Instant::now();
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(began >= handed_over + secs(2), "its delay was kept");
    next.release().await.unwrap();
}
