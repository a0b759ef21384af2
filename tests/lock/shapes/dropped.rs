//! Futures dropped at every poll leave nothing behind, whatever they wanted of the key.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lock_runtime::{Lock, LockRuntime};
use tokio::time::{sleep, timeout};

use crate::shapes::way::{LONG, TRIP, processes};

/// Longer than any test: whoever waits for it has been forgotten.
const TTL: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(5);

/// What is wanted of the key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Shared,
    Permit,
    Permits,
    Shard,
    /// One shard after the other.
    Visit,
}

impl Wish {
    const ALL: [Wish; 5] = [
        Wish::Shared,
        Wish::Permit,
        Wish::Permits,
        Wish::Shard,
        Wish::Visit,
    ];

    fn lock(self, locks: &LockRuntime) -> Lock {
        let lock = locks.lock("k").ttl(TTL).wait(LONG);
        match self {
            Wish::Shared => lock.shared(),
            Wish::Permit => lock.permits(2),
            Wish::Permits => lock.permits(4).weight(2),
            Wish::Shard | Wish::Visit => lock.shards(2),
        }
    }

    /// Runs a body, or one on each shard.
    async fn call(self, locks: &LockRuntime) {
        let lock = self.lock(locks);
        if self != Wish::Visit {
            return lock.run(async |_| sleep(TRIP * 2).await).await.unwrap();
        }
        let all = lock.visit(async |_| {
            sleep(TRIP).await;
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(all.await.unwrap(), None);
    }
}

/// Polls `future` so many times, in steps of a fraction of a question, and drops it. Whether it
/// ended.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let is_done = poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready()));
        if is_done.await {
            return true;
        }
        sleep(TRIP / 4).await;
    }
    false
}

/// Whoever wants all of the key gets it soon.
async fn all_is_free(locks: &LockRuntime) {
    let all = timeout(SOON, locks.lock("k").ttl(TTL).wait(LONG).acquire());
    let all = all.await.expect("nobody has the key").unwrap();
    all.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_free_key_may_be_dropped_at_any_poll() {
    for is_plain in [false, true] {
        for wish in Wish::ALL {
            let mut has_ended = false;
            for polls in 0..50 {
                let [(_, one), (_, other)] = processes(is_plain).await;
                has_ended = dropped_after(polls, wish.call(&one)).await;
                all_is_free(&other).await;
            }
            assert!(has_ended, "50 polls are not enough for {wish:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_may_be_dropped_at_any_poll() {
    for is_plain in [false, true] {
        for wish in Wish::ALL {
            let mut has_ended = false;
            for polls in 0..90 {
                let [(_, one), (_, other)] = processes(is_plain).await;
                let held = other.lock("k").ttl(TTL).acquire().await.unwrap();
                let ending = tokio::spawn(async move {
                    sleep(TRIP * 7).await;
                    held.release().await
                });
                let beside = one.clone();
                let beside = tokio::spawn(async move { wish.call(&beside).await });
                has_ended = dropped_after(polls, wish.call(&one)).await;
                ending.await.unwrap().unwrap();
                let beside = timeout(SOON, beside).await.expect("it is not forgotten");
                beside.unwrap();
                all_is_free(&other).await;
                all_is_free(&one).await;
            }
            assert!(has_ended, "90 polls are not enough for {wish:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_may_be_dropped_at_any_poll() {
    for is_plain in [false, true] {
        for wish in Wish::ALL {
            for polls in 0..12 {
                let [(_, one), (_, other)] = processes(is_plain).await;
                let guard = wish.lock(&one).acquire().await.unwrap();
                let beside = wish.lock(&one).try_acquire().await.unwrap();
                for guard in [guard].into_iter().chain(beside) {
                    dropped_after(polls, guard.release()).await;
                }
                all_is_free(&other).await;
            }
        }
    }
}
