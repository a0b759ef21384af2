//! H6: the body panics; the process aborts.

use super::*;

#[tokio::test]
async fn a_body_that_panics_releases_its_lock() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let mut process = Process::start(HOLDER, &server.url()).await;
    let waiter = {
        process.tell("panic k 60000").await;
        token(&process.hear().await);
        assert_eq!(process.hear().await, "panicked");
        locks.lock("k").acquire()
    };
    let guard = timeout(DEADLINE, waiter)
        .await
        .expect("it was not released")
        .unwrap();
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_process_that_aborts_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.tell("abort").await).await;
}
