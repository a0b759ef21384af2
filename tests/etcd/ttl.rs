//! What etcd makes of a ttl.

use std::time::Duration;

use lock_runtime::{LockError, LockRuntime};
use lock_tests::etcd::Options;
use lock_tests::secs;

use super::runtime;

/// A ttl below what the servers keep is kept for longer, which is told; or refused, if that is
/// wanted.
#[tokio::test]
async fn a_ttl_that_etcd_rounds_up_is_told_or_refused() {
    let cluster = Options::default().election(secs(1)).start(1);
    let locks = runtime(&cluster).await;
    let (short, kept) = (Duration::from_millis(1_500), secs(2));
    assert!(locks.takeover_after(short) >= kept);
    let guard = locks.lock("k").ttl(short).acquire().await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();

    let exact = LockRuntime::etcd(cluster.endpoints()).exact_ttl(true);
    let exact = exact.command_timeout(secs(4)).build().await.unwrap();
    let error = exact.lock("k").ttl(short).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(error.to_string().contains("2s at least"), "{error}");
    exact
        .lock("k")
        .ttl(kept)
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}
