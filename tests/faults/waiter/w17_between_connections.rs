//! W17: a waiter between two connections.

use super::*;

#[tokio::test]
async fn a_waiter_between_two_connections_is_skipped_and_comes_back() {
    let (server, proxy, waiting) = start().await;
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let away = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;
    let next = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    proxy.refuse();
    eventually("it is away", || listeners(&server, "k") == [0, 1]).await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "it was not skipped");
    proxy.heal();
    queued(&server, "k", 1).await;
    guard.release().await.unwrap();
    away.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}
