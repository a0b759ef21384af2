//! P6: renewals cause renewals.

use super::*;

#[tokio::test]
async fn renewals_do_not_feed_themselves() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(4000)).acquire().await.unwrap();
    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    let started = Instant::now();
    sleep(ms(4000)).await;
    let renewals = statistic(&server, "evalsha", "calls").unwrap();
    // A tenth of the ttl, up to a quarter early.
    let most = started.elapsed().as_secs_f64() / 0.3 + 5.0;
    assert!(
        (1.0..=most).contains(&renewals),
        "{renewals} renewals in a ttl"
    );
    guard.release().await.unwrap();
}
