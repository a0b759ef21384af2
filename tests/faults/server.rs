//! Promises about servers that forget, refuse, stand still or lie about the time: rows R1 to R3, R7 to R18 and R20 to R22.

use std::time::Duration;

use lock_runtime::fencing::Writer;
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::clock::Clock;
use lock_tests::faults::proxy::{Fault, Proxy};
use lock_tests::faults::resource::{Resource, Write};
use lock_tests::faults::{
    DEADLINE, SLACK, builder, can_be_had, eventually, free, locks, ms, nothing_left, owner, queued,
    remaining,
};
use lock_tests::server::{Options, Server};
use lock_tests::{alone, causes};
use tokio::time::{Instant, sleep, sleep_until, timeout};

async fn write(resource: &Resource, guard: &LockGuard) -> Write {
    resource.write(&Writer::from(guard)).await
}

/// Asserts that a new holder can write, and the one from before cannot any more.
async fn assert_fenced(resource: &Resource, stale: &LockGuard, fresh: &LockGuard) {
    assert!(fresh.fencing_token() > stale.fencing_token());
    assert_eq!(write(resource, fresh).await, Write::Accepted);
    assert_eq!(write(resource, stale).await, Write::Refused);
    assert_eq!(resource.stale_writes().await, 0);
    resource.write_unguarded(&Writer::from(stale)).await;
    assert_eq!(
        resource.stale_writes().await,
        1,
        "a resource that does not compare is no witness"
    );
}

/// Waits until the server has read its files.
async fn loaded(server: &Server) {
    let loading = || {
        server
            .run::<String>(&["INFO", "persistence"])
            .contains("loading:1")
    };
    eventually("it has loaded", || !loading()).await;
}

#[tokio::test]
async fn r01_a_restart_without_persistence_is_fenced_and_recovered_from_within_a_second() {
    let _alone = alone().await;
    let (mut server, store) = (Server::start(), Server::start());
    let resource = Resource::in_redis(&store);
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one
        .lock("k")
        .ttl(ms(60_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.kill();
    server.restart();
    assert_eq!(owner(&server, "k"), None, "it forgot nothing");

    let restarted = Instant::now();
    let fresh = two.lock("k").acquire().await.unwrap();
    assert!(restarted.elapsed() < Duration::from_secs(1) + SLACK);
    assert_fenced(&resource, &stale, &fresh).await;
    assert!(stale.release().await.unwrap_err().is_lost());
    fresh.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn r01_a_restart_ends_a_renewed_lease_with_a_loss_and_a_queue_with_a_new_one() {
    let mut server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 1).await;
    server.kill();
    server.restart();
    // Sooner than by the end of its lease.
    timeout(ms(15_000), held.lost())
        .await
        .expect("the holder is not told");
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.fencing_token() > held.fencing_token());
    guard.release().await.unwrap();
    drop(held);
    nothing_left(&server).await;
}

#[tokio::test]
async fn r02_a_restart_with_an_append_only_file_keeps_the_lock() {
    for policy in ["always", "everysec"] {
        let options = Options::default();
        let mut server = options
            .with(["--appendonly", "yes", "--appendfsync", policy])
            .start();
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let held = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        server.kill();
        server.restart();
        loaded(&server).await;
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(held.owner_token().as_str())
        );
        assert!(two.lock("k").try_acquire().await.unwrap().is_none());
        assert!(held.is_held());
        held.release().await.unwrap();
        let next = two.lock("k").acquire().await.unwrap();
        next.release().await.unwrap();
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn r03_a_lock_that_was_deleted_is_lost_and_never_made_again() {
    for command in [&["FLUSHALL"][..], &["FLUSHDB"], &["DEL", "lock:k"]] {
        let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
        let resource = Resource::in_sqlite(directory.path());
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let stale = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
        assert_eq!(write(&resource, &stale).await, Write::Accepted);
        server.run::<()>(command);
        let deleted = Instant::now();
        stale.lost().await;
        // A tenth of the ttl is the period of the renewals; the ttl itself is longer still.
        assert!(
            deleted.elapsed() < ms(2000) + SLACK,
            "{:?}",
            deleted.elapsed()
        );
        assert_eq!(owner(&server, "k"), None, "the renewal made it again");
        let fresh = two.lock("k").acquire().await.unwrap();
        assert_fenced(&resource, &stale, &fresh).await;
        assert!(stale.release().await.unwrap_err().is_lost());
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(fresh.owner_token().as_str())
        );
    }
}

#[tokio::test]
async fn r03_a_body_whose_lock_was_deleted_does_not_end_well() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let ran = locks.lock("k").ttl(ms(4000)).run(async |_| {
        server.run::<()>(&["DEL", "lock:k"]);
        sleep(2 * DEADLINE).await;
    });
    let error = timeout(DEADLINE, ran).await.unwrap().unwrap_err();
    assert!(error.is_lost(), "{error}");

    // One that ends before the next renewal learns of it by its release.
    let ran = locks.lock("k").ttl(ms(120_000)).run(async |_| {
        server.run::<()>(&["DEL", "lock:k"]);
    });
    assert!(ran.await.unwrap_err().is_lost());
}

