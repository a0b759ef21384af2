//! R16: the clock is set back.

use super::*;

#[tokio::test]
async fn a_clock_that_is_set_back_is_safe_and_its_fences_go_on() {
    let clock = Clock::new();
    let server = clock.server().start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let first = one.lock("k").ttl(ms(10_000)).acquire().await.unwrap();
    clock.shift(-240);
    assert!(
        remaining(&server, "k").unwrap() > ms(100_000),
        "the clock did not move"
    );
    assert!(two.lock("k").try_acquire().await.unwrap().is_none());
    // The holder renews as ever, and its release needs no clock.
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() <= ms(10_000)
    })
    .await;
    let token = first.fencing_token();
    first.release().await.unwrap();
    let mut last = token;
    for _ in 0..5 {
        let next = two.lock("k").acquire().await.unwrap();
        assert!(next.fencing_token() > last);
        last = next.fencing_token();
        next.release().await.unwrap();
    }
    nothing_left(&server).await;
}
