//! W13: no wait, an endless wait.

use super::*;

#[tokio::test]
async fn no_wait_is_too_short_or_too_long() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    for wait in [Duration::ZERO, Duration::from_nanos(1), ms(3)] {
        let held = one.lock("k").acquire().await.unwrap();
        let started = Instant::now();
        let error = two.lock("k").wait(wait).acquire().await.unwrap_err();
        assert!(error.is_retryable(), "{wait:?}: {error}");
        assert!(error.is_taken() == wait.is_zero(), "{wait:?}: {error}");
        assert!(started.elapsed() < ms(100) + SLACK, "{wait:?}");
        held.release().await.unwrap();
    }
    let endless = [
        Duration::MAX,
        Duration::from_millis(u64::MAX),
        Duration::from_secs(1 << 62),
    ];
    for wait in endless {
        let held = one.lock("k").acquire().await.unwrap();
        let waiter = tokio::spawn(two.lock("k").wait(wait).acquire());
        queued(&server, "k", 1).await;
        held.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
    nothing_left(&server).await;
}
