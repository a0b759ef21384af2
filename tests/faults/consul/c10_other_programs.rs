//! C10: `consul lock`, Go's lock and other programs hold the lock, wait for it, free it and delete
//! its key.

use std::process::Command;

use lock_tests::consul::program;
use lock_tests::faults::is_taken;
use lock_tests::others::Other;
use tokio::task::spawn_blocking;

use super::*;

/// A program that knows nothing of us holds the lock, frees it and deletes its key: our queue keeps
/// its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_holder_is_followed_by_our_queue_in_its_order() {
    let cluster = Cluster::start();
    let session = cluster.new_session();
    let path = "/v1/kv/lock:k/.lock?flags=3304740253564472344";
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let (one, two) = (
        runtime(cluster.endpoints()).await,
        runtime(cluster.endpoints()).await,
    );
    let first = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    let second = waits(&two, "k");
    waiters(&cluster, "k", 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    let freed = cluster.ask("PUT", &format!("{path}&release={session}"), "");
    assert_eq!(freed.trim(), "true");
    let (guard, _) = timeout(DEADLINE, first).await.unwrap().unwrap();
    assert!(!second.is_finished());
    guard.release().await.unwrap();
    let (guard, _) = timeout(DEADLINE, second).await.unwrap().unwrap();
    guard.release().await.unwrap();
    cluster.destroy(&session);

    // Now it deletes the key as well, as `consul lock` does.
    let session = cluster.new_session();
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let waiting = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
    let (guard, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
}

/// Reads lines of `other` until this one.
async fn says(mut other: Other, wanted: &'static str) -> Other {
    let reading = spawn_blocking(move || {
        while other.line_within(DEADLINE) != wanted {}
        other
    });
    timeout(DEADLINE, reading).await.unwrap().unwrap()
}

/// A program of others holds the lock, and we wait for it; then it waits for us.
async fn excludes_us_and_is_excluded(start: fn(&Cluster) -> Other) {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let mut other = says(start(&cluster), "held").await;
    assert!(is_taken(&locks, "k").await);
    let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
    eventually("our claim waits behind it", || {
        cluster.waiters("lock:k") == 1
    })
    .await;
    assert!(!waiting.is_finished());
    other.tell("");
    let guard = waiting.await.unwrap().unwrap();
    assert!(guard.is_held());
    drop(other);

    let behind = start(&cluster);
    // It makes a session of its own before it looks.
    let known = cluster.sessions().len();
    let (_, value) = cluster.owner("lock:k").unwrap();
    assert!(value.contains(guard.owner_token().as_str()), "{value}");
    eventually("it waits behind us", || {
        cluster.sessions().len() >= known.max(2)
    })
    .await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    let _behind = says(behind, "held").await;
    assert!(is_taken(&locks, "k").await);
}

/// Go's own lock, by a small program that is built for the test.
fn go_lock(cluster: &Cluster) -> Other {
    let address = format!("127.0.0.1:{}", cluster.port(0));
    let mut command = Command::new(program("go-lock"));
    command.args([&address, "lock:k/.lock", "10s"]);
    Other::start(command)
}

/// `consul lock`, with a child that says when it has the lock.
fn consul_lock(cluster: &Cluster) -> Other {
    let child = "echo held; read line; echo done";
    Other::start(cluster.lock_command(&["-pass-stdin", "lock:k", child]))
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_lock_and_we_exclude_each_other() {
    excludes_us_and_is_excluded(consul_lock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_go_and_we_exclude_each_other() {
    excludes_us_and_is_excluded(go_lock).await;
}
