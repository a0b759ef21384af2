//! The main job, as a user sees it: annotated functions against real servers, real processes and
//! other libraries.

use std::process::Command;
use std::time::{Duration, Instant};

use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::causes;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::{SLACK, comes_true, ms};
use lock_tests::server::Server;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(30);

async fn runtime(server: &Server) -> LockRuntime {
    let builder = LockRuntime::redis(server.url()).command_timeout(ms(5000));
    builder.build().await.unwrap()
}

/// Ends with an instant when the lock was held.
#[distributed_lock(key = "k", ttl = "20s", wait = "30s", runtime = locks)]
async fn when_held(locks: &LockRuntime) -> Result<Instant, LockError> {
    Ok(Instant::now())
}

#[distributed_lock(key = "k", ttl = "2s", wait = "5s", runtime = locks)]
async fn hold(locks: &LockRuntime, time: Duration) -> Result<(), LockError> {
    sleep(time).await;
    Ok(())
}

#[distributed_lock(key = "k", ttl = "2s", wait = "5s", renew = false, runtime = locks)]
async fn hold_unrenewed(locks: &LockRuntime, time: Duration) -> Result<(), LockError> {
    sleep(time).await;
    Ok(())
}

async fn is_taken(locks: &LockRuntime) -> bool {
    locks.lock("k").try_acquire().await.unwrap().is_none()
}

/// Looks from outside: an attempt to acquire it could itself be what another meets.
async fn is_held(server: &Server) {
    let exists = async || server.run(&["EXISTS", "lock:k"]);
    comes_true("the lock", exists).await;
}

async fn end(server: Server, locks: &[&LockRuntime]) {
    for locks in locks {
        locks.shutdown().await.unwrap();
    }
    server.finish();
}

#[tokio::test]
async fn a_key_set_by_redis_cli_is_waited_for() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let set_at = Instant::now();
    let set = Command::new("redis-cli")
        .args(["-p", &server.port().to_string()])
        .args(["SET", "lock:k", "other", "NX", "PX", "3000"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(set.stdout).unwrap(), "OK\n");

    let held_at = when_held(&locks).await.unwrap();
    assert!(held_at - set_at >= ms(3000), "it did not wait");
    end(server, &[&locks]).await;
}

/// Runs a program of Python, which finds the client in `r`, and returns what it prints.
async fn python(server: &Server, program: &str) -> String {
    let program = format!(
        "import redis, time\nr = redis.Redis(port={})\n{program}",
        server.port()
    );
    let run = move || {
        Command::new("/usr/bin/python3")
            .args(["-c", &program])
            .output()
    };
    let output = spawn_blocking(run).await.unwrap().expect("python3 runs");
    assert!(
        output.status.success(),
        "`scripts/test` installs redis-py where it is missing:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_lock_of_redis_py_is_waited_for_until_it_is_released() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let other = async {
        let program = "lock = r.lock('lock:k', timeout=60)\n\
            assert lock.acquire(blocking=False)\n\
            r.set('held', 1, ex=60)\n\
            time.sleep(4)\n\
            lock.release()\n\
            print('released')";
        python(&server, program).await
    };
    let ours = async {
        comes_true("redis-py's lock", async || {
            server.run::<bool>(&["EXISTS", "held"])
        })
        .await;
        let started = Instant::now();
        when_held(&locks).await.unwrap() - started
    };
    let (printed, waited) = tokio::join!(other, ours);
    assert_eq!(printed, "released");
    assert!(waited >= ms(1000), "it waited only {waited:?}");
    end(server, &[&locks]).await;
}

#[tokio::test]
async fn redis_py_cannot_take_what_an_annotated_function_holds() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let attempt = "print(r.lock('lock:k', timeout=5).acquire(blocking=False))";
    let held = hold(&locks, 2 * DEADLINE);
    let meanwhile = async {
        is_held(&server).await;
        python(&server, attempt).await
    };
    tokio::select! {
        ended = held => panic!("the body ended: {ended:?}"),
        taken = meanwhile => assert_eq!(taken, "False"),
    }
    // The body was dropped, so the lock is free as soon as the release has arrived.
    comes_true("the release", async || !is_taken(&locks).await).await;
    assert_eq!(python(&server, attempt).await, "True");
    end(server, &[&locks]).await;
}

#[tokio::test]
async fn an_uncontended_call_sends_two_commands() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let monitor = server.monitor();
    when_held(&locks).await.unwrap();
    let commands = monitor.commands(&server);
    assert_eq!(commands.len(), 2, "{commands:#?}");
    assert!(
        commands.iter().all(|line| line.contains("\"EVALSHA\"")),
        "{commands:#?}"
    );
    end(server, &[&locks]).await;
}

