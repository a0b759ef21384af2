//! R11: the lock is evicted.

use super::*;

#[tokio::test]
async fn a_lock_that_was_evicted_is_lost_and_fenced() {
    let server = Options::default()
        .with(["--maxmemory-policy", "volatile-ttl"])
        .start();
    let store = Server::start();
    let resource = Resource::in_redis(&store);
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let _: redis::RedisResult<()> = redis::cmd("SET")
        .arg("x")
        .arg("y")
        .arg("EX")
        .arg(60)
        .exec(&mut server.client());
    assert_eq!(owner(&server, "k"), None, "nothing was evicted");
    let evicted: String = server.run(&["INFO", "stats"]);
    assert!(!evicted.contains("evicted_keys:0\r\n"));
    timeout(DEADLINE, stale.lost())
        .await
        .expect("the holder is not told");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let fresh = two.lock("k").acquire().await.unwrap();
    assert_fenced(&resource, &stale, &fresh).await;
}
