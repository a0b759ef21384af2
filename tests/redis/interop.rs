//! Other clients and libraries on the same server: they and ours exclude each other.

use std::process::Command;
use std::time::Instant;

use lock_tests::faults::comes_true;
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::task::spawn_blocking;

use super::annotated::{DEADLINE, end, hold, is_held, runtime, when_held};

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
    comes_true("the release", async || {
        locks.lock("k").try_acquire().await.unwrap().is_some()
    })
    .await;
    assert_eq!(python(&server, attempt).await, "True");
    end(server, &[&locks]).await;
}
