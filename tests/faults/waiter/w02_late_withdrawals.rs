//! W2: the withdrawal overtakes the request, or is late.

use super::*;

/// A claim is withdrawn by a connection that is stuck and given up; what lies in it arrives all the
/// same, when the lock has a holder.
async fn a_late_withdrawal(server: &Server, proxy: &Proxy, locks: &LockRuntime) {
    proxy.fault("acquire", Fault::LoseAnswer);
    proxy.fault("abandon", Fault::Hold);
    let gone = tokio::spawn(locks.lock("k").acquire());
    eventually("the claim is granted", || owner(server, "k").is_some()).await;
    gone.abort();
    eventually("its withdrawal is under way", || proxy.faults() == 2).await;

    let guard = locks.lock("k").acquire().await.unwrap();
    let next = self::locks(server.url()).await.lock("k").acquire();
    let next = tokio::spawn(next);
    queued(server, "k", 1).await;
    let_arrive(server, proxy).await;
    for _ in 0..20 {
        let holder = owner(server, "k");
        assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
        sleep(ms(10)).await;
    }
    guard.release().await.unwrap();
    next.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(server).await;
}

/// Lets the request arrive that was held, and says who holds the lock then.
async fn after_the_late_request(server: &Server, proxy: &Proxy) -> Option<String> {
    let_arrive(server, proxy).await;
    owner(server, "k")
}

/// Removes what tells the server which claims are withdrawn, and says how many there were.
fn forget_withdrawals(server: &Server) -> usize {
    let names: Vec<String> = server.run(&["KEYS", "*:waiters:gone:*"]);
    let forget = |name: &String| server.run::<usize>(&["DEL", name]);
    names.iter().map(forget).sum()
}

#[tokio::test]
async fn a_claim_that_its_withdrawal_overtook_is_given_back_when_it_is_served() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    // On a connection of its own the request crawls, while the withdrawal takes the next one.
    proxy.fault("acquire", Fault::Hold);
    proxy.fault_all("acquire", Fault::LoseRequest);
    let waiter = tokio::spawn(waiting.lock("k").wait(ms(1200)).acquire());
    let error = waiter.await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    eventually("a request was held", || {
        let log = proxy.log();
        log.iter().any(|seen| seen.fault == Some(Fault::Hold))
    })
    .await;
    eventually("the withdrawal comes first", || proxy.seen("abandon") > 0).await;
    // As if the request were later than the server remembers.
    eventually("the server remembers it", || {
        forget_withdrawals(&server) > 0
    })
    .await;
    proxy.let_go(1).await;
    queued(&server, "k", 1).await;

    let released = Instant::now();
    holder.release().await.unwrap();
    free(&server, "k").await;
    assert!(released.elapsed() < GRACE + SLACK);
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_claim_that_its_withdrawal_overtook_gets_no_lock() {
    let (server, proxy, locks) = start().await;
    // The first request crawls and others are lost, so that the withdrawal is the first to arrive.
    proxy.fault("acquire", Fault::Hold);
    proxy.fault_all("acquire", Fault::LoseRequest);
    let caller = tokio::spawn(locks.lock("k").ttl(ms(60_000)).wait(ms(1200)).acquire());
    let error = caller.await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    eventually("a withdrawal", || proxy.seen("abandon") > 0).await;
    // It may be on its way still.
    eventually("the server knows of it", || {
        let withdrawn: Vec<String> = server.run(&["KEYS", "*:waiters:gone:*"]);
        !withdrawn.is_empty()
    })
    .await;

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_question_that_comes_after_the_release_takes_no_lock() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    assert!(proxy.faults() == 1 && proxy.seen("acquire") > 1);
    guard.release().await.unwrap();

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_question_of_a_parked_caller_that_comes_after_the_release_takes_no_lock() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    // Its question is neither answered nor given up, since nobody polls it.
    let parked = locks.lock("k").ttl(ms(60_000)).wait(ms(300)).acquire();
    let mut parked = std::pin::pin!(parked);
    assert!(poll_once(parked.as_mut()).is_pending());
    eventually("the request is under way", || proxy.faults() == 1).await;
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    guard.release().await.unwrap();

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    let error = parked.await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_question_that_comes_after_its_waiter_left_queues_nobody() {
    let (server, proxy, waiting) = start().await;
    let other = locks(server.url()).await;
    let holder = other.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    proxy.fault("acquire", Fault::Hold);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    // By a younger question, which is answered.
    queued(&server, "k", 1).await;
    waiter.abort();
    queued(&server, "k", 0).await;

    let_arrive(&server, &proxy).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (1, 0));
    holder.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_withdrawal_that_is_late_frees_no_lock_that_was_granted_meanwhile() {
    let (server, proxy, locks) = start().await;
    a_late_withdrawal(&server, &proxy, &locks).await;
}

#[tokio::test]
async fn a_withdrawal_that_is_late_by_the_direct_link_frees_no_lock_that_was_granted_meanwhile() {
    let (server, proxy, locks) = start().await;
    by_the_direct_link(&proxy, &locks).await;
    a_late_withdrawal(&server, &proxy, &locks).await;
}