#[tokio::test]
async fn r07_a_server_that_became_a_replica_is_unavailable_until_it_is_the_master() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = locks.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let mended = Instant::now();
    can_be_had(&locks, "new").await;
    assert!(mended.elapsed() < Duration::from_secs(1) + SLACK);
    nothing_left(&server).await;
}

#[tokio::test]
async fn r08_a_server_that_loads_is_unavailable_until_it_has() {
    let mut server = Options::default()
        .with([
            "--key-load-delay",
            "200",
            "--loading-process-events-interval-bytes",
            "1024",
        ])
        .start();
    let locks = locks(server.url()).await;
    let fill = "for i = 1, 30000 do redis.call('SET', 'x' .. i, i, 'EX', 600) end";
    server.run::<()>(&["EVAL", fill, "0"]);
    server.run::<()>(&["SAVE"]);
    server.kill();
    server.restart();
    let info: String = server.run(&["INFO", "persistence"]);
    assert!(info.contains("loading:1"), "it is not loading");

    let error = locks
        .lock("k")
        .wait(Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    let guard = locks.lock("k").acquire().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test]
async fn r09_scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
    for _ in 0..3 {
        server.run::<()>(&["SCRIPT", "FLUSH"]);
        let before = remaining(&server, "k").unwrap();
        let cached: Vec<usize> = server.run(&[
            "SCRIPT",
            "EXISTS",
            "0000000000000000000000000000000000000000",
        ]);
        assert_eq!(cached, [0]);
        eventually("it is renewed", || {
            remaining(&server, "k").unwrap() > before
        })
        .await;
        assert!(guard.is_held());
    }
    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let monitor = server.monitor();
    can_be_had(&locks, "other").await;
    let commands = monitor.commands(&server);
    assert!(
        commands.iter().any(|line| line.contains("\"EVAL\"")),
        "{commands:?}"
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn r10_holders_renew_and_hand_over_while_the_memory_is_full() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(4000)).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("k").ttl(ms(4000)).acquire());
    queued(&server, "k", 1).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut client = server.client();
    let refused = redis::cmd("SET")
        .arg("x")
        .arg("y")
        .exec(&mut client)
        .unwrap_err();
    assert_eq!(refused.code(), Some("OOM"));

    let error = one.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    sleep(ms(4500)).await;
    assert!(held.is_held(), "it was not renewed");
    held.release().await.unwrap();
    let guard = timeout(DEADLINE, waiter)
        .await
        .expect("not handed over")
        .unwrap()
        .unwrap();
    sleep(ms(4500)).await;
    assert!(guard.is_held(), "it was not renewed");
    guard.release().await.unwrap();
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let guard = one.lock("new").acquire().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test]
async fn r11_a_lock_that_was_evicted_is_lost_and_fenced() {
    let server = Options::default()
        .with(["--maxmemory-policy", "volatile-ttl"])
        .start();
    let store = Server::start();
    let resource = Resource::in_redis(&store);
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let _: redis::RedisResult<()> = redis::cmd("SET")
        .arg("x")
        .arg("y")
        .arg("EX")
        .arg(60)
        .exec(&mut server.client());
    assert_eq!(owner(&server, "k"), None, "nothing was evicted");
    let evicted: String = server.run(&["INFO", "stats"]);
    assert!(!evicted.contains("evicted_keys:0\r\n"));
    timeout(DEADLINE, stale.lost())
        .await
        .expect("the holder is not told");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let fresh = two.lock("k").acquire().await.unwrap();
    assert_fenced(&resource, &stale, &fresh).await;
}

