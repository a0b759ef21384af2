//! Several free locks are taken by one question.

use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_tests::server::Server;
use redis::Value;
use tokio::time::sleep;

/// How often the scripts ran, and how many locks were taken one by one.
fn calls(connection: &mut redis::Connection) -> u64 {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(connection)
        .unwrap();
    let line = info
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split_once(','));
    calls.map_or(0, |calls| calls.0.parse().unwrap())
}

async fn connect(server: &Server) -> LockRuntime {
    let locks = LockRuntime::redis(server.url());
    locks.build().await.unwrap()
}

#[tokio::test]
async fn two_free_keys_are_one_command() {
    let server = Server::start();
    let locks = connect(&server).await;
    let mut connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    // The first call of a script may have to be repeated.
    let keys = ["a", "b"];
    locks
        .lock_all(keys)
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let before = calls(&mut connection);
    let guard = locks.lock_all(keys).acquire().await.unwrap();
    assert_eq!(calls(&mut connection) - before, 1);
    let tokens = guard.handles();
    assert_ne!(tokens[0].owner_token(), tokens[1].owner_token());
    guard.release().await.unwrap();
    // The control: one after the other, two.
    let before = calls(&mut connection);
    let one = locks.lock("a").acquire().await.unwrap();
    let other = locks.lock("b").acquire().await.unwrap();
    assert_eq!(calls(&mut connection) - before, 2);
    drop((one, other));
    locks.shutdown().await.unwrap();
    server.finish();
}

#[tokio::test]
async fn tokens_of_locks_that_share_a_counter_grow() {
    let server = Server::start();
    let (locks, other) = (connect(&server).await, connect(&server).await);
    // 16 of many keys share counters.
    let mut last = vec![0; 16];
    for round in 0..20 {
        let keys = (0..16).map(|number| format!("k{number}"));
        let locks = if round % 2 == 0 { &locks } else { &other };
        let guard = locks.lock_all(keys).acquire().await.unwrap();
        for (handle, last) in guard.handles().iter().zip(&mut last) {
            let token = handle.fencing_token().as_u64();
            assert!(token > *last, "{token} after {last}");
            *last = token;
        }
        guard.release().await.unwrap();
    }
    let mut connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let left: Vec<Value> = redis::cmd("KEYS")
        .arg("lock:*")
        .query(&mut connection)
        .unwrap();
    assert!(left.is_empty(), "{left:?}");
    locks.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
    server.finish();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_held_or_wanted_here_or_there_is_waited_for() {
    let store = MemoryBackend::new();
    let one = LockRuntime::backend(store.clone()).build().await.unwrap();
    let other = LockRuntime::backend(store.clone()).build().await.unwrap();
    for holder in [&one, &other] {
        let held = holder.lock("b").acquire().await.unwrap();
        let frees = async {
            sleep(Duration::from_secs(1)).await;
            held.release().await.unwrap();
        };
        let waits = async { one.lock("b").acquire().await.unwrap().release().await };
        let both = async {
            one.lock_all(["a", "b"])
                .acquire()
                .await
                .unwrap()
                .release()
                .await
        };
        let (first, second, ()) = tokio::join!(waits, both, frees);
        first.unwrap();
        second.unwrap();
        assert!(store.is_idle());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_meanwhile_gets_the_lock_afterwards() {
    let store = MemoryBackend::new();
    let one = LockRuntime::backend(store.clone()).build().await.unwrap();
    let thief = store.clone();
    // With and without success of the question that is under way.
    for is_taken in [false, true] {
        if is_taken {
            thief.steal("b");
        }
        store.fail_next(1, Fault::Slow(Duration::from_millis(100)));
        let wait = Duration::from_secs(60);
        let both = async {
            let both = one.lock_all(["a", "b"]).wait(wait);
            both.acquire().await.unwrap().release().await.unwrap();
        };
        let late = async {
            sleep(Duration::from_millis(10)).await;
            let lock = one.lock("a").wait(wait);
            lock.acquire().await.unwrap().release().await.unwrap();
        };
        let frees = async {
            sleep(Duration::from_secs(1)).await;
            thief.expire("b");
        };
        tokio::join!(both, late, frees);
        while !store.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
