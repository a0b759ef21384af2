//! What the engine promises, on a real Redis server.

use std::pin::pin;
use std::time::{Duration, Instant};

use lock_conformance::poll_once;
use lock_runtime::backend::{Backend, Claim, LockKey, OwnerToken};
use lock_runtime::redis::RedisBackend;
use lock_runtime::{LockError, LockGuard, LockRuntime};
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::{owner, queued};
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::task::JoinHandle;

use super::annotated::{end, runtime, when_held};

/// A claim in the queue of `k` that will never look at what it is sent. Dropping the backend ends
/// its subscription.
async fn dead(server: &Server, grace: Duration) -> (RedisBackend, Claim) {
    let backend = lock_tests::redis_store::connect(server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("dead"), Duration::from_secs(30)).queued();
    claim.grace = grace;
    backend.acquire(&claim).await.unwrap();
    (backend, claim)
}

/// Every hand-over by Redis, and leases far longer than a grace.
async fn remote(server: &Server) -> LockRuntime {
    let builder = LockRuntime::redis(server.url()).local_passes(0);
    builder
        .default_ttl(Duration::from_secs(30))
        .build()
        .await
        .unwrap()
}

/// Ends `held`, upon which the dead claim is the owner, and returns how long it stays that.
async fn costs(
    server: &Server,
    held: LockGuard,
    dead: &Claim,
    waiting: JoinHandle<Result<(), LockError>>,
) -> Duration {
    held.release().await.unwrap();
    let owner = owner(server, "k").unwrap();
    assert_eq!(owner, dead.owner.as_str(), "it was not handed the lock");
    let released = Instant::now();
    waiting.await.unwrap().unwrap();
    let waited = released.elapsed();
    assert!(waited >= dead.grace / 2, "{waited:?}: that was no grace");
    waited
}

/// W7: whoever dies as it is handed the lock tells nobody, and the next has heard only of the lease
/// before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_dies_as_it_is_handed_the_lock_costs_the_grace() {
    let server = Server::start();
    let (first, last) = (remote(&server).await, remote(&server).await);
    let held = first.lock("k").acquire().await.unwrap();
    let (_subscribed, dead) = dead(&server, Duration::from_millis(300)).await;
    let waiting = tokio::spawn(async move { last.lock("k").acquire().await.map(drop) });
    queued(&server, "k", 2).await;
    let waited = costs(&server, held, &dead, waiting).await;
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

/// News go by another connection than answers, so they may be there first.
#[tokio::test]
async fn news_that_come_before_the_answer_are_heard() {
    let server = Server::start();
    let (first, last) = (remote(&server).await, remote(&server).await);
    let held = first.lock("k").acquire().await.unwrap();
    let (_subscribed, dead) = dead(&server, Duration::from_millis(300)).await;
    let mut waiting = pin!(last.lock("k").wait(Duration::from_secs(5)).acquire());
    // It asks, and is not polled when the answer comes.
    assert!(poll_once(waiting.as_mut()).is_pending());
    queued(&server, "k", 2).await;
    held.release().await.unwrap();
    assert_eq!(owner(&server, "k").unwrap(), dead.owner.as_str());
    // The news are there: whoever they were for would have been told.
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.await.unwrap().release().await.unwrap();
}

/// W7: who releases and waits again looks after the one that was served, and the next is told
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_dies_behind_one_who_waits_again_costs_the_grace() {
    let server = Server::start();
    let (first, last) = (remote(&server).await, remote(&server).await);
    let held = first.lock("k").acquire().await.unwrap();
    let mut again = Box::pin(first.lock("k").acquire());
    assert!(poll_once(again.as_mut()).is_pending());
    let again = tokio::spawn(async move { again.await.map(drop) });
    let (_subscribed, dead) = dead(&server, Duration::from_millis(300)).await;
    let waiting = tokio::spawn(async move { last.lock("k").acquire().await.map(drop) });
    queued(&server, "k", 2).await;
    let waited = costs(&server, held, &dead, waiting).await;
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    again.await.unwrap().unwrap();
}

/// W7: the same, but who waited again gives up before the grace is over: then the next is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_dies_behind_one_who_gives_up_costs_the_grace() {
    let server = Server::start();
    let (first, last) = (remote(&server).await, remote(&server).await);
    let held = first.lock("k").acquire().await.unwrap();
    let wait = Duration::from_millis(700);
    let mut again = Box::pin(first.lock("k").wait(wait).acquire());
    assert!(poll_once(again.as_mut()).is_pending());
    let again = tokio::spawn(async move { again.await.map(drop) });
    let (_subscribed, dead) = dead(&server, 2 * wait).await;
    let waiting = tokio::spawn(async move { last.lock("k").acquire().await.map(drop) });
    queued(&server, "k", 2).await;
    let waited = costs(&server, held, &dead, waiting).await;
    assert!(again.await.unwrap().unwrap_err().is_timeout());
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn an_uncontended_call_sends_two_commands() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let monitor = server.monitor();
    when_held(&locks).await.unwrap();
    let commands = monitor.commands(&server);
    assert_eq!(commands.len(), 2, "{commands:#?}");
    assert!(
        commands.iter().all(|line| line.contains("\"EVALSHA\"")),
        "{commands:#?}"
    );
    end(server, &[&locks]).await;
}

#[tokio::test]
async fn a_process_that_releases_wakes_the_waiter_of_another() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let mut holder = Process::start(env!("CARGO_BIN_EXE_holder"), &server.url()).await;
    token(&holder.ask("acquire k 60000 30000").await);
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { when_held(&locks).await }
    });
    queued(&server, "k", 1).await;
    assert!(!waiter.is_finished());
    let released_at = Instant::now();
    assert_eq!(holder.ask("release").await, "released");
    let waited = waiter
        .await
        .unwrap()
        .unwrap()
        .saturating_duration_since(released_at);
    // A poll would come after the ttl, or after ten seconds.
    assert!(waited < ms(5000), "the waiter ran only after {waited:?}");
    end(server, &[&locks]).await;
}
