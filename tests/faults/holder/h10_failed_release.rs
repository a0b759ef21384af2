//! H10: the release fails.

use super::*;

#[tokio::test]
async fn a_release_that_fails_is_told_and_nothing_renews_the_lock_after_it() {
    let (server, proxy, locks) = start().await;
    let guard = locks.lock("k").ttl(ms(8000)).acquire().await.unwrap();
    proxy.fault_all("release", Fault::Reply("-ERR not today"));
    let error = guard.release().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(proxy.faults() > 0);
    let log = proxy.log();
    let released = log
        .iter()
        .position(|command| command.name == "release")
        .unwrap();
    free(&server, "k").await;
    let renewed = proxy.log()[released..]
        .iter()
        .any(|command| command.name == "renew");
    assert!(!renewed, "it was renewed after its release");
}

#[tokio::test]
async fn a_release_that_fails_does_not_replace_the_result_of_the_body() {
    let (_server, proxy, locks) = start().await;
    proxy.fault_all("release", Fault::Reply("-ERR not today"));
    let ran = locks.lock("k").ttl(ms(8000)).run(async |_| 7).await;
    assert!(proxy.faults() > 0);
    assert_eq!(ran.unwrap(), 7);
}
