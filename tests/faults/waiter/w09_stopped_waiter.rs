//! W9: a waiter is stopped for longer than the grace.

use super::*;

#[tokio::test]
async fn a_stopped_waiter_does_not_believe_in_a_grace_that_has_passed() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut process = Process::start(HOLDER, &server.url()).await;
    process.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    process.pause().await;
    holder.release().await.unwrap();
    assert!(owner(&server, "k").is_some(), "not handed over");
    // The grace passes, and another takes the lock.
    let other = two.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    process.resume();
    queued(&server, "k", 1).await;
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(other.owner_token().as_str())
    );
    let token_of_other = other.fencing_token().as_u64();
    other.release().await.unwrap();
    assert!(token(&process.hear().await) > token_of_other);
    assert_eq!(process.ask("release").await, "released");
    nothing_left(&server).await;
}
