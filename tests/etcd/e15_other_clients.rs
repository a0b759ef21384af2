//! E15: `etcdctl lock` and Go's mutex want the same lock, and die with it.

use std::process::Command;

use lock_tests::etcd::Cluster;
use lock_tests::faults::{eventually, is_taken};
use lock_tests::others::{Other, go_program};

use super::{DEADLINE, runtime};

/// Go's own mutex, by a small program that is built for the test.
fn go_mutex(cluster: &Cluster, ttl: u32) -> Other {
    static PROGRAM: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    let program = PROGRAM.get_or_init(|| go_program("etcd-mutex"));
    let mut command = Command::new(program);
    command.args([&cluster.endpoints().join(","), "lock:k", &ttl.to_string()]);
    Other::start(command)
}

/// `etcdctl lock`, which says the name of its key when it has the lock.
fn etcdctl_lock(cluster: &Cluster) -> Other {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", cluster.endpoints().join(",")))
        .args(["lock", "--ttl=5", "lock:k"]);
    Other::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_lock_is_waited_for_and_its_end_is_heard() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let mut other = etcdctl_lock(&cluster);
    assert!(other.line().starts_with("lock:k/"));
    assert!(is_taken(&locks, "k").await);
    let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
    eventually("our claim waits behind it", || cluster.claims().len() == 2).await;
    // It releases at SIGINT; killed, its lease of five seconds ends.
    drop(other);
    let guard = waiting.await.unwrap().unwrap();
    assert!(guard.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_lock_waits_for_us() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let guard = locks.lock("k").acquire().await.unwrap();
    let mut other = etcdctl_lock(&cluster);
    eventually("it waits behind us", || cluster.claims().len() == 2).await;
    let (owner, _) = cluster.owner("lock:k").unwrap();
    assert!(owner.contains(guard.owner_token().as_str()), "{owner}");
    guard.release().await.unwrap();
    let line = tokio::task::spawn_blocking(move || (other.line(), other))
        .await
        .unwrap();
    assert!(line.0.starts_with("lock:k/"));
    assert!(is_taken(&locks, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutex_of_go_is_waited_for_in_front_of_us_and_behind_us() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let (started, cluster) = tokio::task::spawn_blocking(move || {
        let mut first = go_mutex(&cluster, 2);
        assert_eq!(
            (first.line(), first.line()),
            ("waits".to_owned(), "held".to_owned())
        );
        (first, cluster)
    })
    .await
    .unwrap();
    assert!(is_taken(&locks, "k").await);
    let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
    eventually("we wait behind it", || cluster.claims().len() == 2).await;
    let mut behind = go_mutex(&cluster, 2);
    assert_eq!(behind.line(), "waits");
    eventually("one waits behind us", || cluster.claims().len() == 3).await;

    // It dies holding; its lease of two seconds ends, which we hear of.
    drop(started);
    let guard = waiting.await.unwrap().unwrap();
    let (owner, _) = cluster.owner("lock:k").unwrap();
    assert!(owner.contains(guard.owner_token().as_str()), "{owner}");
    guard.release().await.unwrap();
    let mut behind = tokio::task::spawn_blocking(move || {
        assert_eq!(behind.line(), "held");
        behind
    })
    .await
    .unwrap();
    assert!(is_taken(&locks, "k").await);
    assert_eq!(behind.ask(""), "released");
    assert!(!is_taken(&locks, "k").await);
}
