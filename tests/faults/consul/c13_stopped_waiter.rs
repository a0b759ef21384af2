//! C13: a waiter stands still for longer than its session lives.

use super::*;

/// A process that waits stands still for longer than its session lives, and then it would have been
/// its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_on_consul_that_stood_still_takes_no_lock_of_another() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(5)).await;
    let before = cluster.sessions();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let its = since(&cluster, &before);
    process.pause().await;
    ended(&cluster, &its).await;
    guard.release().await.unwrap();
    let other = held(&locks, "k", secs(5)).await;
    process.resume();
    // It asks, and waits behind the other.
    waiters(&cluster, "k", 1).await;
    assert!(other.is_held());
    let token_of_other = u64::from(other.fencing_token());
    other.release().await.unwrap();
    let heard = process.hear_within(DEADLINE).await;
    assert!(token(&heard) > token_of_other);
}
