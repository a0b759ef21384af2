//! Leases that go together, as they are in Redis.

use std::time::Duration;

use lock_runtime::backend::{
    Acquired, Backend, Claim, Grant, LockKey, Mode, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_tests::causes;
use lock_tests::faults::{eventually, listeners};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;

const TTL: Duration = Duration::from_secs(30);
const LOCK: &str = "lock:k";
const HOLDERS: &str = "{lock:k}:holders";
const QUEUE: &str = "{lock:k}:waiters";

/// A claim of this mode, which waits.
fn claim(mode: Mode) -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("test"), TTL).queued();
    claim.mode = mode;
    claim
}

const PERMITS: Mode = Mode::Permits { take: 1, of: 3 };
const SHARDS: Mode = Mode::Shard {
    of: 3,
    prefer: 0,
    except: 0,
};

/// A claim that was granted.
struct Lease(Claim, Grant);

async fn granted(backend: &RedisBackend, claim: Claim) -> Lease {
    match backend.acquire(&claim).await.unwrap() {
        Acquired::Granted(grant) => Lease(claim, grant),
        other => panic!("{other:?}"),
    }
}

async fn renew(backend: &RedisBackend, Lease(claim, grant): &Lease) -> Renewed {
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    renewal.mode = claim.mode;
    renewal.shard = grant.shard;
    backend.renew(&[renewal]).await.remove(0).unwrap()
}

async fn release(backend: &RedisBackend, Lease(claim, grant): &Lease) -> Released {
    let mut release = Release::new(claim.key.clone(), claim.owner.clone());
    release.mode = claim.mode;
    release.shard = grant.shard;
    backend.release(&release).await.unwrap()
}

fn is_held(answer: Renewed) -> bool {
    matches!(answer, Renewed::Held(_))
}

#[tokio::test]
async fn other_libraries_see_that_a_shared_lock_is_taken_and_free_nothing() {
    let server = Server::start();
    let backend = connect(&server).await;
    for mode in [Mode::Shared, PERMITS, SHARDS] {
        let one = granted(&backend, claim(mode)).await;
        let other = granted(&backend, claim(mode)).await;
        let set: Option<String> = server.run(&["SET", LOCK, "theirs", "NX", "PX", "1000"]);
        assert_eq!(set, None);
        let kind: String = server.run(&["TYPE", LOCK]);
        assert_eq!(kind, "string");
        let theirs = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                      return redis.call('DEL', KEYS[1]) end return 0";
        let freed: i64 = server.run(&["EVAL", theirs, "1", LOCK, "theirs"]);
        assert_eq!(freed, 0);
        for lease in [&one, &other] {
            assert!(is_held(renew(&backend, lease).await));
            assert_eq!(release(&backend, lease).await, Released::Released(None));
        }
        let set: Option<String> = server.run(&["SET", LOCK, "theirs", "NX", "PX", "60000"]);
        assert_eq!(
            set.as_deref(),
            Some("OK"),
            "they have it as soon as it is free"
        );
        let answer = backend.acquire(&claim(mode)).await.unwrap();
        assert!(matches!(answer, Acquired::Queued(holder) if holder.foreign));
        let freed: i64 = server.run(&["EVAL", theirs, "1", LOCK, "theirs"]);
        assert_eq!(freed, 1);
        server.run::<()>(&["DEL", QUEUE]);
    }
    server.finish();
}

#[tokio::test]
async fn every_key_of_a_shared_lock_has_an_end_and_none_is_left() {
    let server = Server::start();
    let backend = connect(&server).await;
    for mode in [Mode::Shared, PERMITS, SHARDS] {
        let one = granted(&backend, claim(mode)).await;
        let two = granted(&backend, claim(mode)).await;
        let writer = claim(Mode::Exclusive);
        assert!(matches!(
            backend.acquire(&writer).await.unwrap(),
            Acquired::Queued(_)
        ));
        for key in [LOCK, HOLDERS, QUEUE] {
            let ends: i64 = server.run(&["PTTL", key]);
            assert!(ends > 0, "{key}: {ends}");
        }
        backend.abandon(&writer).await.unwrap();
        assert_eq!(release(&backend, &one).await, Released::Released(None));
        assert_eq!(release(&backend, &two).await, Released::Released(None));
        let left: i64 = server.run(&["EXISTS", LOCK, HOLDERS, QUEUE]);
        assert_eq!(left, 0);
    }
    server.finish();
}

