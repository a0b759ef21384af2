//! W19: passing on inside the process.

use super::*;

#[tokio::test]
async fn every_local_holder_has_a_larger_token_and_a_lease_that_lasts() {
    let server = Server::start();
    let grace = 2 * DEADLINE;
    let builder = builder(server.url()).local_passes(5).grace(grace);
    let locks = builder.build().await.unwrap();
    let monitor = server.monitor();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let lock = locks.lock("k").ttl(2 * grace);
        tasks.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            let seen = (
                guard.fencing_token(),
                guard.remaining(),
                guard.owner_token().clone(),
            );
            tokio::task::yield_now().await;
            guard.release().await.unwrap();
            seen
        });
    }
    let mut seen = tasks.join_all().await;
    seen.sort();
    assert!(
        seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "a token was given twice"
    );
    // A grace at the least.
    assert!(
        seen.iter().all(|(_, remaining, _)| *remaining > grace / 4),
        "{seen:?}"
    );
    let owners: HashSet<_> = seen.iter().map(|(_, _, owner)| owner.clone()).collect();
    assert!(
        owners.len() > 1 && owners.len() < 40,
        "nothing was passed on locally, or everything"
    );
    let grants = |owner: &OwnerToken| seen.iter().filter(|seen| seen.2 == *owner).count();
    assert!(
        owners.iter().all(|owner| grants(owner) <= 6),
        "the budget was not kept"
    );
    assert!(monitor.commands(&server).len() < 3 * 40);
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_cancelled_local_waiter_is_skipped() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let holder = locks.lock("k").acquire().await.unwrap();
    let cancelled = tokio::spawn(locks.lock("k").acquire());
    tokio::task::yield_now().await;
    let next = tokio::spawn(locks.lock("k").acquire());
    tokio::task::yield_now().await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    let token = holder.fencing_token();
    holder.release().await.unwrap();
    let guard = timeout(DEADLINE, next).await.unwrap().unwrap().unwrap();
    assert!(guard.fencing_token() > token);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
