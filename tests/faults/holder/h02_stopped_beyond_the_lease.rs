//! H2: the holder is stopped for longer than its lease.

use super::*;

#[tokio::test]
async fn a_holder_that_was_stopped_for_too_long_is_told_fenced_and_harmless() {
    let (server, store) = (Server::start(), Server::start());
    let directory = tempfile::tempdir().unwrap();
    for resource in [
        Resource::in_redis(&store),
        Resource::in_sqlite(directory.path()),
    ] {
        let mut stopped = Process::start(HOLDER, &server.url()).await;
        let mut other = Process::start(HOLDER, &server.url()).await;
        let write = format!("write {}", resource.place());
        let first = token(&stopped.ask("acquire k 3000 30000").await);
        assert_eq!(stopped.ask(&write).await, "accepted");
        stopped.pause().await;
        let second = token(&other.ask("acquire k 60000 30000").await);
        assert!(second > first);
        assert_eq!(other.ask(&write).await, "accepted");
        let owner_of_other = owner(&server, "k");

        stopped.resume();
        assert_eq!(stopped.ask("state").await, "lost");
        assert_eq!(stopped.ask(&write).await, "refused");
        assert_eq!(stopped.ask("release").await, "error lost");
        assert_eq!(
            owner(&server, "k"),
            owner_of_other,
            "it released the lock of another"
        );
        assert_eq!(other.ask("state").await, "held");
        assert_eq!(resource.stale_writes().await, 0);
        assert_eq!(other.ask("release").await, "released");
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn without_a_fence_the_write_of_a_stopped_holder_does_harm() {
    let (server, store) = (Server::start(), Server::start());
    let resource = Resource::in_redis(&store);
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    let mut other = Process::start(HOLDER, &server.url()).await;
    let write = format!("write-unguarded {}", resource.place());
    token(&stopped.ask("acquire k 3000 30000").await);
    stopped.pause().await;
    token(&other.ask("acquire k 60000 30000").await);
    other.ask(&write).await;
    stopped.resume();
    stopped.ask(&write).await;
    assert_eq!(resource.stale_writes().await, 1);
}

#[tokio::test]
async fn a_body_that_was_stopped_for_too_long_does_not_end_well() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    token(&stopped.ask("run k 3000 3000").await);
    let begun = Instant::now();
    stopped.pause().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    // Its body has nothing more to wait for when it goes on.
    sleep_until(begun + ms(3000)).await;
    stopped.resume();
    assert_eq!(stopped.hear().await, "error lost");
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
