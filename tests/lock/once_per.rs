//! A job that is done once in a period, whatever process begins it, on Redis.

use std::time::{Duration, UNIX_EPOCH};

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::faults::clock::Clock;
use lock_tests::faults::process::Process;
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

/// What a process answers to an order.
async fn answer(process: &mut Process, order: &str) -> String {
    process.tell(order).await;
    process.hear().await
}

#[tokio::test]
async fn a_clock_that_is_a_minute_ahead_runs_no_job_again_and_takes_no_lock_or_permit() {
    let (server, clock) = (Server::start(), Clock::new());
    let holder = env!("CARGO_BIN_EXE_holder");
    let mut one = Process::start(holder, &server.url()).await;
    clock.shift(60);
    let mut ahead = Process::start_with(&clock, holder, &server.url()).await;
    let time: u64 = answer(&mut ahead, "time").await.parse().unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(time >= now + 30, "the clock shows {time}, and it is {now}");

    assert_eq!(answer(&mut one, "once job 50000").await, "done");
    assert!(
        answer(&mut one, "acquire k 50000 0")
            .await
            .starts_with("held")
    );
    assert_eq!(answer(&mut ahead, "once job 50000").await, "skipped");
    assert_eq!(answer(&mut ahead, "acquire k 50000 0").await, "error taken");
    // Nor does its own time end for the others: what it holds, it holds.
    assert!(
        answer(&mut ahead, "acquire own 50000 0")
            .await
            .starts_with("held")
    );
    assert_eq!(answer(&mut one, "acquire own 50000 0").await, "error taken");
    assert_eq!(answer(&mut ahead, "state").await, "held");
    // The permits of a key count for those whose time is another.
    let permit = "acquire permits 50000 0 permits=1";
    assert!(answer(&mut one, permit).await.starts_with("held"));
    assert_eq!(answer(&mut ahead, permit).await, "error taken");
    // The control: once the job's key is free, it runs it.
    server.run::<()>(&["DEL", "lock:job"]);
    assert_eq!(answer(&mut ahead, "once job 50000").await, "done");
}
