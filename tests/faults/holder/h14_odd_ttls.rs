//! H14: a ttl that no lease can have.

use super::*;

#[tokio::test]
async fn a_ttl_that_no_lease_can_have_is_refused_before_anything_is_sent() {
    let (server, proxy, locks) = start().await;
    let sent = proxy.log().len();
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(1),
        ms(1),
        ms(9),
        Duration::from_secs(24 * 60 * 60 + 1),
        ms(u64::MAX),
        Duration::MAX,
    ] {
        let error = locks.lock("k").ttl(ttl).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{ttl:?}: {error}");
        assert!(error.to_string().contains("ttl"), "{error}");
    }
    assert_eq!(proxy.log().len(), sent);
    assert!(owner(&server, "k").is_none());
}

#[tokio::test]
async fn a_renewal_for_no_time_does_not_make_a_lock_eternal_nor_delete_another() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    for ttl in [Duration::ZERO, Duration::MAX] {
        let claim = Claim::new(key.clone(), OwnerToken::unique("k"), ms(60_000));
        backend.acquire(&claim).await.unwrap();
        let renewal = Renewal::new(key.clone(), claim.owner.clone(), ttl);
        let _ = backend.renew(&[renewal]).await;
        let millis: i64 = server.run(&["PTTL", "lock:k"]);
        assert_ne!(millis, -1, "{ttl:?}: it never ends");
        server.run::<()>(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_ttl_shorter_than_the_round_trip_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.lag(ms(40));
    let outcome = locks.lock("k").ttl(ms(50)).wait(ms(600)).acquire().await;
    assert!(outcome.is_err(), "{outcome:?}");
    eventually("it asked", || proxy.seen("acquire") > 0).await;
    proxy.heal();
    free(&server, "k").await;
}
