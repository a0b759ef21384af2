//! N6: acquire takes a ttl.

use super::*;

#[tokio::test]
async fn an_acquire_that_takes_a_ttl_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.lag(ms(110));
    let outcome = locks.lock("k").ttl(ms(200)).wait(ms(1500)).acquire().await;
    assert!(
        outcome.is_err(),
        "a lease was believed that had ended: {outcome:?}"
    );
    eventually("it asked", || proxy.seen("acquire") > 0).await;

    proxy.heal();
    free(&server, "k").await;
    can_be_had(&locks, "k").await;
}
