//! R7: the master becomes a replica.

use super::*;

#[tokio::test]
async fn a_server_that_became_a_replica_is_unavailable_until_it_is_the_master() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = locks.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    // The client has a name for it, where it comes from no script of an old server.
    let text = causes(&error).to_lowercase();
    assert!(text.contains("readonly"), "{text}");
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let mended = Instant::now();
    can_be_had(&locks, "new").await;
    assert!(mended.elapsed() < Duration::from_secs(1) + SLACK);
    nothing_left(&server).await;
}
