//! What a lock promises that is taken without a script, on a real server.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lock_protocol::draws::BELIEVED_FOR;
use lock_runtime::FencingToken;
use lock_runtime::backend::{Acquired, Backend, Claim, FenceBlock, LockKey, OwnerToken, Release};
use lock_runtime::redis::RedisBackend;
use lock_tests::redis_store::connect;
use lock_tests::server::Server;

const TTL: Duration = Duration::from_secs(30);
const LOCK: &str = "lock:k";
const COUNTER: &str = "{lock:}:26:counter";

/// A server, and a process that uses it.
struct Fixture {
    server: Server,
    backend: RedisBackend,
}

impl Fixture {
    async fn start() -> Fixture {
        let server = Server::start();
        let backend = connect(&server).await;
        Fixture { server, backend }
    }

    fn claim(&self) -> Claim {
        let key = LockKey::new("lock:", "k").unwrap();
        Claim::new(key, OwnerToken::unique("test"), TTL)
    }

    fn waiter(&self) -> Claim {
        let mut claim = self.claim().queued();
        claim.grace = Duration::from_secs(5);
        claim
    }

    async fn granted(&self, claim: &Claim) -> FenceBlock {
        match self.backend.acquire(claim).await.unwrap() {
            Acquired::Granted(grant) => grant.tokens,
            other => panic!("{other:?}"),
        }
    }

    async fn queued(&self, claim: &Claim) {
        let answer = self.backend.acquire(claim).await.unwrap();
        assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
    }

    async fn release(&self, claim: &Claim) {
        let release = Release::new(claim.key.clone(), claim.owner.clone());
        self.backend.release(&release).await.unwrap();
    }

    fn owner(&self) -> Option<String> {
        self.server.run(&["GET", LOCK])
    }

    fn counter(&self) -> u64 {
        self.server.run(&["GET", COUNTER])
    }
}

/// A claim for one, for which a script has just looked at the counter, on the connection by which
/// the claim will ask.
async fn looked(it: &Fixture) -> Claim {
    let pair = async || {
        let claim = it.claim();
        it.granted(&claim).await;
        it.release(&claim).await;
    };
    // The connection of this tokio runtime is there when the first goes without a script.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !it
        .server
        .run::<String>(&["INFO", "commandstats"])
        .contains("cmdstat_multi")
    {
        assert!(Instant::now() < deadline, "every lock is taken by a script");
        pair().await;
    }
    tokio::time::sleep(BELIEVED_FOR).await;
    pair().await;
    it.claim()
}

#[tokio::test]
async fn a_free_lock_is_taken_without_a_script_once_a_script_has_looked_at_the_counter() {
    let it = Fixture::start().await;
    let claim = looked(&it).await;
    let monitor = it.server.monitor();
    let before = it.counter();
    let tokens = it.granted(&claim).await;
    assert_eq!(
        (tokens.first, tokens.last),
        (FencingToken::new(before + 1), FencingToken::new(before + 1))
    );
    assert_eq!(it.counter(), before + 1);
    assert_eq!(it.owner().as_deref(), Some(claim.owner.as_str()));
    let ttl: u64 = it.server.run(&["PTTL", LOCK]);
    assert!((15_000..=30_000).contains(&ttl), "{ttl} ms");
    let commands = monitor.commands(&it.server);
    let named = |name: &str| {
        let quoted = format!("\"{name}\"");
        commands
            .iter()
            .filter(|line| line.contains(&quoted))
            .count()
    };
    assert_eq!((named("MULTI"), named("EXEC")), (1, 1), "{commands:#?}");

    // Whoever finds it taken asks the script, and the next asks that at once.
    let (second, third) = (it.waiter(), it.waiter());
    it.queued(&second).await;
    it.queued(&third).await;
    let commands = monitor.commands(&it.server);
    let multi = commands
        .iter()
        .filter(|line| line.contains("\"MULTI\""))
        .count();
    assert_eq!(multi, 2, "{commands:#?}");
}

/// Each way in which a counter may be another than the one that was looked at.
#[tokio::test]
async fn a_token_of_a_counter_that_was_lost_is_not_believed() {
    for loss in [
        &["DEL", COUNTER][..],
        &["FLUSHALL"],
        &["SET", COUNTER, "17"],
        &["SWAPDB", "0", "1"],
    ] {
        let it = Fixture::start().await;
        let claim = looked(&it).await;
        let before = it.counter();
        it.server.run::<()>(loss);
        let tokens = it.granted(&claim).await;
        assert!(
            tokens.first.as_u64() > before,
            "{loss:?}: {tokens:?} after {before}"
        );
        assert_eq!(
            it.owner().as_deref(),
            Some(claim.owner.as_str()),
            "{loss:?}"
        );
    }
}

#[tokio::test]
async fn a_counter_is_believed_for_a_moment_only() {
    let it = Fixture::start().await;
    let claim = looked(&it).await;
    tokio::time::sleep(BELIEVED_FOR).await;
    let before = it.counter();
    // A script looks at the time again, which has gone on by more than one.
    assert!(it.granted(&claim).await.last.as_u64() > before + 1);
}

#[tokio::test]
async fn a_counter_that_holds_something_else_is_an_error_and_leaves_no_lock() {
    let it = Fixture::start().await;
    let claim = looked(&it).await;
    it.server.run::<()>(&["SET", COUNTER, "something"]);
    it.server.forgive(COUNTER);
    let error = it.backend.acquire(&claim).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert_eq!(it.owner(), None);
}

#[tokio::test]
async fn a_lock_that_is_taken_unseen_goes_to_whoever_waits() {
    let it = Fixture::start().await;
    let claim = looked(&it).await;
    // In another process, so that this one does not know of it.
    let other = connect(&it.server).await;
    let (holder, heir) = (it.claim(), it.waiter());
    other.acquire(&holder).await.unwrap();
    other.acquire(&heir).await.unwrap();
    // The lease ends without a release.
    it.server.run::<()>(&["DEL", LOCK]);
    let answer = it.backend.acquire(&claim).await.unwrap();
    assert!(matches!(answer, Acquired::Taken(_)), "{answer:?}");
    assert_eq!(it.owner().as_deref(), Some(heir.owner.as_str()));
}

/// A transaction of a claim that was withdrawn, which lay in a connection that was given up.
#[tokio::test]
async fn a_late_transaction_of_a_withdrawn_claim_keeps_the_lock_from_nobody() {
    let it = Fixture::start().await;
    let (mut gone, next) = (it.claim(), it.claim());
    gone.in_doubt = true;
    it.backend.abandon(&gone).await.unwrap();
    it.server
        .run::<()>(&["SET", LOCK, gone.owner.as_str(), "NX", "PX", "60000"]);
    it.granted(&next).await;
    assert_eq!(it.owner().as_deref(), Some(next.owner.as_str()));
}
