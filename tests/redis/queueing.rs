//! What waiting in a queue promises on a real server, and what its settings do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use lock_runtime::{LockError, LockGuard, LockRuntime, LockRuntimeBuilder};
use lock_tests::faults::eventually;
use lock_tests::server::Server;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(30);
const KEY: &str = "k";
const STORED: &str = "lock:k";
const QUEUE: &str = "{lock:k}:waiters";
/// Behind all that the time gives before 2096.
const TICKET: u64 = 4_000_000_000_000_000;

async fn process(server: &Server) -> LockRuntime {
    built(LockRuntime::redis(server.url())).await
}

async fn built(builder: LockRuntimeBuilder) -> LockRuntime {
    // No question ends because the machine is busy.
    let builder = builder.command_timeout(Duration::from_secs(5));
    builder.build().await.unwrap()
}

async fn acquire(locks: &LockRuntime) -> LockGuard {
    let acquire = locks.lock(KEY).wait(SOON * 3).acquire();
    timeout(SOON, acquire).await.unwrap().unwrap()
}

/// Somebody who wants the lock; their first asking has reached the server when `queued` claims wait
/// there.
async fn waiter(locks: &LockRuntime, server: &Server, queued: usize) -> JoinHandle<LockGuard> {
    let locks = locks.clone();
    let waiter = tokio::spawn(async move { acquire(&locks).await });
    eventually("it happens", || {
        server.run::<usize>(&["ZCARD", QUEUE]) == queued
    })
    .await;
    waiter
}

