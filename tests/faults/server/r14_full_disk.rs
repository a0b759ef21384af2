//! R14: the disk is gone.

use super::*;

#[tokio::test]
async fn a_server_that_cannot_save_is_unavailable_and_a_lease_ends_by_its_deadline() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let held = locks.lock("k").ttl(ms(6000)).acquire().await.unwrap();
    // To save is impossible where the directory of the file is gone.
    server.run::<()>(&["CONFIG", "SET", "save", "1 1"]);
    server.lose_disk();
    let mut client = server.client();
    let _: redis::RedisResult<()> = redis::cmd("BGSAVE").exec(&mut client);
    eventually("it refuses to write", || {
        let set = redis::cmd("SET")
            .arg("x")
            .arg("y")
            .arg("EX")
            .arg(60)
            .exec(&mut client);
        set.is_err_and(|error| error.code() == Some("MISCONF"))
    })
    .await;
    let refused = Instant::now();
    let error = locks.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    held.lost().await;
    assert!(refused.elapsed() < ms(6000) + SLACK);
    assert!(held.release().await.unwrap_err().is_lost());
    server.run::<()>(&["CONFIG", "SET", "save", ""]);
    can_be_had(&locks, "new").await;
}
