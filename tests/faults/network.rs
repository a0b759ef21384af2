//! Promises about a network that fails: rows N1 to N8 of the fault catalogue.
//!
//! For all of them: no guard without a confirmed lease that is still valid, and no call beyond its deadline.

use std::sync::Arc;
use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_tests::faults::proxy::{Fault, Proxy, Way};
use lock_tests::faults::{
    DEADLINE, SLACK, builder, by_the_short_way, can_be_had, eventually, free, locks, ms,
    nothing_left, owner, queued, remaining, start, start_patient,
};
use lock_tests::server::Server;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn n0_without_a_fault_the_proxy_changes_nothing() {
    let (server, proxy, locks) = start_patient().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();

    assert_eq!((proxy.seen("acquire"), proxy.seen("release")), (1, 1));
    assert_eq!(proxy.faults(), 0);
    // The lane, and the short way of this tokio runtime.
    assert!((1..=2).contains(&proxy.connections()));
}

#[tokio::test]
async fn n2_no_withdrawal_by_the_lane_overtakes_a_claim_by_the_short_way() {
    let (server, proxy, locks) = start().await;
    by_the_short_way(&proxy, &locks).await;
    proxy.fault("acquire", Fault::Hold);
    // Dropped, it is withdrawn by the driver, who is at home on the lane.
    let claimed = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    eventually("the request is under way", || proxy.faults() == 1).await;
    claimed.abort();
    assert!(claimed.await.unwrap_err().is_cancelled());
    eventually("a withdrawal", || proxy.seen("abandon") > 0).await;
    proxy.let_go(1).await;
    // Long before its lease would end by itself.
    free(&server, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn n7_a_short_way_that_is_cut_is_opened_again() {
    let (_server, proxy, locks) = start().await;
    by_the_short_way(&proxy, &locks).await;
    proxy.cut();
    eventually("the cut", || proxy.connections() < 2).await;
    can_be_had(&locks, "warm").await;
    by_the_short_way(&proxy, &locks).await;
}

#[tokio::test]
async fn n1_a_partition_ends_no_call_later_than_its_deadline_and_heals_within_a_second() {
    let (server, proxy, locks) = start().await;
    let held = locks.lock("held").ttl(ms(3000)).acquire().await.unwrap();
    proxy.partition(Way::Both);

    let started = Instant::now();
    let error = locks
        .lock("free")
        .wait(ms(700))
        .acquire()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < ms(700) + SLACK);
    assert!(
        owner(&server, "free").is_none(),
        "the partition let it through"
    );

    held.lost().await;
    assert!(started.elapsed() < ms(3000) + SLACK);
    let error = held.release().await.unwrap_err();
    assert!(error.is_lost(), "{error}");

    proxy.heal();
    let healed = Instant::now();
    can_be_had(&locks, "free").await;
    assert!(healed.elapsed() < Duration::from_secs(1) + SLACK);
    nothing_left(&server).await;
}

#[tokio::test]
async fn n1_a_lease_is_lost_before_the_server_gives_it_away() {
    let (server, proxy, locks) = start().await;
    // A machine that stands still in the few milliseconds between the two ends shows nothing.
    for _ in 0..10 {
        let guard = locks.lock("k").ttl(ms(1500)).acquire().await.unwrap();
        proxy.partition(Way::Up);
        let believes = async {
            loop {
                let is_owner = owner(&server, "k").is_some();
                assert!(
                    is_owner || !guard.is_held(),
                    "another could have it while the guard said held"
                );
                sleep(ms(2)).await;
            }
        };
        tokio::select! {
            () = guard.lost() => {}
            () = believes => {}
        }
        let was_owner = owner(&server, "k").is_some();
        assert!(!guard.is_held());
        drop(guard);
        free(&server, "k").await;
        if was_owner {
            return;
        }
        proxy.heal();
    }
    panic!("another could have it before the loss was told");
}

#[tokio::test]
async fn n1_a_partition_shorter_than_the_lease_loses_nothing() {
    let (server, proxy, locks) = start().await;
    let guard = locks.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    proxy.partition(Way::Both);
    sleep(ms(2500)).await;
    assert!(
        remaining(&server, "k").unwrap() < ms(17_600),
        "it was renewed all the same"
    );
    proxy.heal();

    eventually("the lease is renewed", || {
        remaining(&server, "k").unwrap() > ms(18_500)
    })
    .await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn n2_lost_requests_are_no_grant() {
    let (server, proxy, locks) = start().await;
    proxy.fault_all("acquire", Fault::LoseRequest);
    let error = locks.lock("k").wait(ms(600)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(proxy.faults() > 0);
    assert!(owner(&server, "k").is_none());
}

#[tokio::test]
async fn n2_lost_answers_leave_no_orphan() {
    // While the connection is there: a new one would have to be answered first.
    let (server, proxy, locks) = start_patient().await;
    proxy.partition(Way::Down);
    let acquiring = tokio::spawn(locks.lock("k").ttl(ms(60_000)).wait(ms(600)).acquire());
    eventually("the request arrives", || owner(&server, "k").is_some()).await;
    let error = acquiring.await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");

    // One direction is enough to clean up.
    free(&server, "k").await;
    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn n3_a_peer_that_stops_reading_is_replaced() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::StopReading);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    assert!(
        proxy.log().iter().any(|command| command.connection > 0),
        "no new connection"
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn n3_a_half_closed_connection_is_replaced() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::HalfClose);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn n3_a_dead_idle_connection_does_not_make_a_waiter_wait_longer_than_its_heartbeat() {
    let (server, proxy, waiting) = start().await;
    let holding = locks(server.url()).await;
    let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;

    // The message of the hand-over is on its way when the network goes dark for good.
    proxy.partition(Way::Down);
    holder.release().await.unwrap();
    assert_ne!(owner(&server, "k"), None, "nothing was handed over");
    proxy.cut();
    proxy.heal();
    let guard = waiter.await.unwrap().unwrap();
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn n4_an_answer_cut_in_half_is_asked_for_again() {
    for fault in [Fault::Truncate, Fault::CutAnswer, Fault::Cut] {
        let (server, proxy, locks) = start_patient().await;
        proxy.fault("acquire", fault);
        let guard = locks.lock("k").acquire().await.unwrap();
        assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 2), "{fault:?}");
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(guard.owner_token().as_str())
        );

        proxy.fault("release", fault);
        let released = guard.release().await;
        assert_eq!(proxy.faults(), 2, "{fault:?}");
        assert!(released.is_ok(), "{fault:?}: {released:?}");
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn n4_an_answer_that_is_no_resp_is_asked_for_again() {
    for nonsense in [
        "?!",
        "*1000000000",
        "$-7",
        ":x",
        "HTTP/1.1 400 Bad Request",
        "*1\r\n+nonsense",
        "+OK",
        ":1",
        "_",
    ] {
        let (server, proxy, locks) = start().await;
        proxy.fault("acquire", Fault::Reply(nonsense));
        let guard = locks.lock("k").acquire().await;
        assert_eq!(proxy.faults(), 1, "{nonsense}");
        let guard = guard.unwrap_or_else(|error| panic!("{nonsense}: {error:?}"));
        guard.release().await.unwrap();
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn n5_one_byte_a_second_is_no_answer() {
    let (server, proxy, locks) = start().await;
    proxy.throttle(1);
    let started = Instant::now();
    let error = locks.lock("k").wait(ms(700)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < ms(700) + SLACK);

    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn n5_a_round_trip_of_half_a_ttl_is_taken_off_the_lease() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = builder(proxy.url())
        .command_timeout(DEADLINE)
        .build()
        .await
        .unwrap();
    proxy.lag(ms(250));
    let started = Instant::now();
    let guard = locks
        .lock("k")
        .ttl(ms(20_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert!(started.elapsed() >= ms(500), "the network did not lag");
    assert!(guard.remaining() <= ms(19_500));
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn n6_an_acquire_that_takes_a_ttl_gives_no_guard() {
    let (server, proxy, locks) = start().await;
    proxy.lag(ms(110));
    let outcome = locks.lock("k").ttl(ms(200)).wait(ms(1500)).acquire().await;
    assert!(
        outcome.is_err(),
        "a lease was believed that had ended: {outcome:?}"
    );
    eventually("it asked", || proxy.seen("acquire") > 0).await;

    proxy.heal();
    free(&server, "k").await;
    can_be_had(&locks, "k").await;
}

#[tokio::test]
async fn n7_flapping_grows_neither_connections_nor_files_nor_tasks() {
    let seconds: u64 = std::env::var("FAULT_SECONDS").map_or(3, |text| text.parse().unwrap());
    let (server, proxy, locks) = start().await;
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (threads(), files());
    let proxy = Arc::new(proxy);
    let flapping = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            let mut flaps = 0;
            for _ in 0..seconds * 10 {
                proxy.cut();
                flaps += 1;
                sleep(ms(100)).await;
            }
            flaps
        }
    });
    let mut served = 0;
    while !flapping.is_finished() {
        // What is too late is an error, and no guard that never comes.
        let acquiring = locks.lock("k").wait(ms(4000)).acquire();
        if let Ok(guard) = timeout(DEADLINE, acquiring)
            .await
            .expect("an acquire hangs")
        {
            served += 1;
            drop(guard);
        }
        sleep(ms(20)).await;
    }
    assert_eq!(flapping.await.unwrap(), seconds * 10);
    // It recovers, however little could be served between the cuts.
    can_be_had(&locks, "k").await;
    println!("served {served}");
    assert!(
        proxy.log().iter().map(|command| command.connection).max() > Some(2),
        "it did not flap"
    );
    // The lane, and the short way of this tokio runtime.
    eventually("two connections", || proxy.connections() == 2).await;
    let clients: String = server.run(&["CLIENT", "LIST"]);
    let ours = clients
        .lines()
        .filter(|line| line.contains("lib-name=") || line.contains("sub=1"));
    assert!(ours.count() <= 3, "{clients}");
    // Other tests run beside this one.
    assert!(
        threads() <= before.0 + 40 && files() <= before.1 + 200,
        "they grow"
    );
    nothing_left(&server).await;
}

#[tokio::test]
async fn n8_a_name_without_an_address_is_told_at_once() {
    let started = Instant::now();
    let error = LockRuntime::redis("redis://no-such-host.invalid/")
        .build()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5) + SLACK);
}
