//! H4: the grant arrives after the lease.

use super::*;

#[tokio::test]
async fn a_grant_that_arrives_after_its_lease_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.fault_all("acquire", Fault::DelayAnswer(ms(300)));
    let started = Instant::now();
    let outcome = locks.lock("k").ttl(ms(200)).wait(ms(1000)).acquire().await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(proxy.faults() > 0 && started.elapsed() < ms(1000) + SLACK);
    proxy.heal();
    free(&server, "k").await;

    // Late, but not too late: what is told is what is left.
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::DelayAnswer(ms(300)));
    let guard = locks
        .lock("k")
        .ttl(ms(20_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 1));
    assert!(guard.remaining() <= ms(19_700));
    assert!(remaining(&server, "k").unwrap() >= guard.remaining());
    guard.release().await.unwrap();
}
