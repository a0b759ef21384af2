//! A server that is gone for a while.

use std::time::Instant;

use lock_runtime::LockError;
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::time::sleep;

use super::annotated::{DEADLINE, end, hold, is_held, runtime, when_held};

#[tokio::test]
async fn a_server_that_dies_costs_the_lock_and_one_that_is_back_gives_it_again() {
    let mut server = Server::start();
    let locks = runtime(&server).await;

    let body = tokio::spawn({
        let locks = locks.clone();
        async move { (hold(&locks, 2 * DEADLINE).await, Instant::now()) }
    });
    is_held(&server).await;
    sleep(ms(4000)).await;
    assert!(!body.is_finished(), "it is renewed while the server lives");
    server.kill();
    let killed_at = Instant::now();
    let (outcome, ended_at) = body.await.unwrap();
    assert!(
        outcome.as_ref().is_err_and(LockError::is_lost),
        "{outcome:?}"
    );
    // No lease reaches further than the ttl of its last renewal; the rest is for a busy machine.
    let ended_after = ended_at - killed_at;
    assert!(
        ended_after < ms(2000) + ms(5000),
        "the body went on for {ended_after:?}"
    );

    let called_at = Instant::now();
    let down = locks.lock("k").wait(ms(500)).acquire().await.unwrap_err();
    assert!(down.is_unavailable() && !down.is_taken(), "{down:?}");
    assert!(called_at.elapsed() < ms(5500), "{:?}", called_at.elapsed());

    server.restart();
    when_held(&locks).await.unwrap();
    end(server, &[&locks]).await;
}
