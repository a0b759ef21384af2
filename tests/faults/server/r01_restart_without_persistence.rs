//! R1: restart without persistence.

use super::*;

#[tokio::test]
async fn a_restart_without_persistence_is_fenced_and_recovered_from_within_a_second() {
    let _alone = alone().await;
    let (mut server, store) = (Server::start(), Server::start());
    let resource = Resource::in_redis(&store);
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one
        .lock("k")
        .ttl(ms(60_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.kill();
    server.restart();
    assert_eq!(owner(&server, "k"), None, "it forgot nothing");

    let restarted = Instant::now();
    let fresh = two.lock("k").acquire().await.unwrap();
    assert!(restarted.elapsed() < Duration::from_secs(1) + SLACK);
    assert_fenced(&resource, &stale, &fresh).await;
    assert!(stale.release().await.unwrap_err().is_lost());
    fresh.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_restart_ends_a_renewed_lease_with_a_loss_and_a_queue_with_a_new_one() {
    let mut server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 1).await;
    server.kill();
    server.restart();
    // Sooner than by the end of its lease.
    timeout(ms(15_000), held.lost())
        .await
        .expect("the holder is not told");
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.fencing_token() > held.fencing_token());
    guard.release().await.unwrap();
    drop(held);
    nothing_left(&server).await;
}
