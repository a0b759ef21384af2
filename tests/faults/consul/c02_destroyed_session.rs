//! C2: an operator destroys the session of the holder.

use super::*;

/// An operator destroys the session of the holder: that hears of it before anybody else has the
/// lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_an_operator_destroys_is_lost_before_the_next_is_served() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(4);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let lost = loss(guard);
    let destroyed = Instant::now();
    cluster.destroy(&session);
    assert!(cluster.owner("lock:k").is_none(), "nobody holds it");
    // Whoever comes is told that it is taken, not that it is free.
    let comes = locks.lock("k").ttl(ttl).try_acquire().await.unwrap();
    assert!(comes.is_none());
    let (ended, began) = follows(first, lost, waiting).await;
    assert!(
        ended < destroyed + ttl,
        "it was told before the delay was over"
    );
    assert!(
        began >= destroyed + ttl,
        "nobody has it before the delay is over"
    );
}

/// The control of the tests before and after: without a delay two believe that they hold the lock.
#[tokio::test(flavor = "multi_thread")]
async fn control_without_a_delay_two_believe_that_they_hold_the_lock() {
    let cluster = Cluster::start();
    let locks = with_delay_share(cluster.endpoints(), 0.0).await;
    let other = runtime(cluster.endpoints()).await;
    let lock = locks.lock("k").ttl(secs(60)).renew(secs(30));
    let guard = lock.acquire().await.unwrap();
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.destroy(&session);
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held() && guard.is_held(), "both believe in it");
}
