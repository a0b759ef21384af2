//! What `shutdown` waits for, and for how long, while the store is away.

use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::faults::{SLACK, builder, eventually, nothing_left, queued};
use lock_tests::ms;
use lock_tests::server::Server;
use tokio::time::{Instant, sleep};

/// How long the store has for an answer.
const COMMAND: Duration = ms(500);
/// How long guards have.
const GUARDS: Duration = Duration::from_secs(60);
/// One timeout for what is to be withdrawn or released, and one to close the connections.
const SOON: Duration = COMMAND.saturating_mul(2).saturating_add(SLACK);

/// A store that can go away.
enum Store {
    Memory(MemoryBackend),
    Redis(Box<Server>),
}

impl Store {
    fn each() -> [Store; 2] {
        [
            Store::Memory(MemoryBackend::new()),
            Store::Redis(Box::new(Server::start())),
        ]
    }

    fn builder(&self) -> LockRuntimeBuilder {
        let builder = match self {
            Store::Memory(store) => LockRuntime::backend(store.clone()),
            Store::Redis(server) => builder(server.url()),
        };
        builder.command_timeout(COMMAND).shutdown_timeout(GUARDS)
    }

    async fn process(&self) -> LockRuntime {
        self.builder().build().await.unwrap()
    }

    /// Answers nothing any more.
    fn go_away(&mut self) {
        match self {
            Store::Memory(store) => {
                store.fail_next(usize::MAX, Fault::Hang(Duration::from_secs(600)));
            }
            Store::Redis(server) => server.pause(),
        }
    }

    async fn queued(&self) {
        match self {
            Store::Memory(store) => eventually("it waits", || store.queue_len("k") == 1).await,
            Store::Redis(server) => queued(server, "k", 1).await,
        }
    }
}

/// Shuts down, which has to be done soon, and without a complaint about guards.
async fn is_shut_down_soon(locks: &LockRuntime) {
    let started = Instant::now();
    let outcome = locks.shutdown().await;
    let took = started.elapsed();
    assert!(took < SOON, "{took:?}, and then: {outcome:?}");
    outcome.unwrap();
}

#[tokio::test]
async fn a_shutdown_waits_a_command_timeout_for_a_question_without_an_answer() {
    for mut store in Store::each() {
        let locks = store.process().await;
        store.go_away();
        let asking = tokio::spawn(locks.lock("k").acquire());
        sleep(ms(50)).await;
        is_shut_down_soon(&locks).await;
        assert!(asking.await.unwrap().unwrap_err().is_shut_down());
    }
}

#[tokio::test]
async fn a_shutdown_waits_a_command_timeout_for_a_withdrawal() {
    for mut store in Store::each() {
        let (locks, other) = (store.process().await, store.process().await);
        let _holder = other.lock("k").acquire().await.unwrap();
        let waiting = tokio::spawn(locks.lock("k").acquire());
        store.queued().await;
        store.go_away();
        is_shut_down_soon(&locks).await;
        assert!(waiting.await.unwrap().unwrap_err().is_shut_down());
    }
}

#[tokio::test]
async fn a_shutdown_waits_a_command_timeout_for_a_guard_that_was_dropped() {
    for mut store in Store::each() {
        let locks = store.process().await;
        let guard = locks.lock("k").ttl(GUARDS).acquire().await.unwrap();
        store.go_away();
        drop(guard);
        is_shut_down_soon(&locks).await;
    }
}

#[tokio::test]
async fn a_shutdown_waits_a_command_timeout_from_when_the_last_guard_is_dropped() {
    for mut store in Store::each() {
        let locks = store.process().await;
        let guard = locks.lock("k").ttl(GUARDS).acquire().await.unwrap();
        store.go_away();
        let shutdown = tokio::spawn({
            let locks = locks.clone();
            async move { locks.shutdown().await }
        });
        sleep(SOON + COMMAND).await;
        assert!(!shutdown.is_finished(), "a guard was there");
        drop(guard);
        let dropped = Instant::now();
        shutdown.await.unwrap().unwrap();
        assert!(dropped.elapsed() < SOON, "{:?}", dropped.elapsed());
    }
}

#[tokio::test]
async fn a_shutdown_waits_no_longer_than_the_lease_of_a_guard() {
    for store in Store::each() {
        let locks = store.process().await;
        let lock = locks.lock("k").ttl(COMMAND).renew(false);
        let _guard = lock.acquire().await.unwrap();
        is_shut_down_soon(&locks).await;
    }
}

#[tokio::test]
async fn a_shutdown_counts_the_guards_that_are_left() {
    for (guards, words) in [(1, "1 lock was still held"), (2, "2 locks were still held")] {
        for mut store in Store::each() {
            let builder = store.builder().shutdown_timeout(COMMAND);
            let locks = builder.build().await.unwrap();
            let mut left = Vec::new();
            for number in 0..guards {
                let lock = locks.lock(format!("left {number}")).ttl(GUARDS);
                left.push(lock.acquire().await.unwrap());
            }
            let dropped = locks.lock("dropped").ttl(GUARDS).acquire().await.unwrap();
            store.go_away();
            drop(dropped);
            let error = locks.shutdown().await.unwrap_err();
            assert!(
                matches!(&error, LockError::StillHeld { locks, keys } if *locks == guards && keys.len() == guards),
                "{error:?}"
            );
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

/// The control: a store that answers has everything released.
#[tokio::test]
async fn a_shutdown_leaves_nothing_in_a_store_that_answers() {
    let server = Server::start();
    let locks = builder(server.url()).build().await.unwrap();
    let guard = locks.lock("k").ttl(GUARDS).acquire().await.unwrap();
    drop(guard);
    is_shut_down_soon(&locks).await;
    nothing_left(&server).await;
}
