//! C10: `consul lock`, Go's lock and other programs hold the lock, wait for it, free it and delete
//! its key.

use super::*;

/// A program that knows nothing of us holds the lock, frees it and deletes its key: our queue keeps
/// its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_holder_is_followed_by_our_queue_in_its_order() {
    let cluster = Cluster::start();
    let session = cluster.new_session();
    let path = "/v1/kv/lock:k/.lock?flags=3304740253564472344";
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let (one, two) = (
        runtime(cluster.endpoints()).await,
        runtime(cluster.endpoints()).await,
    );
    let first = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    let second = waits(&two, "k");
    waiters(&cluster, "k", 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    let freed = cluster.ask("PUT", &format!("{path}&release={session}"), "");
    assert_eq!(freed.trim(), "true");
    let (guard, _) = timeout(DEADLINE, first).await.unwrap().unwrap();
    assert!(!second.is_finished());
    guard.release().await.unwrap();
    let (guard, _) = timeout(DEADLINE, second).await.unwrap().unwrap();
    guard.release().await.unwrap();
    cluster.destroy(&session);

    // Now it deletes the key as well, as `consul lock` does.
    let session = cluster.new_session();
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let waiting = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
    let (guard, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
}
