//! N5: one byte a second; half a ttl of delay.

use super::*;

#[tokio::test]
async fn one_byte_a_second_is_no_answer() {
    let (server, proxy, locks) = start().await;
    proxy.throttle(1);
    let started = Instant::now();
    let error = locks.lock("k").wait(ms(700)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < ms(700) + SLACK);

    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_round_trip_of_half_a_ttl_is_taken_off_the_lease() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = builder(proxy.url())
        .command_timeout(DEADLINE)
        .build()
        .await
        .unwrap();
    proxy.lag(ms(250));
    let started = Instant::now();
    let guard = locks
        .lock("k")
        .ttl(ms(20_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert!(started.elapsed() >= ms(500), "the network did not lag");
    assert!(guard.remaining() <= ms(19_500));
    assert!(guard.is_held());
    guard.release().await.unwrap();
}
