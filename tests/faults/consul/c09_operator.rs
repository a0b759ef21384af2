//! C9: the key of the lock is deleted, or overwritten.

use super::*;

/// The locks are advisory: whoever may write the key ends the lock, which its holder is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_deleted_or_overwritten_is_lost_and_tokens_grow() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    for is_deleted in [true, false] {
        let guard = held(&locks, "k", secs(4)).await;
        let first = u64::from(guard.fencing_token());
        let waiting = waits(&other, "k");
        waiters(&cluster, "k", 1).await;
        if is_deleted {
            cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
        } else {
            // The session still has it locked, for nobody.
            cluster.ask("PUT", "/v1/kv/lock:k/.lock", "mine");
            assert!(cluster.owner("lock:k").is_some());
        }
        timeout(DEADLINE, guard.lost()).await.unwrap();
        drop(guard);
        let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(u64::from(next.fencing_token()) > first);
        next.release().await.unwrap();
    }
}
