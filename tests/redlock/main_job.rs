//! The main job on five servers, as a user sees it: annotated functions, and programs that take the
//! same locks by other means.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::faults::{eventually, ms};
use lock_tests::redlock_store::{five, urls};
use lock_tests::server::Server;
use tokio::task::JoinSet;
use tokio::time::sleep;

async fn runtime(servers: &[Server]) -> LockRuntime {
    let builder = LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO);
    builder.build().await.unwrap()
}

/// Waits until every server has voted for a holder of `k`.
async fn held_by_all(servers: &[Server]) {
    eventually("all servers vote", || {
        servers
            .iter()
            .all(|server| server.run(&["EXISTS", "lock:k"]))
    })
    .await;
}

/// Ends with an instant when the lock was held.
#[distributed_lock(key = "k", ttl = "5s", wait = "15s", runtime = locks)]
async fn when_held(locks: &LockRuntime) -> Result<Instant, LockError> {
    Ok(Instant::now())
}

#[distributed_lock(key = "k", ttl = "1s", wait = "0s", runtime = locks)]
async fn hold(locks: &LockRuntime, time: Duration) -> Result<(), LockError> {
    sleep(time).await;
    Ok(())
}

#[distributed_lock(key = "coupons", ttl = "5s", wait = "60s", runtime = locks)]
async fn claim(locks: &LockRuntime, shop: &Shop) -> Result<bool, LockError> {
    assert!(
        !shop.is_served.swap(true, Ordering::SeqCst),
        "two are served"
    );
    let left = shop.left.load(Ordering::SeqCst);
    tokio::task::yield_now().await;
    if left > 0 {
        shop.left.store(left - 1, Ordering::SeqCst);
    }
    shop.is_served.store(false, Ordering::SeqCst);
    Ok(left > 0)
}

struct Shop {
    left: AtomicU32,
    is_served: AtomicBool,
}

#[tokio::test]
async fn ten_coupons_are_given_to_two_hundred_claims_while_servers_fail() {
    let mut servers = five();
    let shop = Arc::new(Shop {
        left: AtomicU32::new(10),
        is_served: AtomicBool::new(false),
    });
    let mut runtimes = Vec::new();
    let mut claims = JoinSet::new();
    for _ in 0..4 {
        let locks = runtime(&servers).await;
        runtimes.push(locks.clone());
        for _ in 0..50 {
            let (locks, shop) = (locks.clone(), Arc::clone(&shop));
            claims.spawn(async move { claim(&locks, &shop).await.unwrap() });
        }
    }
    let (mut given, mut done) = (0, 0);
    while let Some(is_given) = claims.join_next().await {
        given += u32::from(is_given.unwrap());
        done += 1;
        match done {
            20 => servers[0].kill(),
            40 => servers[3].pause(),
            120 => servers[3].resume(),
            _ => {}
        }
    }
    assert_eq!((given, done), (10, 200));
    for locks in &runtimes {
        locks.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_uncontended_call_sends_two_commands_to_each_server() {
    let servers = five();
    let locks = runtime(&servers).await;
    when_held(&locks).await.unwrap();
    sleep(ms(200)).await;
    let monitors: Vec<_> = servers.iter().map(Server::monitor).collect();
    when_held(&locks).await.unwrap();
    sleep(ms(200)).await;
    for (monitor, server) in monitors.iter().zip(&servers) {
        let commands = monitor.commands(server);
        assert_eq!(commands.len(), 2, "{commands:#?}");
    }
    locks.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_body_longer_than_three_ttls_keeps_its_lock() {
    let servers = five();
    let (locks, others) = (runtime(&servers).await, runtime(&servers).await);
    let body = tokio::spawn({
        let locks = locks.clone();
        async move { hold(&locks, ms(4000)).await }
    });
    held_by_all(&servers).await;
    let mut tries = 0;
    let started = Instant::now();
    while started.elapsed() < ms(3500) {
        let lock = others.lock("k").try_acquire().await.unwrap();
        // A machine that stood still may have lost the lock, which the body is told.
        assert!(lock.is_none() || body.is_finished(), "another got the lock");
        tries += 1;
        sleep(ms(20)).await;
    }
    assert!(tries > 10);
    body.await.unwrap().unwrap();
    for locks in [&locks, &others] {
        locks.shutdown().await.unwrap();
    }
}

/// As other libraries do it: `SET NX PX` with the same name on each server.
#[tokio::test]
async fn a_lock_that_another_library_has_on_a_majority_is_waited_for() {
    let servers = five();
    let locks = runtime(&servers).await;
    let set_at = Instant::now();
    for server in &servers[..3] {
        let port = server.port().to_string();
        let set = [
            "-p",
            &port,
            "SET",
            "lock:k",
            "another's",
            "NX",
            "PX",
            "1500",
        ];
        let set = Command::new("redis-cli").args(set).output().unwrap();
        assert_eq!(String::from_utf8(set.stdout).unwrap(), "OK\n");
    }
    assert!(hold(&locks, ms(1)).await.unwrap_err().is_taken());
    let held_at = when_held(&locks).await.unwrap();
    assert!(held_at - set_at >= ms(1500), "it did not wait");
    // The keys of the other library end one after the other.
    eventually("all servers are free", || {
        let is_held = |server: &Server| server.run(&["EXISTS", "lock:k"]);
        !servers.iter().any(is_held)
    })
    .await;
    let body = tokio::spawn({
        let locks = locks.clone();
        async move { hold(&locks, ms(2000)).await }
    });
    held_by_all(&servers).await;
    let set = |server: &Server| -> Option<String> {
        server.run(&["SET", "lock:k", "another's", "NX", "PX", "1500"])
    };
    assert!(servers.iter().all(|server| set(server).is_none()));
    body.await.unwrap().unwrap();
    locks.shutdown().await.unwrap();
}

#[test]
fn lock_url_names_the_servers() {
    let servers = five();
    let said = |url: String| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
        let output = process.env("LOCK_URL", url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let hosts: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port()))
        .collect();
    for scheme in ["redis+redlock", "redlock"] {
        let url = format!("{scheme}://{}?restart_delay=40s", hosts.join(","));
        assert_eq!(said(url), "ready\n");
    }
    let few = said(format!("redlock://{}", hosts[..2].join(",")));
    assert!(few.contains("3 servers or more"), "{few}");
    for (parameter, named) in [("colour=1", "restart_delay"), ("ttl=1", "`ttl`")] {
        let odd = said(format!(
            "redlock://u:secret@{}?{parameter}",
            hosts.join(",")
        ));
        assert!(odd.contains(named) && !odd.contains("secret"), "{odd}");
    }
}
