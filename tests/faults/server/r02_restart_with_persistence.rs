//! R2: restart with an append-only file.

use super::*;

#[tokio::test]
async fn a_restart_with_an_append_only_file_keeps_the_lock() {
    for policy in ["always", "everysec"] {
        let options = Options::default();
        let mut server = options
            .with(["--appendonly", "yes", "--appendfsync", policy])
            .start();
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let held = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        server.kill();
        server.restart();
        loaded(&server).await;
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(held.owner_token().as_str())
        );
        assert!(two.lock("k").try_acquire().await.unwrap().is_none());
        assert!(held.is_held());
        held.release().await.unwrap();
        let next = two.lock("k").acquire().await.unwrap();
        next.release().await.unwrap();
        nothing_left(&server).await;
    }
}