#[tokio::test]
async fn a_server_that_dies_costs_the_lock_and_one_that_is_back_gives_it_again() {
    let mut server = Server::start();
    let locks = runtime(&server).await;

    let body = tokio::spawn({
        let locks = locks.clone();
        async move { (hold(&locks, 2 * DEADLINE).await, Instant::now()) }
    });
    is_held(&server).await;
    sleep(ms(4000)).await;
    assert!(!body.is_finished(), "it is renewed while the server lives");
    server.kill();
    let killed_at = Instant::now();
    let (outcome, ended_at) = body.await.unwrap();
    assert!(
        outcome.as_ref().is_err_and(LockError::is_lost),
        "{outcome:?}"
    );
    // No lease reaches further than the ttl of its last renewal; the rest is for a busy machine.
    let ended_after = ended_at - killed_at;
    assert!(
        ended_after < ms(2000) + ms(5000),
        "the body went on for {ended_after:?}"
    );

    let called_at = Instant::now();
    let down = locks.lock("k").wait(ms(500)).acquire().await.unwrap_err();
    assert!(down.is_unavailable() && !down.is_taken(), "{down:?}");
    assert!(called_at.elapsed() < ms(5500), "{:?}", called_at.elapsed());

    server.restart();
    when_held(&locks).await.unwrap();
    end(server, &[&locks]).await;
}

#[tokio::test]
async fn a_body_longer_than_three_ttls_keeps_its_lock() {
    let server = Server::start();
    let (locks, others) = (runtime(&server).await, runtime(&server).await);
    let (length, started) = (ms(7000), Instant::now());
    let rivals = async {
        loop {
            if !is_taken(&others).await {
                // The body may have released the lock, and not have heard that it has.
                let after = started.elapsed();
                assert!(after >= length, "another got the lock after {after:?}");
            }
            sleep(ms(20)).await;
        }
    };
    let body = async {
        let body = hold(&locks, length);
        tokio::pin!(body);
        // It holds the lock after its first polls; only then the rivals come.
        let held = is_held(&server);
        tokio::select! {
            outcome = &mut body => panic!("{outcome:?}"),
            () = held => {}
        }
        tokio::select! {
            biased;
            outcome = &mut body => outcome,
            () = rivals => unreachable!("they try for ever"),
        }
    };
    body.await.unwrap();
    end(server, &[&locks, &others]).await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_is_lost_after_its_ttl() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let started = Instant::now();
    let error = hold_unrenewed(&locks, DEADLINE).await.unwrap_err();
    assert!(error.is_lost(), "{error:?}");
    assert!(started.elapsed() >= ms(1900), "{:?}", started.elapsed());
    assert!(started.elapsed() < ms(10_000), "{:?}", started.elapsed());
    hold_unrenewed(&locks, ms(10)).await.unwrap();
    end(server, &[&locks]).await;
}

async fn another_process(server: &Server) -> Process {
    Process::start(env!("CARGO_BIN_EXE_holder"), &server.url()).await
}

#[tokio::test]
async fn a_process_that_releases_wakes_the_waiter_of_another() {
    let server = Server::start();
    let locks = runtime(&server).await;
    let mut holder = another_process(&server).await;
    token(&holder.ask("acquire k 60000 30000").await);
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { when_held(&locks).await }
    });
    sleep(ms(200)).await;
    assert!(!waiter.is_finished());
    let released_at = Instant::now();
    assert_eq!(holder.ask("release").await, "released");
    let waited = waiter
        .await
        .unwrap()
        .unwrap()
        .saturating_duration_since(released_at);
    // A poll would come after the ttl, or after ten seconds.
    assert!(waited < ms(5000), "the waiter ran only after {waited:?}");
    end(server, &[&locks]).await;
}

/// What a process says whose `LOCK_URL` is this, or not set.
fn said_of(url: Option<&str>) -> String {
    let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
    match url {
        Some(url) => process.env("LOCK_URL", url),
        None => process.env_remove("LOCK_URL"),
    };
    let output = process.output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn lock_url_names_the_store() {
    let server = Server::start();
    for url in ["memory:", &server.url(), &server.unix_url()] {
        assert_eq!(said_of(Some(url)), "ready", "{url}");
    }
    server.finish();
}

#[test]
fn a_lock_url_that_cannot_be_used_is_named_together_with_the_forms() {
    for url in [
        None,
        Some(""),
        Some("memory"),
        Some("localhost:6379"),
        Some("http://secret@host/"),
    ] {
        let said = said_of(url);
        for part in [
            "`LOCK_URL`",
            "`redis://",
            "`rediss://",
            "`unix://",
            "`memory:`",
        ] {
            assert!(said.contains(part), "{url:?}: {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn building_without_a_server_fails_in_time() {
    let mut server = Server::start();
    let url = server.url();
    server.pause();
    for dead in [false, true] {
        if dead {
            server.kill();
        }
        let started = Instant::now();
        let error = LockRuntime::redis(&url).build().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(
            started.elapsed() < Duration::from_secs(5) + SLACK,
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn connected_lazily_it_works_as_soon_as_there_is_a_server() {
    let mut server = Server::start();
    server.kill();
    let lazily = LockRuntime::redis(server.url()).connect_lazily();
    let locks = lazily.build().await.unwrap();
    let error = locks.lock("k").wait(ms(3000)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let text = causes(&error);
    assert!(
        text.contains("refused") && text.contains(&server.port().to_string()),
        "{text}"
    );
    server.restart();
    when_held(&locks).await.unwrap();
    end(server, &[&locks]).await;
}
