//! P3: a cancelled head of the queue blocks the rest, which spins.

use super::*;

#[tokio::test]
async fn a_cancelled_head_of_the_queue_does_not_block_those_behind_it() {
    let server = Server::start();
    let (one, two, three) = (
        locks(server.url()).await,
        locks(server.url()).await,
        locks(server.url()).await,
    );
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let head = tokio::spawn(two.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 1).await;
    let next = tokio::spawn(three.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 2).await;
    head.abort();
    assert!(head.await.unwrap_err().is_cancelled());
    queued(&server, "k", 1).await;

    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "{:?}", released.elapsed());
    guard.release().await.unwrap();
    let calls = statistic(&server, "evalsha", "calls").unwrap();
    // A few for each second that a slow machine takes, where one that spins makes thousands.
    assert!(calls <= 60.0, "{calls} scripts: somebody spins");
    nothing_left(&server).await;
}
