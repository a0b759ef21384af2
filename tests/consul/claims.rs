//! Claims on Consul: that they exclude each other, that all who wait are served, what is left of
//! those that have ended, and which tokens the next ones have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use lock_consul::{ConsulBackend, ConsulSettings};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::consul::Cluster;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::{can_be_had, eventually, is_taken};
use lock_tests::{ms, secs};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{DEADLINE, runtime};

#[distributed_lock(key = "counter", ttl = "5s", wait = "1m", runtime = locks)]
async fn count(locks: &LockRuntime, counter: &AtomicU32) -> Result<(), LockError> {
    let seen = counter.load(Ordering::SeqCst);
    sleep(ms(2)).await;
    counter.store(seen + 1, Ordering::SeqCst);
    Ok(())
}

/// The bodies of tasks of two runtimes do not meet: no update is lost.
#[tokio::test]
async fn annotated_functions_on_consul_run_one_at_a_time() {
    let cluster = Cluster::start();
    let counter = Arc::new(AtomicU32::new(0));
    let runtimes = [runtime(&cluster).await, runtime(&cluster).await];
    let mut tasks = JoinSet::new();
    for place in 0..40 {
        let (locks, counter) = (runtimes[place % 2].clone(), counter.clone());
        tasks.spawn(async move { count(&locks, &counter).await });
    }
    for outcome in tasks.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(counter.load(Ordering::SeqCst), 40);
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// What stands in a name is no place in the store, and none of what a path says.
#[tokio::test]
async fn names_of_every_kind_are_locks_of_their_own_on_consul() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let other = runtime(&cluster).await;
    let names = [
        "a",
        "a/b",
        "a%2Fb",
        "a//b",
        "../a",
        "a?b#c",
        "a b",
        "ä\u{1F512}",
        "a/.lock",
    ];
    for name in names {
        let guard = locks.lock(name).acquire().await.unwrap();
        assert!(is_taken(&other, name).await, "{name}");
        let waiting = tokio::spawn(other.lock(name).wait(DEADLINE).acquire());
        eventually("it waits", || {
            cluster.keys().iter().any(|key| key.contains("/.queue/"))
        })
        .await;
        guard.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// Claims that wait for more locks than there are long polls hear of their turns all the same, long
/// before they would ask by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn more_waiters_than_long_polls_are_all_served_on_consul() {
    const LOCKS: usize = 12;
    let cluster = Cluster::start();
    let holder = runtime(&cluster).await;
    for long_polls in [0, 2] {
        let mut settings = ConsulSettings::new(cluster.endpoints());
        settings.command_timeout = secs(4);
        settings.long_polls = long_polls;
        let backend = ConsulBackend::connect(settings).await.unwrap();
        let waiting = LockRuntime::backend(backend).heartbeat(10 * DEADLINE);
        let waiting = waiting.command_timeout(secs(4)).build().await.unwrap();
        let mut guards = Vec::new();
        let mut tasks = JoinSet::new();
        for lock in 0..LOCKS {
            let key = format!("{long_polls}:{lock}");
            guards.push(holder.lock(key.as_str()).acquire().await.unwrap());
            tasks.spawn(waiting.lock(key).wait(2 * DEADLINE).acquire());
        }
        eventually("all wait", || {
            let keys = cluster.keys();
            keys.iter().filter(|key| key.contains("/.queue/")).count() == LOCKS
        })
        .await;
        for guard in guards {
            guard.release().await.unwrap();
        }
        let served = tokio::time::timeout(DEADLINE, tasks.join_all())
            .await
            .unwrap();
        for guard in served {
            guard.unwrap().release().await.unwrap();
        }
    }
}

/// When the runtime has been shut down, nothing of it is in Consul.
#[tokio::test]
async fn a_shutdown_leaves_no_key_and_no_session_in_consul() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    for key in ["a", "b", "a"] {
        can_be_had(&locks, key).await;
    }
    assert!(
        !cluster.sessions().is_empty(),
        "a session is kept for the next claim"
    );
    locks.shutdown().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
    assert_eq!(cluster.sessions(), Vec::<String>::new());
}

/// A holder that is killed costs as much as its table says: the life of its session, and the ttl
/// once more. The next one has a larger token.
#[tokio::test]
async fn a_killed_process_frees_its_lock_on_consul_after_its_session_and_the_delay() {
    let cluster = Cluster::start();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 2000 5000").await);
    let locks = runtime(&cluster).await;
    assert!(is_taken(&locks, "k").await);
    process.kill();
    let died = Instant::now();
    let lock = locks.lock("k").ttl(secs(5)).wait(DEADLINE);
    let guard = lock.acquire().await.unwrap();
    assert!(
        died.elapsed() >= secs(2),
        "nobody has it before the delay is over"
    );
    let promised = locks.takeover_after(secs(2));
    assert_eq!(promised, ms(4_500));
    let slack = secs(5);
    assert!(died.elapsed() < promised + slack, "{:?}", died.elapsed());
    assert!(u64::from(guard.fencing_token()) > first);
}

/// After the change from a store with larger tokens.
#[tokio::test]
async fn tokens_of_consul_are_raised_by_the_floor() {
    let cluster = Cluster::start();
    let floor = 1_800_000_000_000_000;
    let locks = LockRuntime::consul(cluster.endpoints()).fence_floor(floor);
    let locks = locks.command_timeout(secs(4)).build().await.unwrap();
    let mut last = floor;
    for _ in 0..3 {
        let guard = locks.lock("k").acquire().await.unwrap();
        let token = u64::from(guard.fencing_token());
        assert!(token > last, "{token} after {last}");
        last = token;
        guard.release().await.unwrap();
    }
    assert!(last < 1 << 53);
}
