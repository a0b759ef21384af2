//! Locks held by a majority of five servers, while servers fail.

mod m01_sets_of_servers;
mod m02_split_votes;
mod m03_hanging_servers;
mod m04_rolling_restart;
mod m05_empty_restart;
mod m06_wrong_token;
mod m07_dropped_acquire;
mod m08_late_votes;
mod m09_no_majority;
mod m10_shutdown;
mod m11_settings;
mod m12_waiting_claims;
mod m13_clock_after_a_restart;
mod m14_clocks_ahead;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_conformance::poll_once;
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal};
use lock_runtime::redlock::RedlockBackend;
use lock_runtime::{LockError, LockRuntime};
use lock_tests::faults::comes_true;
use lock_tests::ms;
use lock_tests::redlock_store::{connect, five, urls};
use lock_tests::server::Server;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);

/// A ttl that never runs out during a test.
const LONG: Duration = Duration::from_secs(60);

fn key() -> LockKey {
    LockKey::new("lock:", "k").unwrap()
}

fn claim(ttl: Duration) -> Claim {
    Claim::new(key(), OwnerToken::unique("test"), ttl)
}

async fn runtime(servers: &[Server]) -> LockRuntime {
    runtime_at(urls(servers)).await
}

async fn runtime_at(urls: Vec<String>) -> LockRuntime {
    let builder = LockRuntime::redlock(urls).restart_delay(Duration::ZERO);
    builder.command_timeout(ms(400)).build().await.unwrap()
}

fn holders(servers: &[&Server]) -> Vec<Option<String>> {
    servers
        .iter()
        .map(|server| server.run(&["GET", "lock:k"]))
        .collect()
}

/// Makes a server one that has been known for long, as far as the rule of restarts goes.
fn was_there_before(server: &Server) {
    server.run::<()>(&["SET", "{lock:}:votes:counter", "1000000", "PX", "60000"]);
}

async fn granted(backend: &RedlockBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("it should have been granted, but: {other:?}"),
    }
}
