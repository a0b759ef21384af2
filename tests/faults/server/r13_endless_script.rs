//! R13: an endless script.

use super::*;

#[tokio::test]
async fn a_busy_server_is_asked_again_and_costs_no_lease() {
    let server = Options::default()
        .with(["--busy-reply-threshold", "20"])
        .start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    let mut endless = server.client();
    let blocked = std::thread::spawn(move || {
        redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .exec(&mut endless)
    });
    eventually("it is busy", || {
        redis::cmd("GET")
            .arg("x")
            .exec(&mut server.client())
            .is_err_and(|error| error.code() == Some("BUSY"))
    })
    .await;
    let error = two.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    sleep(ms(2500)).await;
    assert!(held.is_held());
    server.run::<()>(&["SCRIPT", "KILL"]);
    assert!(blocked.join().unwrap().is_err());
    let before = remaining(&server, "k").unwrap();
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() > before
    })
    .await;
    held.release().await.unwrap();
    can_be_had(&two, "new").await;
    nothing_left(&server).await;
}
