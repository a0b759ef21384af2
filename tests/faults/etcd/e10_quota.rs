//! E10: the quota of the store is used up.

use super::*;

/// The server has no room: it refuses what is new, and what is held goes on.
#[tokio::test(flavor = "multi_thread")]
async fn holders_renew_and_hand_over_while_there_is_no_space() {
    let cluster = Options::default()
        .with(["--quota-backend-bytes", "2000000"])
        .start(1);
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(4);
    let guard = held(&locks, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let cluster = spawn_blocking(move || {
        let big = "x".repeat(100_000);
        while cluster.try_ctl(&["put", "big", &big]).is_ok() {}
        cluster
    })
    .await
    .unwrap();
    assert!(cluster.ctl(&["alarm", "list"]).contains("NOSPACE"));
    let refused = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    sleep(ttl + secs(2)).await;
    assert!(guard.is_held(), "renewals pass");
    guard.release().await.unwrap();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held());
}
