//! Futures dropped at every poll leave nothing behind, whatever they wanted of the key.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lock_runtime::{Lock, LockRuntime};
use tokio::time::{sleep, timeout};

use crate::shapes::way::{LONG, TRIP, processes};

/// Longer than any test: whoever waits for it has been forgotten.
const TTL: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(5);

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

fn kinds() -> [fn(&LockRuntime) -> Lock; 4] {
    [
        |locks| locks.lock("k").ttl(TTL).wait(LONG).shared(),
        |locks| locks.lock("k").ttl(TTL).wait(LONG).permits(2),
        |locks| locks.lock("k").ttl(TTL).wait(LONG).permits(4).weight(2),
        |locks| locks.lock("k").ttl(TTL).wait(LONG).shards(2),
    ]
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
        for kind in kinds() {
            let mut has_ended = false;
            for polls in 0..40 {
                let [(_, one), (_, other)] = processes(is_plain).await;
                let call = kind(&one).run(async |_| sleep(TRIP * 2).await);
                has_ended = dropped_after(polls, call).await;
                all_is_free(&other).await;
            }
            assert!(has_ended, "40 polls are not enough");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_may_be_dropped_at_any_poll() {
    for kind in kinds() {
        let mut has_ended = false;
        for polls in 0..70 {
            let [(_, one), (_, other)] = processes(false).await;
            let held = other.lock("k").ttl(TTL).acquire().await.unwrap();
            let ending = tokio::spawn(async move {
                sleep(TRIP * 7).await;
                held.release().await
            });
            let beside = kind(&one);
            let beside = tokio::spawn(async move { beside.run(async |_| sleep(TRIP).await).await });
            let call = kind(&one).run(async |_| sleep(TRIP * 2).await);
            has_ended = dropped_after(polls, call).await;
            ending.await.unwrap().unwrap();
            let beside = timeout(SOON, beside).await.expect("it is not forgotten");
            beside.unwrap().unwrap();
            all_is_free(&other).await;
            all_is_free(&one).await;
        }
        assert!(has_ended, "70 polls are not enough");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_may_be_dropped_at_any_poll() {
    for kind in kinds() {
        for polls in 0..12 {
            let [(_, one), (_, other)] = processes(false).await;
            let guards = [kind(&one).acquire().await, kind(&one).acquire().await];
            for guard in guards.into_iter().flatten() {
                dropped_after(polls, guard.release()).await;
            }
            all_is_free(&other).await;
        }
    }
}
