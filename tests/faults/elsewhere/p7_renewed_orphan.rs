//! P7: an acquire interrupted in flight is renewed for ever.

use super::*;

#[tokio::test]
async fn an_acquire_that_was_interrupted_in_flight_is_not_renewed_for_ever() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = locks(proxy.url()).await;
    for delay in 0..20 {
        let acquiring = tokio::spawn(locks.lock("k").ttl(ms(4000)).acquire());
        sleep(Duration::from_micros(delay * 100)).await;
        acquiring.abort();
        let _ = acquiring.await;
        free(&server, "k").await;
    }
    assert!(proxy.seen("acquire") > 0, "nothing was in flight");
    let renewals = proxy.seen("renew");
    sleep(ms(2000)).await;
    assert_eq!(
        proxy.seen("renew"),
        renewals,
        "somebody renews what nobody holds"
    );
    assert_eq!((owner(&server, "k"), waiters(&server, "k")), (None, 0));
    can_be_had(&locks, "k").await;
}
