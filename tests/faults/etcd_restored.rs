//! An etcd that was put back to a snapshot: revisions are counted from there, and so are fencing tokens.

use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_tests::etcd::Cluster;
use lock_tests::faults::eventually;

async fn token(cluster: &Cluster, floor: u64) -> u64 {
    let locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(Duration::from_secs(4));
    let locks = locks.fence_floor(floor).build().await.unwrap();
    let lock = locks.lock("k").wait(Duration::from_secs(60));
    let guard = lock.acquire().await.unwrap();
    let token = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    locks.shutdown().await.unwrap();
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn e14_tokens_go_back_with_a_snapshot_and_the_floor_raises_them() {
    let mut cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot");
    cluster.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    for _ in 0..5 {
        cluster.ctl(&["put", "x", "x"]);
    }
    let before = token(&cluster, 0).await;
    cluster.restore(&snapshot);
    eventually("it is back", || {
        cluster.try_ctl(&["endpoint", "health"]).is_ok()
    })
    .await;
    let after = token(&cluster, 0).await;
    assert!(after < before, "{after} after {before}: a fence refuses it");
    // The largest token that was given, as the documents say.
    let raised = token(&cluster, before).await;
    assert!(raised > before, "{raised} after {before}");
}
