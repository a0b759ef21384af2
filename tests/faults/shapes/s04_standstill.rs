//! S4: the server stands still for longer than the leases live.

use super::*;

#[tokio::test]
async fn all_holders_are_told_before_a_server_that_stands_still_can_give_their_lock_away() {
    const TTL: Duration = ms(3000);
    let mut server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = hold_all([&one, &two], TTL, TTL / 10).await;
    assert!(held.iter().all(LockGuard::is_held));
    server.pause();
    let stopped = Instant::now();
    let claim = one.lock("new").shared().wait(ms(300)).acquire();
    let error = claim.await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    all_are_told(&held).await;
    assert!(stopped.elapsed() < TTL + SLACK, "{:?}", stopped.elapsed());
    server.resume();
    for part in Part::ALL {
        let all = two.lock(part.key()).acquire().await.unwrap();
        assert!(all.is_held());
        all.release().await.unwrap();
    }
    for guard in held {
        assert!(guard.release().await.unwrap_err().is_lost());
    }
    nothing_left(&server).await;
}
