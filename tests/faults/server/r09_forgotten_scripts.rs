//! R9: SCRIPT FLUSH.

use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released};
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redis::{RedisBackend, RedisSettings};

use super::*;

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again_once() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
    for _ in 0..3 {
        server.run::<()>(&["SCRIPT", "FLUSH"]);
        let before = remaining(&server, "k").unwrap();
        let before = Instant::now() + before;
        let cached: Vec<usize> = server.run(&[
            "SCRIPT",
            "EXISTS",
            "0000000000000000000000000000000000000000",
        ]);
        assert_eq!(cached, [0]);
        eventually("it is renewed", || {
            Instant::now() + remaining(&server, "k").unwrap() > before + ms(100)
        })
        .await;
        assert!(guard.is_held());
    }
    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let monitor = server.monitor();
    can_be_had(&locks, "other").await;
    each_was_sent_again(&monitor.commands(&server), "lock:other");

    // So is what goes as calls do that share a command.
    let mut settings = RedisSettings::default();
    settings.command_timeout = SLACK;
    settings.always_shared = true;
    // All by the lane: whoever opens another connection would load them.
    settings.pool_size = Some(settings.lanes);
    let sharing = RedisBackend::connect(Config::from_url(server.url()), settings);
    let sharing = sharing.await.unwrap();
    let key = LockKey::new("lock:", "shared").unwrap();
    let claim = Claim::new(key, OwnerToken::unique("test"), 2 * DEADLINE);
    let release = Release::new(claim.key.clone(), claim.owner.clone());
    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let monitor = server.monitor();
    let granted = sharing.acquire(&claim).await.unwrap();
    assert!(matches!(granted, Acquired::Granted(_)), "{granted:?}");
    let released = sharing.release(&release).await.unwrap();
    assert_eq!(released, Released::Released(None));
    each_was_sent_again(&monitor.commands(&server), "lock:shared");
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

/// Both scripts: by the hash, and once more by the source.
fn each_was_sent_again(commands: &[String], lock: &str) {
    let about = commands.iter().filter(|line| line.contains(lock));
    let is_source: Vec<_> = about.map(|line| line.contains("\"EVAL\"")).collect();
    assert_eq!(is_source, [false, true, false, true], "{commands:#?}");
}
