//! H3: the holder is stopped for less than its lease.

use super::*;

#[tokio::test]
async fn a_holder_that_was_stopped_for_less_than_its_lease_keeps_it() {
    let server = Server::start();
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    token(&stopped.ask("acquire k 20000 30000").await);
    stopped.pause().await;
    sleep(ms(2500)).await;
    assert!(
        remaining(&server, "k").unwrap() < ms(17_600),
        "it was renewed while it was stopped"
    );
    stopped.resume();
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() > ms(18_500)
    })
    .await;
    assert_eq!(stopped.ask("state").await, "held");
    assert_eq!(stopped.ask("release").await, "released");
    nothing_left(&server).await;
}
