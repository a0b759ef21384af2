//! W3: the request arrives twice, or late.

use super::*;

#[tokio::test]
async fn a_question_that_comes_late_shortens_no_lease() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    // The claim is first asked for with a short ttl. Who wanted that leaves, and the next wants a
    // long one.
    let short = tokio::spawn(locks.lock("k").ttl(ms(500)).wait(ms(300)).acquire());
    eventually("the request is under way", || proxy.faults() == 1).await;
    let long = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    assert!(short.await.unwrap().is_err());
    let guard = long.await.unwrap().unwrap();

    let_arrive(&server, &proxy).await;
    let left = remaining(&server, "k").unwrap();
    assert!(
        left + ms(100) > guard.remaining(),
        "{left:?} is left in the store of {:?}",
        guard.remaining()
    );
    assert!(guard.remaining() > ms(20_000));
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_request_that_arrives_twice_is_one_grant() {
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::Duplicate);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    proxy.fault("release", Fault::Duplicate);
    guard.release().await.unwrap();
    nothing_left(&server).await;
    proxy.heal();

    let holder = self::locks(server.url())
        .await
        .lock("k")
        .acquire()
        .await
        .unwrap();
    proxy.fault("acquire", Fault::Duplicate);
    let waiter = tokio::spawn(locks.lock("k").acquire());
    queued(&server, "k", 1).await;
    sleep(ms(50)).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (3, 1));
    holder.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}
