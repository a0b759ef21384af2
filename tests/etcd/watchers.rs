//! The watchers of those who wait: that they are there when they are needed, and no longer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lock_conformance::inbox::Inbox;
use lock_etcd::{EtcdBackend, EtcdSettings};
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_tests::etcd::Cluster;
use lock_tests::etcd_store::{acquire_within, connect};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(30);
const HAND_OVERS: usize = 20;

/// How many watchers the server has.
fn watchers(cluster: &Cluster) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.port(0))).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let question = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(question).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let name = "etcd_debugging_mvcc_watcher_total ";
    let count = answer.lines().find_map(|line| line.strip_prefix(name));
    count.unwrap().parse().unwrap()
}

/// Waits until the server has so many watchers; how many it has, if that does not come.
async fn comes_to(cluster: &Cluster, count: usize, within: Duration) -> Result<(), usize> {
    let deadline = Instant::now() + within;
    loop {
        let there = watchers(cluster);
        if there == count {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(there);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_waiter_that_has_had_its_turn_leaves_no_watcher_behind() {
    let cluster = Cluster::start();
    let here = connect(&cluster).await;
    let inbox = Inbox::of(&here);
    let key = LockKey::new("lock:", "watched").unwrap();
    let none = watchers(&cluster);
    let claim = |turn: usize| {
        let owner = OwnerToken::new(format!("o{turn}"));
        Claim::new(key.clone(), owner, TTL).queued()
    };
    acquire_within(DEADLINE, &here, &claim(0), |it| {
        matches!(it, Acquired::Granted(_))
    })
    .await;
    for turn in 0..HAND_OVERS {
        let (holder, waiter) = (claim(turn), claim(turn + 1));
        acquire_within(DEADLINE, &here, &waiter, |it| {
            matches!(it, Acquired::Queued(_))
        })
        .await;
        if turn == 0 {
            // The control: a waiter has one.
            comes_to(&cluster, none + 1, DEADLINE).await.unwrap();
        }
        let release = Release::new(key.clone(), holder.owner);
        here.release(&release).await.unwrap();
        let told = timeout(DEADLINE, inbox.changed(&waiter)).await;
        assert!(told.is_ok(), "the waiter hears of its turn");
        acquire_within(DEADLINE, &here, &waiter, |it| {
            matches!(it, Acquired::Granted(_))
        })
        .await;
    }
    comes_to(&cluster, none, Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_waiter_hears_of_its_turn_after_the_token_of_the_user_has_ended() {
    let cluster = Cluster::start();
    cluster.ctl(&["user", "add", "root:secret"]);
    cluster.ctl(&["user", "grant-role", "root", "root"]);
    cluster.ctl(&["auth", "enable"]);
    let mut settings = EtcdSettings::new(cluster.endpoints());
    settings.user = Some(("root".to_owned(), "secret".to_owned()));
    settings.command_timeout = Duration::from_secs(4);
    let here = EtcdBackend::connect(settings).await.unwrap();
    let inbox = Inbox::of(&here);
    let key = LockKey::new("lock:", "watched").unwrap();
    let claim = |turn: usize| {
        let owner = OwnerToken::new(format!("o{turn}"));
        Claim::new(key.clone(), owner, TTL).queued()
    };
    acquire_within(DEADLINE, &here, &claim(0), |it| {
        matches!(it, Acquired::Granted(_))
    })
    .await;
    // The first time is the control.
    for turn in 0..2 {
        let (holder, waiter) = (claim(turn), claim(turn + 1));
        acquire_within(DEADLINE, &here, &waiter, |it| {
            matches!(it, Acquired::Queued(_))
        })
        .await;
        let release = Release::new(key.clone(), holder.owner);
        here.release(&release).await.unwrap();
        let told = timeout(DEADLINE, inbox.changed(&waiter)).await;
        assert!(told.is_ok(), "waiter {turn} hears nothing");
        acquire_within(DEADLINE, &here, &waiter, |it| {
            matches!(it, Acquired::Granted(_))
        })
        .await;
        // No token of before is known any more.
        cluster.ctl(&["--user=root:secret", "auth", "disable"]);
        cluster.ctl(&["auth", "enable"]);
    }
}