#[tokio::test]
async fn r12_a_server_with_too_many_clients_is_unavailable_until_it_has_room() {
    let server = Server::start();
    let mut client = server.client();
    let lazily = builder(server.url())
        .connect_lazily()
        .build()
        .await
        .unwrap();
    server.run::<()>(&["CONFIG", "SET", "maxclients", "1"]);
    redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("pubsub")
        .query::<usize>(&mut client)
        .unwrap();
    let refused = redis::Client::open(server.url()).unwrap().get_connection();
    let refused = refused.and_then(|mut connection| redis::cmd("PING").exec(&mut connection));
    assert!(refused.is_err(), "it takes further clients");
    let error = lazily.lock("k").wait(ms(400)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxclients")
        .arg("100")
        .exec(&mut client)
        .unwrap();
    let mended = Instant::now();
    can_be_had(&lazily, "k").await;
    assert!(mended.elapsed() < Duration::from_secs(1) + SLACK);
}

#[tokio::test]
async fn r13_a_busy_server_is_asked_again_and_costs_no_lease() {
    let server = Options::default()
        .with(["--busy-reply-threshold", "20"])
        .start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    let mut endless = server.client();
    let blocked = std::thread::spawn(move || {
        redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .exec(&mut endless)
    });
    eventually("it is busy", || {
        redis::cmd("GET")
            .arg("x")
            .exec(&mut server.client())
            .is_err_and(|error| error.code() == Some("BUSY"))
    })
    .await;
    let error = two.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    sleep(ms(2500)).await;
    assert!(held.is_held());
    server.run::<()>(&["SCRIPT", "KILL"]);
    assert!(blocked.join().unwrap().is_err());
    let before = remaining(&server, "k").unwrap();
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() > before
    })
    .await;
    held.release().await.unwrap();
    can_be_had(&two, "new").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn r14_a_server_that_cannot_save_is_unavailable_and_a_lease_ends_by_its_deadline() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let held = locks.lock("k").ttl(ms(6000)).acquire().await.unwrap();
    // To save is impossible where the directory of the file is gone.
    server.run::<()>(&["CONFIG", "SET", "save", "1 1"]);
    server.lose_disk();
    let mut client = server.client();
    let _: redis::RedisResult<()> = redis::cmd("BGSAVE").exec(&mut client);
    eventually("it refuses to write", || {
        let set = redis::cmd("SET")
            .arg("x")
            .arg("y")
            .arg("EX")
            .arg(60)
            .exec(&mut client);
        set.is_err_and(|error| error.code() == Some("MISCONF"))
    })
    .await;
    let refused = Instant::now();
    let error = locks.lock("new").wait(ms(300)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    held.lost().await;
    assert!(refused.elapsed() < ms(6000) + SLACK);
    assert!(held.release().await.unwrap_err().is_lost());
    server.run::<()>(&["CONFIG", "SET", "save", ""]);
    can_be_had(&locks, "new").await;
}

