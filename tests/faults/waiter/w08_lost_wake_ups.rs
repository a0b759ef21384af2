//! W8: a wake-up is lost; its connection is killed or its buffer full.

use super::*;

#[tokio::test]
async fn a_message_that_gets_lost_costs_a_heartbeat() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    proxy.fault("push", Fault::LosePush);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(proxy.faults(), 1);
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_wake_up_connection_that_is_killed_is_replaced() {
    let server = Server::start();
    let holding = locks(server.url()).await;
    let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    // Nor does a heartbeat help.
    let waiting = builder(server.url()).heartbeat(2 * DEADLINE).build().await;
    let waiter = tokio::spawn(waiting.unwrap().lock("k").acquire());
    queued(&server, "k", 1).await;
    let killed: usize = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(killed >= 2, "{killed}");
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() < Duration::from_secs(1) + SLACK);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_client_that_the_server_drops_for_its_full_buffer_comes_back() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut process = Process::start(HOLDER, &server.url()).await;
    process.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let channel = |name: &str| name.starts_with("lock:");
    let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS"]);
    assert!(channels.len() >= 2, "{channels:?}");
    process.pause().await;
    let noise = "x".repeat(1 << 20);
    let full = || listeners(&server, "k") == [0];
    for _ in 0..200 {
        for name in channels.iter().filter(|name| channel(name)) {
            // The holder here takes no harm from nonsense on its channel.
            server.run::<()>(&["PUBLISH", name, &noise]);
        }
        if full() {
            break;
        }
    }
    assert!(full(), "the server drops nobody");
    process.resume();
    holder.release().await.unwrap();
    token(&process.hear().await);
    assert_eq!(process.ask("release").await, "released");
    nothing_left(&server).await;
}
