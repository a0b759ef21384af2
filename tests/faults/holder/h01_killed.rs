//! H1: `kill -9` of the holder.

use super::*;

#[tokio::test]
async fn a_killed_holder_costs_what_was_left_of_its_lease() {
    let _alone = alone().await;
    let server = Server::start();
    let locks = locks(server.url()).await;
    for _ in 0..3 {
        let mut holder = Process::start(HOLDER, &server.url()).await;
        let first = token(&holder.ask("acquire k 3000 30000").await);
        let waiter = tokio::spawn(locks.lock("k").acquire());
        queued(&server, "k", 1).await;
        holder.kill();
        let killed = Instant::now();
        let left = remaining(&server, "k").expect("it did not hold the lock");
        let guard = waiter.await.unwrap().unwrap();
        assert!(
            killed.elapsed() <= left + SLACK,
            "{:?} of {left:?}",
            killed.elapsed()
        );
        assert!(guard.fencing_token().as_u64() > first);
        guard.release().await.unwrap();
    }
    nothing_left(&server).await;
}
