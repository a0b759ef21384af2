//! What is left in etcd of claims that have ended, and which tokens the next ones have.

use lock_runtime::LockRuntime;
use lock_tests::etcd::Cluster;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::{can_be_had, is_taken};
use lock_tests::secs;

use super::{DEADLINE, runtime};

/// When the runtime has been shut down, nothing of it is in etcd.
#[tokio::test]
async fn a_shutdown_leaves_no_key_and_no_lease_in_etcd() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    for key in ["a", "b", "a"] {
        can_be_had(&locks, key).await;
    }
    assert!(
        !cluster.leases().is_empty(),
        "a lease is kept for the next claim"
    );
    locks.shutdown().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
    assert_eq!(cluster.leases(), Vec::<String>::new());
}

/// A holder that is killed costs its ttl, and the next one has a larger token.
#[tokio::test]
async fn a_killed_process_frees_its_lock_on_etcd_after_the_ttl() {
    let cluster = Cluster::start();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 2000 5000").await);
    let locks = runtime(&cluster).await;
    assert!(is_taken(&locks, "k").await);
    process.kill();
    let lock = locks.lock("k").ttl(secs(5)).wait(DEADLINE);
    let guard = lock.acquire().await.unwrap();
    assert!(u64::from(guard.fencing_token()) > first);
}

/// After the change from a store with larger tokens.
#[tokio::test]
async fn tokens_of_etcd_are_raised_by_the_floor() {
    let cluster = Cluster::start();
    let floor = 1_800_000_000_000_000;
    let locks = LockRuntime::etcd(cluster.endpoints()).fence_floor(floor);
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
