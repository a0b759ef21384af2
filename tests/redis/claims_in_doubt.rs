//! Claims of which a question had no answer, and may still be on its way.

use std::time::Duration;

use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_tests::faults::proxy::{Fault, Proxy};
use lock_tests::faults::{builder, eventually, locks, owner, queued, start};
use lock_tests::ms;
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(60);

fn claim(name: &str) -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    Claim::new(key, OwnerToken::unique(name), TTL).queued()
}

/// Clause 9: an acquire that comes late undoes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_comes_late_gives_no_held_lock_away() {
    let (server, proxy, slow) = start().await;
    let other = locks(server.url()).await;
    proxy.fault("acquire", Fault::Hold);
    let held = slow.lock("k").ttl(TTL).acquire().await.unwrap();
    let holder = owner(&server, "k");
    let waiting = tokio::spawn(async move { other.lock("k").wait(TTL).acquire().await });
    queued(&server, "k", 1).await;
    proxy.let_go(1).await;
    for _ in 0..100 {
        assert!(held.is_held());
        assert_eq!(owner(&server, "k"), holder);
        sleep(ms(5)).await;
    }
    held.release().await.unwrap();
    drop(waiting.await.unwrap().unwrap());
}

/// The poll of a waiter, and the news that it has the lock, cross each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_waiter_in_doubt_whose_poll_crosses_its_hand_over_keeps_the_lock() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    // Long enough that the news are not confirmed by a question first.
    let patient = builder(proxy.url()).grace(Duration::from_secs(30));
    let slow = patient.build().await.unwrap();
    let (first, third) = (locks(server.url()).await, locks(server.url()).await);
    let held = first.lock("k").ttl(TTL).acquire().await.unwrap();
    proxy.fault("acquire", Fault::CutAnswer);
    let one = tokio::spawn(async move { slow.lock("k").ttl(TTL).wait(TTL).acquire().await });
    eventually("it asks again", || proxy.seen("acquire") >= 2).await;
    queued(&server, "k", 1).await;
    let mut two = tokio::spawn(async move { third.lock("k").ttl(TTL).wait(TTL).acquire().await });
    queued(&server, "k", 2).await;
    let faults = proxy.faults();
    proxy.fault("acquire", Fault::Delay(ms(300)));
    eventually("it polls", || proxy.faults() > faults).await;
    held.release().await.unwrap();
    let one = one.await.unwrap().unwrap();
    let both = timeout(ms(1500), &mut two).await;
    assert!(both.is_err(), "two have the lock");
    assert!(one.is_held());
    one.release().await.unwrap();
    two.await.unwrap().unwrap().release().await.unwrap();
}

/// Clauses 3 and 6.
#[tokio::test]
async fn a_claim_in_doubt_that_has_been_granted_is_granted_again() {
    for by_hand_over in [false, true] {
        let server = Server::start();
        let backend = connect(&server).await;
        let (first, mut one, two) = (claim("first"), claim("one"), claim("two"));
        // As after a question that was not answered.
        one.in_doubt = true;
        if by_hand_over {
            backend.acquire(&first).await.unwrap();
        }
        backend.acquire(&one).await.unwrap();
        backend.acquire(&two).await.unwrap();
        if by_hand_over {
            let release = Release::new(first.key.clone(), first.owner.clone());
            backend.release(&release).await.unwrap();
        }
        assert_eq!(owner(&server, "k").as_deref(), Some(one.owner.as_str()));
        let answer = backend.acquire(&one).await.unwrap();
        assert!(
            matches!(answer, Acquired::Granted(_)),
            "by hand-over: {by_hand_over}, {answer:?}"
        );
    }
}
