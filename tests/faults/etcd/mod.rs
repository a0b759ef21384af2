//! Faults of etcd: what is expected of the lock where members die, stand still and are cut off, and
//! where an operator intervenes. Each test first makes sure that its fault took effect.

mod e01_leader_killed;
mod e02_leader_standstill;
mod e03_no_majority;
mod e04_late_writes;
mod e05_holder_and_leader_killed;
mod e06_compaction;
mod e07_operator;
mod e08_broken_streams;
mod e09_silent_watch;
mod e10_quota;
mod e13_many_renewals;
mod e14_restored;
mod e16_faults_in_turn;
mod e17_stopped_waiter;
mod e18_order;
mod e19_killed;
mod e20_service_back;

use std::time::{Duration, Instant};

use lock_etcd::{EtcdBackend, EtcdSettings};
use lock_protocol::{
    Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::alone;
use lock_tests::etcd::{Cluster, Options};
use lock_tests::faults::grpc::Grpc;
use lock_tests::faults::pipe::Pipe;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::turns::{Terms, Turns};
use lock_tests::faults::{eventually, eventually_in, ms};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A runtime that goes from member to member after a second.
async fn runtime(endpoints: Vec<String>) -> LockRuntime {
    let locks = LockRuntime::etcd(endpoints).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

async fn held(locks: &LockRuntime, key: &str, ttl: Duration) -> LockGuard {
    locks
        .lock(key)
        .ttl(ttl)
        .wait(DEADLINE)
        .acquire()
        .await
        .unwrap()
}

/// Another that waits for `key`.
fn waits(locks: &LockRuntime, key: &str) -> tokio::task::JoinHandle<LockGuard> {
    let lock = locks.lock(key).ttl(secs(4)).wait(2 * DEADLINE);
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

async fn waiters(cluster: &Cluster, key: &str, count: usize) {
    let start = format!("lock:{key}/");
    eventually("they wait", || {
        let claims = cluster.claims();
        claims
            .iter()
            .filter(|claim| claim.starts_with(&start))
            .count()
            == count + 1
    })
    .await;
}

fn settings(endpoints: &[String]) -> EtcdSettings {
    let mut settings = EtcdSettings::new(endpoints.to_vec());
    settings.command_timeout = secs(2);
    settings
}

async fn backend(endpoints: &[String]) -> EtcdBackend {
    EtcdBackend::connect(settings(endpoints)).await.unwrap()
}

fn key(name: &str) -> LockKey {
    LockKey::new("lock:", name).unwrap()
}

fn claim(name: &str) -> Claim {
    Claim::new(key(name), OwnerToken::unique("fault"), secs(20))
}

async fn granted(backend: &EtcdBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

async fn released(backend: &EtcdBackend, claim: &Claim) {
    let release = Release::new(claim.key.clone(), claim.owner.clone());
    let answer = backend.release(&release).await.unwrap();
    assert_eq!(answer, Released::Released(None));
}

/// Whether the lock is granted to nobody else while `fault` is there, and goes to the one who waits
/// when it is released.
async fn keeps_its_lock(mut cluster: Cluster, fault: impl AsyncFnOnce(&mut Cluster, usize)) {
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(8);
    let guard = held(&locks, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let leader = cluster.leader();
    fault(&mut cluster, leader).await;
    // Longer than the lease that was held when it happened.
    let end = Instant::now() + ttl + secs(2);
    while Instant::now() < end {
        assert!(guard.is_held(), "the holder has lost its lock");
        assert!(!waiting.is_finished(), "two hold the lock");
        sleep(ms(10)).await;
    }
    let first = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > first);
}
