//! R15: the clock jumps ahead.

use super::*;

#[tokio::test]
async fn a_clock_that_jumps_ahead_is_fenced() {
    let (clock, store) = (Clock::new(), Server::start());
    let resource = Resource::in_redis(&store);
    let server = clock.server().start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one
        .lock("k")
        .ttl(ms(55_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    let before: Vec<u64> = server.run(&["TIME"]);
    clock.shift(60);
    let after: Vec<u64> = server.run(&["TIME"]);
    assert!(after[0] >= before[0] + 60, "the clock did not move");

    let fresh = two.lock("k").acquire().await.unwrap();
    assert!(
        stale.is_held(),
        "two hold it, which is why there are fences"
    );
    assert_fenced(&resource, &stale, &fresh).await;
    assert!(stale.release().await.unwrap_err().is_lost());
    fresh.release().await.unwrap();
    nothing_left(&server).await;
}
