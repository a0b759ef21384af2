//! W6: a queued process crashes.

use super::*;

#[tokio::test]
async fn a_queued_process_that_crashed_costs_nothing() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Vec::new();
    for place in 1..=3 {
        let mut process = Process::start(HOLDER, &server.url()).await;
        process.tell("acquire k 60000 60000").await;
        queued(&server, "k", place).await;
        doomed.push(process);
    }
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 4).await;
    for process in &mut doomed {
        process.kill();
    }
    eventually("the server notices", || {
        listeners(&server, "k") == [0, 0, 0, 1]
    })
    .await;

    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "{:?}", released.elapsed());
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
