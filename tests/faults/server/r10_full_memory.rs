//! R10: the memory is full.

use super::*;

#[tokio::test]
async fn holders_renew_and_hand_over_while_the_memory_is_full() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(4000)).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("k").ttl(ms(4000)).acquire());
    queued(&server, "k", 1).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut client = server.client();
    let refused = redis::cmd("SET")
        .arg("x")
        .arg("y")
        .exec(&mut client)
        .unwrap_err();
    assert_eq!(refused.code(), Some("OOM"));

    let error = one.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    sleep(ms(4500)).await;
    assert!(held.is_held(), "it was not renewed");
    held.release().await.unwrap();
    let guard = timeout(DEADLINE, waiter)
        .await
        .expect("not handed over")
        .unwrap()
        .unwrap();
    sleep(ms(4500)).await;
    assert!(guard.is_held(), "it was not renewed");
    guard.release().await.unwrap();
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let guard = one.lock("new").acquire().await.unwrap();
    guard.release().await.unwrap();
}
