//! W12: the queue is evicted.

use super::*;

#[tokio::test]
async fn a_queue_that_is_evicted_or_flushed_is_joined_again() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let one = tokio::spawn(one.lock("k").acquire());
    let two = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    assert_eq!(server.run::<usize>(&["DEL", "{lock:k}:waiters"]), 1);
    queued(&server, "k", 2).await;
    holder.release().await.unwrap();
    let first = async { one.await.unwrap().unwrap().release().await.unwrap() };
    let second = async { two.await.unwrap().unwrap().release().await.unwrap() };
    tokio::join!(first, second);
    nothing_left(&server).await;
}
