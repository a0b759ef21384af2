//! Locks on several servers, taken by other libraries that implement the Redlock algorithm: they
//! and ours exclude each other, where the names of the keys are the same.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lock_runtime::LockRuntime;
use lock_tests::faults::{DEADLINE, eventually};
use lock_tests::ms;
use lock_tests::others::{self, Other};
use lock_tests::redlock_store::{five, urls};
use lock_tests::server::Server;
use tokio::time::sleep;

use super::annotated::{self, hold, when_held};

/// Longer than any test.
const TTL: Duration = Duration::from_secs(60);
/// How many turns each has where both contend.
const TURNS: u32 = 10;

/// A library of another language.
struct Library {
    command: fn() -> Command,
    /// What it writes before the name of a lock, whether we want it or not.
    prefix: &'static str,
}

fn start(library: &Library, servers: &[Server], key: &str) -> Other {
    let mut command = (library.command)();
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port()))
        .collect();
    // Ours are called `redlock:…` where that is written before theirs anyway.
    let name = match library.prefix {
        "" => format!("lock:{key}"),
        _ => key.to_owned(),
    };
    command.args([&addresses.join(","), &name, &TTL.as_millis().to_string()]);
    Other::start(command)
}

async fn runtime(library: &Library, servers: &[Server]) -> LockRuntime {
    let prefix = match library.prefix {
        "" => "lock:",
        prefix => prefix,
    };
    let builder = LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO);
    builder.key_prefix(prefix).build().await.unwrap()
}

/// Asks on a thread that may block.
async fn ask(mut other: Other, command: &'static str) -> (Other, String) {
    let asked = tokio::task::spawn_blocking(move || {
        let answer = other.ask(command);
        (other, answer)
    });
    asked.await.unwrap()
}

async fn lock(mut other: Other) -> Other {
    let started = Instant::now();
    loop {
        let answer;
        (other, answer) = ask(other, "lock").await;
        if answer == "held" {
            return other;
        }
        assert!(started.elapsed() < DEADLINE, "it never gets the lock");
        sleep(ms(5)).await;
    }
}

async fn exclude_each_other(library: Library) {
    let servers = five();
    let locks = runtime(&library, &servers).await;
    let other = start(&library, &servers, "k");

    // It before us.
    let other = lock(other).await;
    assert!(locks.lock("k").try_acquire().await.unwrap().is_none());
    let waiter = tokio::spawn(locks.lock("k").ttl(TTL / 3).wait(DEADLINE).acquire());
    sleep(ms(100)).await;
    assert!(!waiter.is_finished());
    let (other, answer) = ask(other, "unlock").await;
    assert_eq!(answer, "released");

    // We before it.
    let guard = waiter.await.unwrap().unwrap();
    let (other, answer) = ask(other, "lock").await;
    assert_eq!(answer, "taken");
    assert!(guard.is_held());
    guard.release().await.unwrap();
    let other = lock(other).await;
    let (_, answer) = ask(other, "unlock").await;
    assert_eq!(answer, "released");

    contend(&library, &servers, &locks).await;
    locks.shutdown().await.unwrap();
}

/// Both want it all the time, and pause in between.
async fn contend(library: &Library, servers: &[Server], locks: &LockRuntime) {
    let inside = Arc::new(AtomicBool::new(false));
    let (ours, theirs) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let enough = {
        let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
        move || {
            [&ours, &theirs]
                .iter()
                .all(|turns| turns.load(Ordering::SeqCst) >= TURNS)
        }
    };
    let enter = |inside: &AtomicBool| {
        assert!(!inside.swap(true, Ordering::SeqCst), "two are in");
        std::thread::sleep(ms(1));
        inside.store(false, Ordering::SeqCst);
    };
    let mut other = start(library, servers, "contended");
    let them = tokio::task::spawn_blocking({
        let (inside, theirs, enough) = (Arc::clone(&inside), Arc::clone(&theirs), enough.clone());
        move || {
            let started = Instant::now();
            while !enough() {
                assert!(
                    started.elapsed() < 2 * DEADLINE,
                    "it has had {theirs:?} turns"
                );
                if other.ask("lock") == "held" {
                    enter(&inside);
                    assert_eq!(other.ask("unlock"), "released");
                    theirs.fetch_add(1, Ordering::SeqCst);
                }
                std::thread::sleep(ms(fastrand::u64(..20)));
            }
        }
    });
    let started = Instant::now();
    while !enough() {
        assert!(
            started.elapsed() < 2 * DEADLINE,
            "we have had {ours:?} turns"
        );
        let lock = locks.lock("contended").ttl(TTL / 3).wait(DEADLINE);
        let guard = lock.acquire().await.unwrap();
        enter(&inside);
        guard.release().await.unwrap();
        ours.fetch_add(1, Ordering::SeqCst);
        sleep(ms(fastrand::u64(..40))).await;
    }
    them.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redsync_and_ours_exclude_each_other() {
    exclude_each_other(Library {
        command: others::redsync,
        prefix: "",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_redlock_and_ours_exclude_each_other() {
    exclude_each_other(Library {
        command: others::node_redlock,
        prefix: "",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pottery_and_ours_exclude_each_other() {
    exclude_each_other(Library {
        command: others::pottery,
        prefix: "redlock:",
    })
    .await;
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

/// As other libraries do it: `SET NX PX` with the same name on each server.
#[tokio::test]
async fn a_lock_that_another_library_has_on_a_majority_is_waited_for() {
    let servers = five();
    let locks = annotated::runtime(&servers).await;
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
