//! N3: a peer that is half open, half closed or does not read.

use super::*;

#[tokio::test]
async fn a_peer_that_stops_reading_is_replaced() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::StopReading);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    assert!(
        proxy.log().iter().any(|command| command.connection > 0),
        "no new connection"
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_half_closed_connection_is_replaced() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::HalfClose);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_dead_idle_connection_does_not_make_a_waiter_wait_longer_than_its_heartbeat() {
    let (server, proxy, waiting) = start().await;
    let holding = locks(server.url()).await;
    let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;

    // The message of the hand-over is on its way when the network goes dark for good.
    proxy.partition(Way::Down);
    holder.release().await.unwrap();
    assert_ne!(owner(&server, "k"), None, "nothing was handed over");
    proxy.cut();
    proxy.heal();
    let guard = waiter.await.unwrap().unwrap();
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
