//! R17: the server stands still.

use super::*;

#[tokio::test]
async fn a_server_that_stands_still_gives_no_guard_beyond_its_lease() {
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
        eventually("it stands still", || {
            redis::cmd("PING").exec(&mut probe).is_err()
        })
        .await;
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
async fn a_caller_who_leaves_while_the_server_stands_still_leaves_no_lock_behind() {
    let mut server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let held = locks.lock("held").acquire().await.unwrap();
    // Until the direct link is there, a lock is taken by the lane.
    let direct_link = || {
        let clients: String = server.run(&["CLIENT", "LIST"]);
        let clients = clients.lines();
        // The lane is one of two that do.
        clients
            .filter(|client| client.contains(" cmd=evalsha "))
            .count()
            == 2
    };
    comes_true("a direct link", async || {
        can_be_had(&locks, "warm").await;
        direct_link()
    })
    .await;

    server.pause();
    let started = Instant::now();
    // By the lane: so the server reads that first when it goes on, with the withdrawal, and then
    // the direct link, which is dead by then.
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
