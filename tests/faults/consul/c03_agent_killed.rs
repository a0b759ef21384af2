//! C3: the agent that the holder asks is killed: its session ends before its ttl.

use super::*;

/// The agent of the holder dies, and an operator destroys its session, of which it cannot hear: it
/// ends by its own clock before the delay does.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_agent_is_killed_ends_before_the_delay_does() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = runtime(vec![cluster.endpoint(agent)]).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(6);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(agent);
    let asked = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(asked.is_unavailable(), "{asked:?}");
    let (lost, destroyed) = (loss(guard), Instant::now());
    cluster.destroy(&session);
    let (_, began) = follows(first, lost, waiting).await;
    assert!(
        began >= destroyed + ttl,
        "nobody has it before the delay is over"
    );
}

/// The control: a belief that is longer than the delay is one too many.
#[tokio::test(flavor = "multi_thread")]
async fn control_a_belief_longer_than_the_delay_is_one_too_many() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = with_delay_share(vec![cluster.endpoint(agent)], 0.05).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(60)).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(agent);
    let destroyed = Instant::now();
    cluster.destroy(&session);
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(began >= destroyed + secs(3), "there was a delay");
    assert!(next.is_held() && guard.is_held(), "both believe in it");
}

/// The server by which the lock was taken dies, and its node is removed: the session ends long
/// before its ttl.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_with_its_server_is_lost_before_the_next_is_served() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let server = (cluster.leader() + 1) % 3;
    let locks = runtime(vec![cluster.endpoint(server)]).await;
    let others = (0..3).filter(|place| *place != server);
    let other = runtime(others.map(|place| cluster.endpoint(place)).collect()).await;
    let ttl = secs(30);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(server);
    let (killed, lost) = (Instant::now(), loss(guard));
    // Its ttl would be over after 30 s.
    eventually("the session ends", || {
        !cluster.sessions().contains(&session)
    })
    .await;
    assert!(killed.elapsed() < ttl, "its node was removed");
    let (ended, began) = follows(first, lost, waiting).await;
    println!(
        "the session ended early; the holder after {:?}, the next began after {:?}",
        ended - killed,
        began - killed
    );
}
