//! H8: the process exits, is terminated, or its tokio runtime ends; shutdown.

use super::*;

#[tokio::test]
async fn a_process_that_exits_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.tell("exit").await).await;
}

#[tokio::test]
async fn a_process_that_is_terminated_costs_what_was_left_of_its_lease() {
    ended_by(async |process| process.terminate()).await;
}

#[test]
fn the_end_of_a_tokio_runtime_drops_the_body_and_releases_its_lock() {
    let server = Server::start();
    let keeping = tokio::runtime::Runtime::new().unwrap();
    let locks = keeping.block_on(locks(server.url()));
    let ending = tokio::runtime::Runtime::new().unwrap();
    let (began, begun) = std::sync::mpsc::channel();
    let lock = locks.lock("k").ttl(ms(60_000));
    ending.spawn(async move {
        let ran = lock.run(async move |_| {
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        ran.await
    });
    begun.recv().unwrap();
    assert!(owner(&server, "k").is_some());
    drop(ending);
    keeping.block_on(free(&server, "k"));
    keeping.block_on(async {
        locks
            .lock("k")
            .acquire()
            .await
            .unwrap()
            .release()
            .await
            .unwrap()
    });
}

#[tokio::test]
async fn a_shutdown_frees_no_lock_while_its_body_runs() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(2500)).acquire().await.unwrap();
    let shutdown = tokio::spawn({
        let locks = locks.clone();
        async move { locks.shutdown().await }
    });
    sleep(ms(4000)).await;
    assert!(
        guard.is_held() && owner(&server, "k").is_some(),
        "it was not renewed any more"
    );
    assert!(!shutdown.is_finished());
    assert!(locks.lock("k2").acquire().await.unwrap_err().is_shut_down());
    guard.release().await.unwrap();
    shutdown.await.unwrap().unwrap();
    nothing_left(&server).await;
}
