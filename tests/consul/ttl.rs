//! What Consul makes of a ttl.

use lock_runtime::{LockError, LockRuntime};
use lock_tests::consul::{Cluster, Options};
use lock_tests::{ms, secs};
use serde_json::json;

use super::runtime;

/// No ttl is longer than what a holder may believe in, and a short one lives for longer in the
/// store.
#[tokio::test]
async fn a_ttl_that_consul_does_not_keep_is_refused_or_told() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let error = locks.lock("k").ttl(secs(61)).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(error.to_string().contains("1m at most"), "{error}");
    assert!(
        error.to_string().contains("ends before its time"),
        "{error}"
    );
    let default = LockRuntime::consul(cluster.endpoints()).default_ttl(secs(61));
    let error = default.build().await.unwrap_err();
    assert!(
        error.to_string().contains("`default_ttl` is 1m 1s"),
        "{error}"
    );
    let guard = locks.lock("k").ttl(secs(60)).acquire().await.unwrap();
    guard.release().await.unwrap();

    // Its sessions live for two seconds at the least.
    let short = ms(1_500);
    assert!(locks.takeover_after(short) >= secs(2) + short);
    let guard = locks.lock("k").ttl(short).acquire().await.unwrap();
    assert!(guard.is_held() && guard.remaining() <= short);
    guard.release().await.unwrap();
    let exact = LockRuntime::consul(cluster.endpoints()).exact_ttl(true);
    let exact = exact.command_timeout(secs(4)).build().await.unwrap();
    let error = exact.lock("k").ttl(short).acquire().await.unwrap_err();
    assert!(error.to_string().contains("2s at least"), "{error}");
    let guard = exact.lock("k").ttl(secs(2)).acquire().await.unwrap();
    guard.release().await.unwrap();
}

/// A cluster may have a larger minimum than is usual, which is told by what it refuses.
#[tokio::test]
async fn the_shortest_session_of_consul_is_learned_from_the_server() {
    let options = Options::default().with("session_ttl_min", json!("3s"));
    let cluster = options.start(1);
    let locks = runtime(&cluster).await;
    assert_eq!(locks.takeover_after(secs(1)), ms(7_500));
    let guard = locks.lock("k").ttl(secs(1)).acquire().await.unwrap();
    assert!(guard.is_held());
}