#[tokio::test]
async fn r15_a_clock_that_jumps_ahead_is_fenced() {
    let (clock, store) = (Clock::new(), Server::start());
    let resource = Resource::in_redis(&store);
    let server = clock.server().start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let stale = one
        .lock("k")
        .ttl(ms(55_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    let before: Vec<u64> = server.run(&["TIME"]);
    clock.shift(60);
    let after: Vec<u64> = server.run(&["TIME"]);
    assert!(after[0] >= before[0] + 60, "the clock did not move");

    let fresh = two.lock("k").acquire().await.unwrap();
    assert!(
        stale.is_held(),
        "two hold it, which is why there are fences"
    );
    assert_fenced(&resource, &stale, &fresh).await;
    assert!(stale.release().await.unwrap_err().is_lost());
    fresh.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn r16_a_clock_that_is_set_back_is_safe_and_its_fences_go_on() {
    let clock = Clock::new();
    let server = clock.server().start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let first = one.lock("k").ttl(ms(10_000)).acquire().await.unwrap();
    clock.shift(-240);
    assert!(
        remaining(&server, "k").unwrap() > ms(100_000),
        "the clock did not move"
    );
    // The holder renews as ever, and its release needs no clock.
    eventually("it is renewed", || {
        remaining(&server, "k").unwrap() <= ms(10_000)
    })
    .await;
    let token = first.fencing_token();
    first.release().await.unwrap();
    let mut last = token;
    for _ in 0..5 {
        let next = two.lock("k").acquire().await.unwrap();
        assert!(next.fencing_token() > last);
        last = next.fencing_token();
        next.release().await.unwrap();
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn r17_a_server_that_stands_still_gives_no_guard_beyond_its_lease() {
    type Stall = fn(&mut Server);
    let stalls: [(&str, Stall); 3] = [
        ("sleep", |server| {
            let mut client = server.client();
            std::thread::spawn(move || redis::cmd("DEBUG").arg("SLEEP").arg("6").exec(&mut client));
        }),
        ("pause", |server| {
            server.run::<()>(&["CLIENT", "PAUSE", "6000", "ALL"])
        }),
        ("stop", Server::pause),
    ];
    for (name, stall) in stalls {
        let mut server = Options::default()
            .with(["--enable-debug-command", "yes"])
            .start();
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let held = one.lock("k").ttl(ms(3000)).acquire().await.unwrap();
        let started = Instant::now();
        let mut probe = server.client();
        probe.set_read_timeout(Some(ms(500))).unwrap();
        stall(&mut server);
        while redis::cmd("PING").exec(&mut probe).is_ok() {
            sleep(ms(2)).await;
        }
        let error = two
            .lock("new")
            .ttl(ms(3000))
            .wait(ms(300))
            .acquire()
            .await
            .unwrap_err();
        assert!(error.is_unavailable(), "{name}: {}", causes(&error));
        assert!(started.elapsed() < ms(1000) + SLACK, "{name}");
        held.lost().await;
        assert!(started.elapsed() < ms(3000) + SLACK, "{name}");
        if name == "stop" {
            server.resume();
        }
        let guard = two.lock("k").acquire().await.unwrap();
        assert!(guard.remaining() > Duration::ZERO);
        guard.release().await.unwrap();
        drop(held);
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn r17_a_caller_who_leaves_while_the_server_stands_still_leaves_no_lock_behind() {
    let mut server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let held = locks.lock("held").acquire().await.unwrap();
    // Until the short way is there, a lock is taken by the lane.
    let short_way = || {
        let clients: String = server.run(&["CLIENT", "LIST"]);
        let clients = clients.lines();
        // The lane is one of two that do.
        clients
            .filter(|client| client.contains(" cmd=evalsha "))
            .count()
            == 2
    };
    let deadline = Instant::now() + DEADLINE;
    while !short_way() {
        assert!(Instant::now() < deadline, "there is no short way");
        can_be_had(&locks, "warm").await;
    }

    server.pause();
    let started = Instant::now();
    // By the lane: so the server reads that first when it goes on, with the withdrawal, and then
    // the short way, which is dead by then.
    let renewing = tokio::spawn(async move {
        // It may fail, for want of an answer.
        drop(held.renew().await);
        held
    });
    sleep(ms(50)).await;
    let acquiring = locks.lock("k").ttl(ms(60_000)).acquire();
    assert!(timeout(ms(1100), acquiring).await.is_err());
    sleep_until(started + ms(1800)).await;
    server.resume();

    let asked = Instant::now();
    let guard = locks.lock("k").wait(DEADLINE).acquire().await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(1) + SLACK,
        "nobody held it, and it was locked"
    );
    guard.release().await.unwrap();
    renewing.await.unwrap().release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn r18_a_wrong_password_is_denied_at_once() {
    let server = Options::default().password("right").start();
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    let started = Instant::now();
    for wrong in [url("wrong"), server.url()] {
        let error = builder(wrong).build().await.unwrap_err();
        assert!(
            error.is_denied() && !error.is_retryable(),
            "{}",
            causes(&error)
        );
        assert!(!causes(&error).contains("wrong@"));
    }
    assert!(started.elapsed() < ms(1000) + SLACK);
    let right = locks(url("right")).await;
    can_be_had(&right, "k").await;
}

#[tokio::test]
async fn r18_a_user_that_is_removed_while_it_holds_a_lock_is_told() {
    let server = Server::start();
    server.run::<()>(&[
        "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all",
    ]);
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let locks = locks(url).await;
    let held = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
    assert_eq!(server.run::<usize>(&["ACL", "DELUSER", "app"]), 1);
    let removed = Instant::now();
    let error = locks.lock("new").acquire().await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    timeout(ms(5000) + SLACK, held.lost())
        .await
        .expect("the holder is not told");
    assert!(removed.elapsed() < ms(5000) + 2 * SLACK);
    free(&server, "k").await;
}

#[tokio::test]
async fn r18_a_permission_taken_away_names_the_rule_that_is_needed() {
    let server = Server::start();
    server.run::<()>(&[
        "ACL", "SETUSER", "app", "on", ">secret", "~lock:*", "~{lock:*", "&lock:*", "+@all",
    ]);
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let locks = locks(url).await;
    can_be_had(&locks, "k").await;
    for missing in ["-set", "-evalsha", "resetkeys"] {
        server.run::<()>(&["ACL", "SETUSER", "app", missing]);
        let error = locks.lock("k").acquire().await.unwrap_err();
        assert!(error.is_denied(), "{missing}: {}", causes(&error));
        assert!(
            causes(&error).contains("~lock:*"),
            "{missing}: {}",
            causes(&error)
        );
    }
}

#[tokio::test]
async fn r20_a_grant_that_the_append_only_file_lost_is_fenced() {
    let options = Options::default().with(["--appendonly", "yes", "--appendfsync", "always"]);
    let mut server = options.with(["--aof-load-truncated", "yes"]).start();
    let directory = tempfile::tempdir().unwrap();
    let resource = Resource::in_sqlite(directory.path());
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    can_be_had(&one, "k").await;
    let length = server.append_only_file().metadata().unwrap().len();
    let stale = one
        .lock("k")
        .ttl(ms(60_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.kill();
    // The power went before the last write reached the disk.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(server.append_only_file())
        .unwrap();
    assert!(file.metadata().unwrap().len() > length);
    file.set_len(length + 10).unwrap();
    server.restart();
    loaded(&server).await;
    assert_eq!(owner(&server, "k"), None, "it was not lost");
    let fresh = two.lock("k").acquire().await.unwrap();
    assert_fenced(&resource, &stale, &fresh).await;
}

#[tokio::test]
async fn r21_another_database_is_another_world() {
    let server = Server::start();
    let (zero, one) = (
        locks(server.url()).await,
        locks(format!("{}/1", server.url())).await,
    );
    let held = zero.lock("k").acquire().await.unwrap();
    let other = one
        .lock("k")
        .try_acquire()
        .await
        .unwrap()
        .expect("databases do not exclude each other");
    assert!(zero.lock("k").try_acquire().await.unwrap().is_none());
    held.release().await.unwrap();
    other.release().await.unwrap();
}

#[tokio::test]
async fn r21_a_peer_that_is_no_redis_is_a_typed_error_in_time() {
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = http.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in http.incoming().map_while(Result::ok) {
            use std::io::Write;
            let _ = (&client).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for port in [port, mute.local_addr().unwrap().port(), closed] {
        let started = Instant::now();
        let error = builder(format!("redis://127.0.0.1:{port}"))
            .build()
            .await
            .unwrap_err();
        assert!(
            error.is_unavailable() || error.is_denied(),
            "{}",
            causes(&error)
        );
        assert!(started.elapsed() < Duration::from_secs(5) + SLACK);
    }
}

#[tokio::test]
async fn r21_tls_to_a_plain_port_and_plain_to_a_tls_port_are_typed_errors_in_time() {
    let server = Options::default().tls().start();
    let tls_port = server.tls_url().rsplit_once(':').unwrap().1.to_owned();
    for url in [
        format!("rediss://127.0.0.1:{}", server.port()),
        format!("redis://127.0.0.1:{tls_port}"),
    ] {
        let started = Instant::now();
        let error = builder(&url).build().await.unwrap_err();
        assert!(
            error.is_unavailable() || error.is_denied(),
            "{url}: {}",
            causes(&error)
        );
        assert!(started.elapsed() < Duration::from_secs(5) + SLACK, "{url}");
    }
}

#[tokio::test]
async fn r22_a_proxy_that_knows_no_evalsha_is_a_typed_error_and_leaves_nothing() {
    for answer in ["-ERR unknown command 'EVALSHA'", "-ERR unsupported command"] {
        let server = Server::start();
        let proxy = Proxy::start(server.port());
        let locks = locks(proxy.url()).await;
        proxy.fault_all("acquire", Fault::Reply(answer));
        let error = locks.lock("k").wait(ms(300)).acquire().await.unwrap_err();
        assert!(proxy.faults() > 0);
        assert!(
            error.is_unavailable() || error.is_denied(),
            "{}",
            causes(&error)
        );
        assert!(causes(&error).contains("command"), "{}", causes(&error));
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn r22_a_server_without_a_command_that_is_needed_is_refused_at_once() {
    for command in [
        "SCRIPT",
        "EVAL",
        "EVALSHA",
        "SUBSCRIBE",
        "PUBLISH",
        "ZPOPMIN",
        "PEXPIRE",
    ] {
        let options = Options::default().with(["--rename-command", command, "HIDDEN"]);
        let server = options.start();
        let error = builder(server.url()).build().await.unwrap_err();
        let causes = causes(&error);
        assert!(error.is_denied(), "{command}: {causes}");
        let names_it = causes.to_uppercase().contains(command);
        assert!(names_it, "{command}: {causes}");
        let keys: Vec<String> = server.run(&["KEYS", "*"]);
        assert!(keys.is_empty(), "{command}: {keys:?}");
    }
}

#[tokio::test]
async fn r07_to_r14_every_refusal_of_a_server_is_told_as_what_it_is_and_no_grant() {
    let refusals = [
        (
            "-READONLY You can't write against a read only replica.",
            false,
        ),
        ("-LOADING Redis is loading the dataset in memory", false),
        ("-BUSY Redis is busy running a script.", false),
        ("-MASTERDOWN Link with MASTER is down", false),
        ("-NOREPLICAS Not enough good replicas to write.", false),
        (
            "-OOM command not allowed when used memory > 'maxmemory'.",
            false,
        ),
        ("-MISCONF Redis is configured to save RDB snapshots", false),
        ("-CLUSTERDOWN The cluster is down", false),
        (
            "-TRYAGAIN Multiple keys request during rehashing of slot",
            false,
        ),
        ("-ERR max number of clients reached", false),
        ("-ERR something new", false),
        ("-NOPERM this user has no permissions", true),
        (
            "-ERR The user executing the script can't run this command",
            true,
        ),
        (
            "-CROSSSLOT Keys in request don't hash to the same slot",
            true,
        ),
        ("-MOVED 3999 127.0.0.1:6381", true),
    ];
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    for (refusal, for_good) in refusals {
        let locks = locks(proxy.url()).await;
        let before = proxy.faults();
        proxy.fault_all("acquire", Fault::Reply(refusal));
        let started = Instant::now();
        let error = locks
            .lock("new")
            .wait(ms(1000))
            .acquire()
            .await
            .unwrap_err();
        assert!(proxy.faults() > before);
        assert_eq!(error.is_denied(), for_good, "{refusal}: {}", causes(&error));
        assert_eq!(
            error.is_unavailable(),
            !for_good,
            "{refusal}: {}",
            causes(&error)
        );
        assert!(started.elapsed() < ms(1000) + SLACK, "{refusal}");
        proxy.heal();
        if !for_good {
            // Once is no reason to tell anybody.
            proxy.fault("acquire", Fault::Reply(refusal));
        }
        can_be_had(&locks, "new").await;
        nothing_left(&server).await;
    }
}
