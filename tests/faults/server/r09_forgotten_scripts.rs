//! R9: SCRIPT FLUSH.

use super::*;

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again_once() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
    for _ in 0..3 {
        server.run::<()>(&["SCRIPT", "FLUSH"]);
        let before = remaining(&server, "k").unwrap();
        let cached: Vec<usize> = server.run(&[
            "SCRIPT",
            "EXISTS",
            "0000000000000000000000000000000000000000",
        ]);
        assert_eq!(cached, [0]);
        eventually("it is renewed", || {
            remaining(&server, "k").unwrap() > before
        })
        .await;
        assert!(guard.is_held());
    }
    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let monitor = server.monitor();
    can_be_had(&locks, "other").await;
    let commands = monitor.commands(&server);
    let about: Vec<_> = commands
        .iter()
        .filter(|line| line.contains("lock:other"))
        .collect();
    let sources = about.iter().filter(|line| line.contains("\"EVAL\""));
    // Both scripts: by the hash, and once more by the source.
    assert_eq!((about.len(), sources.count()), (4, 2), "{commands:#?}");
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
