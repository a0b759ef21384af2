//! Faults of Consul: what is expected of the lock where agents die, stand still, leave and are cut
//! off, and where an operator intervenes. Each test first makes sure that its fault took effect.

mod c01_leader_killed;
mod c02_destroyed_session;
mod c03_agent_killed;
mod c04_agent_leaves;
mod c05_dead_waiter;
mod c06_delay;
mod c07_no_majority;
mod c08_full_agent;
mod c09_operator;
mod c10_other_programs;
mod c11_lost_answer;
mod c12_late_writes;
mod c13_stopped_waiter;
mod c14_faults_in_turn;
mod c15_sessions_that_ended;
mod c16_refusals;
mod c17_order;
mod c18_withdrawn_waiter;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_consul::{ConsulBackend, ConsulSettings};
use lock_protocol::{
    Acquired, Backend, Claim, LockKey, LostReason, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::consul::{Cluster, Options};
use lock_tests::faults::http::{Fate, Http};
use lock_tests::faults::pipe::Pipe;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::turns::{Terms, Turns};
use lock_tests::faults::{comes_true, eventually, eventually_in};
use lock_tests::{alone, causes, ms, secs};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(90);

/// A runtime that goes from agent to agent after a second.
async fn runtime(endpoints: Vec<String>) -> LockRuntime {
    let locks = LockRuntime::consul(endpoints).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

/// The same, of which the locks keep others out for this share of their ttl after their session
/// ended.
async fn with_delay_share(endpoints: Vec<String>, share: f64) -> LockRuntime {
    let mut settings = ConsulSettings::new(endpoints);
    settings.command_timeout = secs(2);
    settings.lock_delay_share = share;
    let backend = ConsulBackend::connect(settings).await.unwrap();
    let locks = LockRuntime::backend(backend).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

async fn held(locks: &LockRuntime, key: &str, ttl: Duration) -> LockGuard {
    let lock = locks.lock(key).ttl(ttl).wait(DEADLINE);
    lock.acquire().await.unwrap()
}

/// Another that waits for `key`, and when it got it.
fn waits(locks: &LockRuntime, key: &str) -> JoinHandle<(LockGuard, Instant)> {
    let lock = locks.lock(key).ttl(secs(4)).wait(2 * DEADLINE);
    tokio::spawn(async move {
        let guard = lock.acquire().await.unwrap();
        (guard, Instant::now())
    })
}

async fn waiters(cluster: &Cluster, key: &str, count: usize) {
    let lock = format!("lock:{key}");
    eventually("they wait", || cluster.waiters(&lock) == count).await;
}

/// The sessions that were made since there were those `before`.
fn since(cluster: &Cluster, before: &[String]) -> Vec<String> {
    let mut sessions = cluster.sessions();
    sessions.retain(|session| !before.contains(session));
    assert!(!sessions.is_empty());
    sessions
}

/// Waits until none of these sessions is there any more.
async fn ended(cluster: &Cluster, sessions: &[String]) {
    eventually("the sessions end", || {
        let there = cluster.sessions();
        !sessions.iter().any(|session| there.contains(session))
    })
    .await;
}

async fn backend(endpoints: &[String]) -> ConsulBackend {
    let mut settings = ConsulSettings::new(endpoints.to_vec());
    settings.command_timeout = secs(2);
    ConsulBackend::connect(settings).await.unwrap()
}

fn claim(name: &str) -> Claim {
    let key = LockKey::new("lock:", name).unwrap();
    Claim::new(key, OwnerToken::unique("fault"), secs(20))
}

async fn queued(backend: &ConsulBackend, claim: &Claim) {
    let answer = backend.acquire(claim).await.unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
}

async fn granted(backend: &ConsulBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

/// When the holder has heard that its lock is lost.
fn loss(guard: LockGuard) -> JoinHandle<Instant> {
    tokio::spawn(async move {
        guard.lost().await;
        Instant::now()
    })
}

/// That the holder had ended before the next one began, which has a larger token.
async fn follows(
    first: u64,
    lost: JoinHandle<Instant>,
    next: JoinHandle<(LockGuard, Instant)>,
) -> (Instant, Instant) {
    let (next, began) = timeout(DEADLINE, next).await.unwrap().unwrap();
    assert!(lost.is_finished(), "two believe that they hold the lock");
    let ended = lost.await.unwrap();
    assert!(ended < began, "two believed that they hold the lock");
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
    (ended, began)
}
