//! N0: nothing goes wrong (the control of the proxy).

use super::*;

#[tokio::test]
async fn without_a_fault_the_proxy_changes_nothing() {
    let (server, proxy, locks) = start_patient().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();

    assert_eq!((proxy.seen("acquire"), proxy.seen("release")), (1, 1));
    assert_eq!(proxy.faults(), 0);
    // The lane, and the direct link of this tokio runtime.
    assert!((1..=2).contains(&proxy.connections()));
}
