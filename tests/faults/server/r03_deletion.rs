//! R3: FLUSHALL, FLUSHDB, DEL.

use super::*;

#[tokio::test]
async fn a_lock_that_was_deleted_is_lost_and_never_made_again() {
    for command in [&["FLUSHALL"][..], &["FLUSHDB"], &["DEL", "lock:k"]] {
        let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
        let resource = Resource::in_sqlite(directory.path());
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let stale = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
        assert_eq!(write(&resource, &stale).await, Write::Accepted);
        server.run::<()>(command);
        let deleted = Instant::now();
        stale.lost().await;
        // A tenth of the ttl is the period of the renewals; the ttl itself is longer still.
        assert!(
            deleted.elapsed() < ms(2000) + SLACK,
            "{:?}",
            deleted.elapsed()
        );
        assert_eq!(owner(&server, "k"), None, "the renewal made it again");
        let fresh = two.lock("k").acquire().await.unwrap();
        assert_fenced(&resource, &stale, &fresh).await;
        assert!(stale.release().await.unwrap_err().is_lost());
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(fresh.owner_token().as_str())
        );
    }
}

#[tokio::test]
async fn a_body_whose_lock_was_deleted_does_not_end_well() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let ran = locks.lock("k").ttl(ms(4000)).run(async |_| {
        server.run::<()>(&["DEL", "lock:k"]);
        sleep(2 * DEADLINE).await;
    });
    let error = timeout(DEADLINE, ran).await.unwrap().unwrap_err();
    assert!(error.is_lost(), "{error}");

    // One that ends before the next renewal learns of it by its release.
    let ran = locks.lock("k").ttl(ms(120_000)).run(async |_| {
        server.run::<()>(&["DEL", "lock:k"]);
    });
    assert!(ran.await.unwrap_err().is_lost());
}
