//! A job that is done once in a period, whatever process begins it, on Redis.

use std::time::Duration;

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::faults::{eventually, locks, nothing_left};
use lock_tests::server::Server;

#[distributed_lock(key = "report", once_per = "1h", runtime = locks)]
async fn report(locks: &LockRuntime, fails: bool) -> Result<Option<u32>, LockError> {
    if fails {
        return Err(LockError::Config("it fails".to_owned()));
    }
    Ok(Some(7))
}

#[tokio::test]
async fn a_job_is_done_once_by_all_processes() {
    let server = Server::start();
    let one = locks(server.url()).await;
    // An attempt that fails costs nobody anything.
    report(&one, true).await.unwrap_err();
    assert_eq!(report(&one, false).await.unwrap(), Some(7));
    one.shutdown().await.unwrap();
    drop(one);
    let other = locks(server.url()).await;
    assert_eq!(report(&other, false).await.unwrap(), None);
    let (owner, left): (String, u64) = (
        server.run(&["GET", "lock:report"]),
        server.run(&["PTTL", "lock:report"]),
    );
    assert!(owner.starts_with("kept:"), "{owner}");
    // It is counted from the beginning, on the clock of a process, which may be slow.
    assert!((3_000_000..=3_700_000).contains(&left), "{left}");
    other.shutdown().await.unwrap();
}

#[distributed_lock(keys = ["a", "b"], once_per = "300ms", runtime = locks)]
async fn both(locks: &LockRuntime) -> Result<Option<u32>, LockError> {
    Ok(Some(7))
}

#[tokio::test]
async fn all_keys_of_a_job_stay_taken_until_its_period_is_over() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    assert_eq!(both(&locks).await.unwrap(), Some(7));
    for key in ["a", "b"] {
        let lock = locks.lock(key).wait(Duration::from_secs(30));
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    assert_eq!(both(&locks).await.unwrap(), Some(7));
    eventually("the period is over", || {
        let left: u64 = server.run(&["EXISTS", "lock:a", "lock:b"]);
        left == 0
    })
    .await;
    locks.shutdown().await.unwrap();
    nothing_left(&server).await;
}
