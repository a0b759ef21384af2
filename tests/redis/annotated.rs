//! Annotated functions that take the lock `k` on one server.

use std::time::{Duration, Instant};

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::faults::comes_true;
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::time::sleep;

/// By when everything here has happened, on a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn runtime(server: &Server) -> LockRuntime {
    let builder = LockRuntime::redis(server.url()).command_timeout(ms(5000));
    builder.build().await.unwrap()
}

/// Ends with an instant when the lock was held.
#[distributed_lock(key = "k", ttl = "20s", wait = "30s", runtime = locks)]
pub(crate) async fn when_held(locks: &LockRuntime) -> Result<Instant, LockError> {
    Ok(Instant::now())
}

#[distributed_lock(key = "k", ttl = "2s", wait = "5s", runtime = locks)]
pub(crate) async fn hold(locks: &LockRuntime, time: Duration) -> Result<(), LockError> {
    sleep(time).await;
    Ok(())
}

/// Looks from outside: an attempt to acquire it could itself be what another meets.
pub(crate) async fn is_held(server: &Server) {
    let exists = async || server.run(&["EXISTS", "lock:k"]);
    comes_true("the lock", exists).await;
}

pub(crate) async fn end(server: Server, locks: &[&LockRuntime]) {
    for locks in locks {
        locks.shutdown().await.unwrap();
    }
    server.finish();
}
