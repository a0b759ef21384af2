//! E14: the store is put back to a snapshot: revisions are counted from there, and so are fencing
//! tokens.

use super::*;

async fn granted_with(cluster: &Cluster, floor: u64) -> u64 {
    let locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(secs(4));
    let locks = locks.fence_floor(floor).build().await.unwrap();
    let lock = locks.lock("k").wait(DEADLINE);
    let guard = lock.acquire().await.unwrap();
    let token = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    locks.shutdown().await.unwrap();
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_go_back_with_a_snapshot_and_the_floor_raises_them() {
    let mut cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot");
    cluster.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    for _ in 0..5 {
        cluster.ctl(&["put", "x", "x"]);
    }
    let before = granted_with(&cluster, 0).await;
    cluster.restore(&snapshot);
    eventually("it is back", || {
        cluster.try_ctl(&["endpoint", "health"]).is_ok()
    })
    .await;
    let after = granted_with(&cluster, 0).await;
    assert!(after < before, "{after} after {before}: a fence refuses it");
    // The largest token that was given, as the documents say.
    let raised = granted_with(&cluster, before).await;
    assert!(raised > before, "{raised} after {before}");
}
