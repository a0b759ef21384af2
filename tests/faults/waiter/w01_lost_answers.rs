//! W1: the server acts, and its answer is lost.

use super::*;

#[tokio::test]
async fn a_lost_answer_does_not_leave_an_orphan() {
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::CutAnswer);
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 2));

    let stored = server.run::<String>(&["GET", "{lock:}:26:counter"]);
    assert!(guard.fencing_token().as_u64() <= stored.parse().unwrap());
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_lost_answer_to_a_caller_who_left_does_not_leave_an_orphan() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::LoseAnswer);
    let acquiring = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    eventually("the server grants it", || owner(&server, "k").is_some()).await;
    acquiring.abort();
    assert_eq!(proxy.faults(), 1);
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_lost_answer_to_a_release_is_no_failure() {
    let (server, proxy, locks) = start_patient().await;
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    proxy.fault("release", Fault::CutAnswer);
    guard.release().await.unwrap();
    assert_eq!((proxy.faults(), proxy.seen("release")), (1, 2));
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_lost_answer_to_a_queued_claim_does_not_queue_it_twice() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url()).await.lock("k").acquire().await.unwrap();
    proxy.fault("acquire", Fault::CutAnswer);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    eventually("it asks again", || proxy.seen("acquire") >= 2).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (1, 1));
    holder.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}
