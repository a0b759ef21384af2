//! Whether a lock could be had, and what a process costs that does nothing.

use std::time::{Duration, Instant};

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockRuntime, LockRuntimeBuilder};
use lock_tests::faults::comes_true;
use lock_tests::redlock_store::urls;
use lock_tests::server::{Options, Server};
use lock_tests::{consul, etcd, ms};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_or_refuses_is_named_and_no_lock_is_taken() {
    let mut server = Server::start();
    let locks = LockRuntime::redis(server.url()).command_timeout(ms(500));
    let locks = locks.build().await.unwrap();
    let address = format!("127.0.0.1:{}", server.port());
    let health = locks.health().await.unwrap();
    assert!(health.can_grant, "{health:?}");
    assert_eq!(&*health.members[0].address, address);
    assert_eq!((health.members.len(), health.away().count()), (1, 0));

    // One that stands still.
    server.pause();
    let asked = Instant::now();
    let health = locks.health().await.unwrap();
    let took = asked.elapsed();
    server.resume();
    assert!(!health.can_grant, "{health:?}");
    let away: Vec<_> = health.away().collect();
    assert_eq!(&*away[0].address, address);
    assert!(!away[0].trouble.as_ref().unwrap().is_denied());
    // On a busy machine it may be late, but not without an end.
    assert!(took < Duration::from_secs(20), "{took:?}");
    let is_well = async || locks.health().await.unwrap().can_grant;
    comes_true("it is back", is_well).await;

    // One that is full, and one that follows another: they answer, and would store no lock.
    for (fault, end) in [
        (
            ["CONFIG", "SET", "maxmemory", "1"],
            ["CONFIG", "SET", "maxmemory", "0"],
        ),
        (
            ["REPLICAOF", "127.0.0.1", "1", ""],
            ["REPLICAOF", "NO", "ONE", ""],
        ),
    ] {
        let run = |words: [&str; 4]| {
            let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            server.run::<()>(&words);
        };
        run(fault);
        let is_ill = async || !locks.health().await.unwrap().can_grant;
        comes_true(fault[0], is_ill).await;
        run(end);
        comes_true(end[0], is_well).await;
    }
    server.kill();
    let health = locks.health().await.unwrap();
    assert!(
        !health.can_grant && health.away().count() == 1,
        "{health:?}"
    );
    server.restart();
    comes_true("it is back", is_well).await;
    let keys: Vec<String> = server.run(&["KEYS", "*"]);
    assert!(keys.is_empty(), "{keys:?}");
    locks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_each_that_is_away_is_named_and_a_majority_is_enough() {
    let mut servers: Vec<_> = (0..3).map(|_| Server::start()).collect();
    let locks = LockRuntime::redlock(urls(&servers)).command_timeout(ms(500));
    let locks = locks.restart_delay(Duration::ZERO).build().await.unwrap();
    let health = locks.health().await.unwrap();
    assert!(health.can_grant, "{health:?}");
    assert_eq!((health.members.len(), health.away().count()), (3, 0));
    let mut expected = Vec::new();
    for (down, can_grant) in [(0, true), (1, false)] {
        servers[down].kill();
        expected.push(format!("127.0.0.1:{}", servers[down].port()));
        let health = locks.health().await.unwrap();
        assert_eq!(health.can_grant, can_grant, "{health:?}");
        let away: Vec<_> = health.away().map(|member| &*member.address).collect();
        assert_eq!(away, expected);
    }
    for server in &mut servers[..2] {
        server.restart();
    }
    let is_well = async || locks.health().await.unwrap().away().count() == 0;
    comes_true("they are back", is_well).await;

    // Servers that may have lost what they knew vote for nobody for a while: each is there, and no
    // lock could be had.
    for server in &servers {
        server.run::<()>(&["FLUSHALL"]);
    }
    let careful = LockRuntime::redlock(urls(&servers)).restart_delay(Duration::from_secs(3_600));
    let careful = careful.build().await.unwrap();
    let health = careful.health().await.unwrap();
    assert!(!health.can_grant, "{health:?}");
    let trouble = health.members[0].trouble.as_ref().unwrap();
    let trouble = std::error::Error::source(&**trouble).unwrap().to_string();
    assert!(trouble.contains("votes for nobody"), "{trouble}");
}

/// The members of a store of three are killed one after the other, the first of which is at
/// `first`.
async fn members_die(builder: LockRuntimeBuilder, first: u16, mut kill: impl FnMut(usize)) {
    let locks = builder.command_timeout(ms(2_000)).build().await.unwrap();
    let is_well = async || locks.health().await.unwrap().away().count() == 0;
    comes_true("all are there", is_well).await;
    kill(0);
    let address = format!("127.0.0.1:{first}");
    // The others may have to choose a leader first.
    let is_named = async || {
        let health = locks.health().await.unwrap();
        let away: Vec<_> = health.away().map(|member| &*member.address).collect();
        health.can_grant && away == [&*address]
    };
    comes_true("the others go on", is_named).await;
    kill(1);
    let is_over = async || !locks.health().await.unwrap().can_grant;
    comes_true("no majority", is_over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_etcd_each_member_that_is_away_is_named_and_without_a_majority_there_is_no_lock() {
    let mut cluster = etcd::Options::default().start(3);
    let (locks, first) = (LockRuntime::etcd(cluster.endpoints()), cluster.port(0));
    members_die(locks, first, |member| cluster.kill(member)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_consul_each_agent_that_is_away_is_named_and_without_a_leader_there_is_no_lock() {
    let mut cluster = consul::Options::default().start(3);
    let (locks, first) = (LockRuntime::consul(cluster.endpoints()), cluster.port(0));
    members_die(locks, first, |agent| cluster.kill(agent)).await;
}

#[tokio::test]
async fn a_store_in_memory_is_as_a_test_makes_it_and_a_runtime_that_ends_is_not_ready() {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    assert!(locks.health().await.unwrap().can_grant);
    store.fail_next(1, Fault::Unavailable);
    let health = locks.health().await.unwrap();
    assert!(
        !health.can_grant && health.away().count() == 1,
        "{health:?}"
    );
    assert!(locks.health().await.unwrap().can_grant);
    store.fail_next(1, Fault::Hang(Duration::from_secs(600)));
    let asked = Instant::now();
    assert!(locks.health().await.unwrap_err().is_unavailable());
    assert!(asked.elapsed() < Duration::from_secs(60));
    store.heal();
    locks.shutdown().await.unwrap();
    assert!(!locks.health().await.unwrap().can_grant);
}

/// What a process says of itself is all that it costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_nothing_costs_a_connection_and_a_fifth_of_a_command_a_second() {
    let server = Options::default().start();
    let connections = || {
        let info: String = server.run(&["INFO", "clients"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:"));
        line.unwrap().parse::<usize>().unwrap()
    };
    let before = connections();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    assert_eq!(connections() - before, 1);
    let monitor = server.monitor();
    let since = Instant::now();
    sleep(Duration::from_secs(21)).await;
    let lines = monitor.lines(&server);
    let seconds = since.elapsed().as_secs_f64();
    // What scripts do is no command of its own.
    let is_sent = |line: &&String| line.contains("[0 ") && !line.contains(" lua]");
    let sent: Vec<_> = lines.iter().filter(is_sent).collect();
    let is_card = |line: &&&String| line.contains("\"EVAL");
    assert!(
        sent.iter().any(|line| is_card(&line)),
        "its card: {lines:?}"
    );
    assert!(sent.len() as f64 <= 0.2 * seconds, "{lines:?}");
    locks.shutdown().await.unwrap();
}
