//! C4: that agent leaves.

use super::*;

/// An agent leaves, and the sessions of its node end at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_ends_its_sessions_and_the_delay_holds() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = runtime(vec![cluster.endpoint(agent)]).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(6);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let lost = loss(guard);
    let left = Instant::now();
    cluster.leave(agent);
    eventually("the session ends", || cluster.owner("lock:k").is_none()).await;
    let (_, began) = follows(first, lost, waiting).await;
    assert!(
        began >= left + ttl,
        "nobody has it before the delay is over"
    );
}