#[tokio::test]
async fn processes_are_served_in_the_order_in_which_they_came() {
    let server = Server::start();
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(process(&server).await);
    }
    let first = acquire(&processes[3]).await;
    let mut waiters = Vec::new();
    for (index, locks) in processes[..3].iter().enumerate() {
        waiters.push(waiter(locks, &server, index + 1).await);
    }
    first.release().await.unwrap();
    for index in 0..waiters.len() {
        eventually("it happens", || waiters[index].is_finished()).await;
        assert!(
            waiters[index + 1..]
                .iter()
                .all(|later| !later.is_finished())
        );
        (&mut waiters[index])
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn tasks_of_a_process_are_served_in_the_order_in_which_they_came() {
    let server = Server::start();
    let locks = process(&server).await;
    let first = acquire(&locks).await;
    let (tell, mut served) = mpsc::unbounded_channel();
    for index in 0..8 {
        let (locks, tell) = (locks.clone(), tell.clone());
        tokio::spawn(async move {
            let guard = acquire(&locks).await;
            tell.send(index).unwrap();
            guard.release().await.unwrap();
        });
        // It joins the line when it is polled first, which is now.
        tokio::task::yield_now().await;
    }
    assert!(served.is_empty(), "somebody has what is held");
    first.release().await.unwrap();
    for index in 0..8 {
        assert_eq!(timeout(SOON, served.recv()).await.unwrap(), Some(index));
    }
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_no_place_in_the_queue() {
    let server = Server::start();
    let (one, two) = (process(&server).await, process(&server).await);
    let holder = acquire(&one).await;
    let waiter = waiter(&two, &server, 1).await;
    waiter.abort();
    eventually("it happens", || server.run::<usize>(&["ZCARD", QUEUE]) == 0).await;
    holder.release().await.unwrap();
    assert!(!server.run::<bool>(&["EXISTS", STORED]));
}

#[tokio::test]
async fn a_foreign_holder_that_frees_its_lock_early_and_silently_is_noticed() {
    let server = Server::start();
    let locks = process(&server).await;
    server.run::<()>(&["SET", STORED, "another library's token", "PX", "60000"]);
    let waiter = waiter(&locks, &server, 1).await;
    server.run::<()>(&["DEL", STORED]);
    let freed = Instant::now();
    let guard = timeout(SOON, waiter).await.unwrap().unwrap();
    // Looked for every second at the latest; the rest is for a busy machine.
    assert!(
        freed.elapsed() < Duration::from_secs(5),
        "{:?}",
        freed.elapsed()
    );
    guard.release().await.unwrap();
}

/// The calls of commands, those within scripts included, that a release causes with `waiting`
/// claims in the queue.
async fn calls_of_a_release(waiting: usize) -> u64 {
    let server = Server::start();
    let holder = process(&server).await;
    let guard = acquire(&holder).await;
    let next = process(&server).await;
    let first = waiter(&next, &server, 1).await;
    // A connection that opens later is prepared by calls of its own: each process has its lane and
    // that of its callers.
    eventually("all are connected", || {
        let clients: String = server.run(&["CLIENT", "LIST"]);
        clients.lines().filter(|it| it.contains(" sub=1 ")).count() == 4
    })
    .await;
    // Those who wait behind the first: nobody has to live to be in the way.
    let mut connection = server.client();
    let mut pipeline = redis::pipe();
    for score in 2..=waiting {
        pipeline
            .cmd("ZADD")
            .arg(QUEUE)
            .arg(TICKET + score as u64)
            .arg(format!("{score}/0000000001/0005/0006/c/1000/0001/04/x"))
            .ignore();
    }
    pipeline.exec(&mut connection).unwrap();
    assert_eq!(server.run::<usize>(&["ZCARD", QUEUE]), waiting);

    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    guard.release().await.unwrap();
    let stats: String = server.run(&["INFO", "commandstats"]);
    let calls = |line: &str| -> Option<u64> {
        let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let own = ["info", "hello", "config", "client"]
            .iter()
            .any(|own| name.starts_with(own));
        fields.split(',').next()?.parse().ok().filter(|_| !own)
    };
    let total = stats.lines().filter_map(calls).sum();
    drop(first.await.unwrap());
    total
}

#[tokio::test]
async fn a_hand_over_does_not_cost_more_the_more_wait() {
    // The least of three: what a process does now and then by itself is counted as well.
    let least = async |waiting| {
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(calls_of_a_release(waiting).await);
        }
        least
    };
    let few = least(2).await;
    let many = least(5000).await;
    // The first draw of a second sees to the counter by one more call.
    assert!(
        few > 3 && many <= few + 1,
        "{few} calls with 2 waiters, {many} with 5000"
    );
}

/// The owner tokens of `count` holders in a row, each of whom waited in this process while the one
/// before held the lock.
async fn owners(locks: &LockRuntime, count: usize) -> Vec<String> {
    let first = acquire(locks).await;
    let waiters: Vec<_> = (1..count)
        .map(|_| {
            let locks = locks.clone();
            tokio::spawn(async move { acquire(&locks).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let mut owners = vec![first.owner_token().to_string()];
    first.release().await.unwrap();
    for waiter in waiters {
        let guard = waiter.await.unwrap();
        owners.push(guard.owner_token().to_string());
        guard.release().await.unwrap();
    }
    owners
}

fn different(owners: &[String]) -> usize {
    let mut owners = owners.to_vec();
    owners.sort();
    owners.dedup();
    owners.len()
}

#[tokio::test]
async fn local_passes_bounds_how_many_holders_share_a_claim() {
    let server = Server::start();
    // The first claim is made for one, and reserves tokens for eight holders.
    for (passes, claims) in [(0, 12), (3, 3), (32, 2)] {
        // The share is no bound here.
        let builder = LockRuntime::redis(server.url())
            .local_passes(passes)
            .local_share(1.0);
        let owners = owners(&built(builder).await, 12).await;
        assert_eq!(different(&owners), claims, "{passes} passes: {owners:?}");
    }
}

#[tokio::test]
async fn a_local_share_of_zero_passes_nothing_on() {
    let server = Server::start();
    let builder = LockRuntime::redis(server.url()).local_share(0.0);
    assert_eq!(different(&owners(&built(builder).await, 5).await), 5);
}

#[tokio::test]
async fn a_process_whose_tasks_never_stop_asking_starves_no_other() {
    let server = Server::start();
    let (greedy, modest) = (process(&server).await, process(&server).await);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let locks = greedy.clone();
            tokio::spawn(async move {
                let mut turns = 0_u32;
                while let Ok(guard) = locks.lock(KEY).wait(SOON).acquire().await {
                    turns += 1;
                    tokio::task::yield_now().await;
                    guard.release().await.unwrap();
                }
                turns
            })
        })
        .collect();
    for _ in 0..20 {
        acquire(&modest).await.release().await.unwrap();
    }
    assert!(tasks.iter().all(|task| !task.is_finished()));
    greedy.shutdown().await.unwrap();
    let mut turns = 0;
    for task in tasks {
        turns += task.await.unwrap();
    }
    // The control: they did compete.
    assert!(turns > 20, "{turns} turns");
}

/// Of Jain, Chiu and Hawe (1984): 1 if all have the same, 1 / n if one has everything.
fn fairness(shares: &[u32]) -> f64 {
    let sum: f64 = shares.iter().copied().map(f64::from).sum();
    let squares: f64 = shares.iter().map(|share| f64::from(*share).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[tokio::test]
async fn every_task_has_its_share_however_many_its_process_has() {
    let server = Server::start();
    let left = Arc::new(AtomicI32::new(3_000));
    let mut tasks = Vec::new();
    let mut processes = Vec::new();
    for count in [1, 4, 16, 40] {
        let locks = process(&server).await;
        for _ in 0..count {
            let (locks, left) = (locks.clone(), left.clone());
            tasks.push(tokio::spawn(async move {
                let mut turns = 0_u32;
                while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                    let guard = acquire(&locks).await;
                    tokio::task::yield_now().await;
                    guard.release().await.unwrap();
                    turns += 1;
                }
                turns
            }));
        }
        processes.push(locks);
    }
    let mut turns = Vec::new();
    for task in tasks {
        turns.push(task.await.unwrap());
    }
    let fair = fairness(&turns);
    assert!(fair > 0.95, "{fair:.3}: {turns:?}");
    // The control: were each process served alike, whatever waits in it, this would tell.
    let alike: Vec<u32> = [1, 4, 16, 40]
        .iter()
        .flat_map(|&count| vec![750 / count; count as usize])
        .collect();
    assert!(fairness(&alike) < 0.5);
}

#[tokio::test]
async fn a_handed_over_lock_lasts_for_the_grace_that_is_set() {
    let server = Server::start();
    let grace = Duration::from_millis(6000);
    let (one, two) = (
        process(&server).await,
        built(LockRuntime::redis(server.url()).grace(grace)).await,
    );
    let holder = acquire(&one).await;
    let waiter = waiter(&two, &server, 1).await;
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap();
    let left: u64 = server.run(&["PTTL", STORED]);
    assert!((3000..=6000).contains(&left), "{left} ms");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_asks_again_after_the_heartbeat_that_is_set() {
    let server = Server::start();
    let (one, two) = (
        process(&server).await,
        built(LockRuntime::redis(server.url()).heartbeat(Duration::from_millis(100))).await,
    );
    let holder = acquire(&one).await;
    let waiter = waiter(&two, &server, 1).await;
    let monitor = server.monitor();
    eventually("it happens", || {
        let commands = monitor.commands(&server);
        commands.iter().filter(|line| line.contains(QUEUE)).count() >= 3
    })
    .await;
    holder.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn there_are_as_many_connections_as_lanes() {
    let server = Server::start();
    for lanes in [1, 3] {
        let locks = built(LockRuntime::redis(server.url()).lanes(lanes)).await;
        let clients: String = server.run(&["CLIENT", "LIST"]);
        let ours = clients
            .lines()
            .filter(|line| line.contains("lib-name=lock-runtime"))
            .count();
        // Redis 7.0 does not show the name of the library; all but the one that asks are ours
        // there.
        let ours = if ours == 0 {
            clients.lines().count() - 1
        } else {
            ours
        };
        assert_eq!(ours, lanes, "{clients}");
        locks.shutdown().await.unwrap();
        eventually("it happens", || {
            server.run::<String>(&["CLIENT", "LIST"]).lines().count() == 1
        })
        .await;
    }
}

#[tokio::test]
async fn the_size_of_the_pool_bounds_the_connections() {
    let server = Server::start();
    let count = || server.run::<String>(&["CLIENT", "LIST"]).lines().count() - 1;
    // The control comes first: with room for it, there is a direct link beside the lanes.
    for (size, connections) in [(5, 5), (4, 4)] {
        let builder = LockRuntime::redis(server.url()).lanes(4).pool_size(size);
        let locks = built(builder).await;
        let mut most = 0;
        let started = Instant::now();
        while most < connections || started.elapsed() < Duration::from_millis(300) {
            assert!(started.elapsed() < Duration::from_secs(10), "{most}");
            let guard = locks.lock("k").acquire().await.unwrap();
            guard.release().await.unwrap();
            most = most.max(count().min(connections));
            // One that was just replaced may be listed for a moment.
            eventually("it happens", || count() <= connections).await;
        }
        locks.shutdown().await.unwrap();
        eventually("it happens", || {
            server.run::<String>(&["CLIENT", "LIST"]).lines().count() == 1
        })
        .await;
    }
    let builder = LockRuntime::redis(server.url()).lanes(4).pool_size(3);
    let error = builder.build().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
}
