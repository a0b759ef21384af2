//! N8: a name without an address.

use super::*;

#[tokio::test]
async fn a_name_without_an_address_is_told_at_once() {
    let started = Instant::now();
    let error = LockRuntime::redis("redis://no-such-host.invalid/")
        .build()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5) + SLACK);
}