#[tokio::test]
async fn leases_whose_marker_is_lost_are_lost_and_do_not_come_back() {
    let server = Server::start();
    let backend = connect(&server).await;
    for mode in [Mode::Shared, PERMITS, SHARDS] {
        let old = granted(&backend, claim(mode)).await;
        let lost: i64 = server.run(&["DEL", LOCK]);
        assert_eq!(lost, 1);
        let left: i64 = server.run(&["EXISTS", HOLDERS]);
        assert_eq!(left, 1);
        assert!(!is_held(renew(&backend, &old).await));
        // The next marker of the kind is no marker of theirs.
        let new = granted(&backend, claim(mode)).await;
        assert_eq!(new.1.shard, old.1.shard);
        assert!(!is_held(renew(&backend, &old).await));
        assert!(is_held(renew(&backend, &new).await));
        assert_eq!(release(&backend, &old).await, Released::NotHeld);
        release(&backend, &new).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_lease_that_lives_longest_is_what_the_marker_lives_for() {
    let server = Server::start();
    let backend = connect(&server).await;
    let mut long = claim(PERMITS);
    long.ttl = TTL * 10;
    let short = granted(&backend, claim(PERMITS)).await;
    let long = granted(&backend, long).await;
    assert!(is_held(renew(&backend, &short).await));
    let ends: i64 = server.run(&["PTTL", LOCK]);
    assert!(ends > 200_000, "{ends}");
    release(&backend, &long).await;
    let ends: i64 = server.run(&["PTTL", LOCK]);
    assert!(ends > 0 && ends <= 30_000, "{ends}");
    server.finish();
}

#[tokio::test]
async fn something_else_where_the_leases_should_be_is_refused_by_name() {
    let server = Server::start();
    let backend = connect(&server).await;
    granted(&backend, claim(Mode::Shared)).await;
    let () = server.run(&["SET", HOLDERS, "something else"]);
    let error = backend.acquire(&claim(Mode::Shared)).await.unwrap_err();
    assert!(error.is_denied());
    let text = causes(&error);
    assert!(text.contains(HOLDERS), "{text}");
    server.forgive(HOLDERS);
    server.finish();
}

/// A waiter whose process is gone is passed over, whatever it wanted.
#[tokio::test]
async fn a_waiter_that_is_gone_is_passed_over_by_all_kinds() {
    let server = Server::start();
    let (backend, gone) = (connect(&server).await, connect(&server).await);
    let holder = granted(&backend, claim(Mode::Exclusive)).await;
    for _ in 0..20 {
        let dead = claim(Mode::Shared);
        assert!(matches!(
            gone.acquire(&dead).await.unwrap(),
            Acquired::Queued(_)
        ));
    }
    let waiting = claim(PERMITS);
    assert!(matches!(
        backend.acquire(&waiting).await.unwrap(),
        Acquired::Queued(_)
    ));
    gone.close().await;
    drop(gone);
    let are_gone = || {
        listeners(&server, "k")
            .iter()
            .take(20)
            .all(|heard| *heard == 0)
    };
    eventually("nobody listens for them", are_gone).await;
    // More than one call passes over.
    release(&backend, &holder).await;
    granted(&backend, waiting).await;
    let left: i64 = server.run(&["EXISTS", QUEUE]);
    assert_eq!(left, 0);
    server.finish();
}

/// Whoever is first and gone keeps nobody from what there is, even if there is nothing for it.
#[tokio::test]
async fn a_waiter_that_is_gone_keeps_nobody_from_a_lease_that_fits() {
    const ALL: Mode = Mode::Permits { take: 3, of: 3 };
    for (there, gone_wants) in [(Mode::Shared, Mode::Exclusive), (PERMITS, ALL)] {
        let server = Server::start();
        let (backend, gone) = (connect(&server).await, connect(&server).await);
        let holder = granted(&backend, claim(there)).await;
        let dead = gone.acquire(&claim(gone_wants)).await.unwrap();
        assert!(matches!(dead, Acquired::Queued(_)));
        // The control: as long as it is there, nobody passes it.
        let waiting = claim(there);
        let behind = backend.acquire(&waiting).await.unwrap();
        assert!(matches!(behind, Acquired::Queued(_)), "{behind:?}");
        backend.abandon(&waiting).await.unwrap();
        gone.close().await;
        drop(gone);
        let is_gone = || listeners(&server, "k").first() == Some(&0);
        eventually("nobody listens for it", is_gone).await;
        let second = granted(&backend, claim(there)).await;
        for lease in [&holder, &second] {
            release(&backend, lease).await;
        }
        let left: i64 = server.run(&["EXISTS", LOCK, HOLDERS, QUEUE]);
        assert_eq!(left, 0);
        server.finish();
    }
}

/// Of leases that ended by themselves no more is left than of those that there are.
#[tokio::test]
async fn what_ended_by_itself_does_not_pile_up_beside_what_lives() {
    let server = Server::start();
    let backend = connect(&server).await;
    let (one, four) = (
        Mode::Permits { take: 1, of: 9 },
        Mode::Permits { take: 4, of: 9 },
    );
    granted(&backend, claim(one)).await;
    for _ in 0..100 {
        let mut short = claim(four);
        short.ttl = Duration::from_millis(40);
        // It waits until one of those before it has ended.
        let begun = std::time::Instant::now();
        while !matches!(backend.acquire(&short).await.unwrap(), Acquired::Granted(_)) {
            assert!(begun.elapsed() < TTL, "there is nothing for it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let members: i64 = server.run(&["ZCARD", HOLDERS]);
    assert!(members <= 17, "{members}");
    server.finish();
}
