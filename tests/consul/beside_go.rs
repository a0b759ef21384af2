//! What a lock on Consul costs that many want, beside Go's `api.Lock` on the same server in the
//! same run.

use std::process::Command;
use std::time::{Duration, Instant};

use lock_runtime::LockRuntime;
use lock_tests::alone;
use lock_tests::consul::{Cluster, program};
use tokio::task::JoinSet;

const PROCESSES: usize = 4;
const CALLERS: usize = 16;
/// How often each caller has the hot lock.
const TURNS: usize = 2;

async fn runtime(cluster: &Cluster, passes: u32) -> LockRuntime {
    let locks = LockRuntime::consul(cluster.endpoints()).local_passes(passes);
    let locks = locks.command_timeout(Duration::from_secs(10));
    locks.build().await.unwrap()
}

/// How long processes of Go take, of which each has so many callers take the lock so many times.
async fn of_go(
    cluster: &Cluster,
    key: &str,
    processes: usize,
    turns: usize,
    callers: usize,
) -> Duration {
    let address = format!("127.0.0.1:{}", cluster.port(0));
    let mut all = JoinSet::new();
    for _ in 0..processes {
        let mut command = Command::new(program("go-lock"));
        let (turns, callers) = (turns.to_string(), callers.to_string());
        command.args([&address, key, "10s", &turns, &callers]);
        all.spawn_blocking(move || {
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let micros: u64 = said.trim().parse().unwrap();
            Duration::from_micros(micros)
        });
    }
    let took = all.join_all().await;
    took.into_iter().max().unwrap()
}

/// The same of runtimes in place of processes.
async fn of_ours(cluster: &Cluster, key: &'static str, passes: u32) -> Duration {
    let mut runtimes = Vec::new();
    for _ in 0..PROCESSES {
        runtimes.push(runtime(cluster, passes).await);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for locks in &runtimes {
        for _ in 0..CALLERS {
            let locks = locks.clone();
            tasks.spawn(async move {
                for _ in 0..TURNS {
                    let lock = locks.lock(key).wait(Duration::from_secs(300));
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
            });
        }
    }
    tasks.join_all().await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_lock_is_passed_on_more_often_than_by_go() {
    let _alone = alone().await;
    let cluster = Cluster::start();
    let go = of_go(&cluster, "go/.lock", PROCESSES, TURNS, CALLERS).await;
    let remote = of_ours(&cluster, "remote", 0).await;
    let local = of_ours(&cluster, "local", 1_000).await;
    println!(
        "{} turns: {go:?} of Go's, {remote:?} by the store, {local:?} within processes as well",
        PROCESSES * CALLERS * TURNS
    );
    assert!(remote <= go, "as often by the store alone");
    assert!(8 * local <= go, "eight times as often with local passing");
}
