//! H9: the guard is leaked.

#![allow(clippy::mem_forget)]

use super::*;

#[tokio::test]
async fn a_leaked_guard_is_renewed_until_its_max_hold() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let leaked = Instant::now();
    let guard = locks
        .lock("k")
        .ttl(ms(2000))
        .max_hold(ms(5000))
        .acquire()
        .await
        .unwrap();
    std::mem::forget(guard);
    let next = locks.lock("k").acquire().await.unwrap();
    assert!(leaked.elapsed() >= ms(4500), "it was not renewed");
    assert!(
        leaked.elapsed() < ms(7000) + SLACK,
        "{:?}",
        leaked.elapsed()
    );
    next.release().await.unwrap();
    nothing_left(&server).await;
}
