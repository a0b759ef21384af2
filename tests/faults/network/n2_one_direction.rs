//! N2: one direction only.

use super::*;

#[tokio::test]
async fn no_withdrawal_by_the_lane_overtakes_a_claim_by_the_direct_link() {
    let (server, proxy, locks) = start().await;
    by_the_direct_link(&proxy, &locks).await;
    proxy.fault("acquire", Fault::Hold);
    // Dropped, it is withdrawn from the backend's thread, by the lane.
    let claimed = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    eventually("the request is under way", || proxy.faults() == 1).await;
    claimed.abort();
    assert!(claimed.await.unwrap_err().is_cancelled());
    eventually("a withdrawal", || proxy.seen("abandon") > 0).await;
    proxy.let_go(1).await;
    // Long before its lease would end by itself.
    free(&server, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn lost_requests_are_no_grant() {
    let (server, proxy, locks) = start().await;
    proxy.fault_all("acquire", Fault::LoseRequest);
    let error = locks.lock("k").wait(ms(600)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(proxy.faults() > 0);
    assert!(owner(&server, "k").is_none());
}

#[tokio::test]
async fn lost_answers_leave_no_orphan() {
    // While the connection is there: a new one would have to be answered first.
    let (server, proxy, locks) = start_patient().await;
    proxy.partition(Way::Down);
    let acquiring = tokio::spawn(locks.lock("k").ttl(ms(60_000)).wait(ms(600)).acquire());
    eventually("the request arrives", || owner(&server, "k").is_some()).await;
    let error = acquiring.await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");

    // One direction is enough to clean up.
    free(&server, "k").await;
    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}
