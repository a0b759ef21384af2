//! Several locks at once: all or none, and nobody waits for somebody who waits for him.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockRuntime};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(600);

async fn runtime(store: &MemoryBackend) -> LockRuntime {
    let locks = LockRuntime::backend(store.clone());
    locks.build().await.unwrap()
}

/// Waits until nothing is held or waited for.
async fn idle(store: &MemoryBackend) {
    let idle = async {
        while !store.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), idle)
        .await
        .expect("nothing is left behind before a ttl is over");
}

/// Takes `one`, then `other`, as somebody does who does not know of `lock_all`.
async fn nested(locks: &LockRuntime, one: &str, other: &str) -> Result<(), LockError> {
    let wait = Duration::from_secs(1);
    let outer = locks.lock(one).wait(wait);
    outer
        .run(async |_| {
            sleep(Duration::from_millis(10)).await;
            let inner = locks.lock(other).wait(wait);
            inner.run(async |_| ()).await
        })
        .await?
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_keys_never_wait_for_each_other() {
    let store = MemoryBackend::new();
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let third = runtime(&store).await;
    // The control: one within the other, both wait in vain, and are told what to do.
    let (mine, theirs) = tokio::join!(nested(&one, "a", "b"), nested(&other, "b", "a"));
    let refused = mine.and(theirs).unwrap_err();
    assert!(refused.is_timeout());
    assert!(refused.to_string().contains("by `keys`"), "{refused}");

    for _ in 0..100 {
        let both = async |locks: &LockRuntime, keys: [&'static str; 2]| {
            let wait = Duration::from_secs(1);
            let body = async |_: Vec<_>| sleep(Duration::from_millis(10)).await;
            locks.lock_all(keys).wait(wait).run(body).await
        };
        // Two wait while one has both, and each could get one of them after it.
        let all = tokio::join!(
            both(&one, ["a", "b"]),
            both(&other, ["b", "a"]),
            both(&third, ["a", "b"]),
            both(&one, ["b", "a"]),
        );
        all.0.unwrap();
        all.1.unwrap();
        all.2.unwrap();
        all.3.unwrap();
    }
    idle(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_names_the_locks_that_were_held_meanwhile() {
    let store = MemoryBackend::new();
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let _theirs = other.lock("b").acquire().await.unwrap();
    let refused = nested(&one, "a", "b").await.unwrap_err();
    let LockError::Timeout { holding, .. } = &refused else {
        panic!("{refused}");
    };
    let names: Vec<_> = holding.keys().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a"]);
    assert!(refused.to_string().contains("while this call held `a`"));

    // Whoever holds nothing, and whoever takes both together, is told of none.
    let wait = Duration::from_secs(1);
    let alone = one.lock("b").wait(wait).acquire().await.unwrap_err();
    let both = one.lock_all(["a", "b"]).wait(wait).acquire().await;
    for refused in [alone, both.unwrap_err()] {
        assert!(refused.is_timeout());
        assert!(!refused.to_string().contains("held `a`"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_get_all_keeps_none() {
    let store = MemoryBackend::new();
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let theirs = other.lock("b").acquire().await.unwrap();
    // The control: by hand, the first is kept.
    let first = one.lock("a").acquire().await.unwrap();
    assert!(one.lock("b").try_acquire().await.unwrap().is_none());
    assert!(store.is_held("a"));
    first.release().await.unwrap();

    for wait in [0, 1_000] {
        let both = one.lock_all(["a", "b", "c"]);
        let refused = both.wait(Duration::from_millis(wait)).acquire().await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.is_taken(), refused.is_timeout()),
            (wait == 0, wait > 0)
        );
        let kept = async {
            while store.is_held("a") || store.is_held("c") {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(1), kept).await.unwrap();
    }
    theirs.release().await.unwrap();
    idle(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_in_between_leaves_none_taken() {
    let store = MemoryBackend::new();
    let locks = runtime(&store).await;
    for fine in 0..4 {
        store.fail_next(fine, Fault::Slow(Duration::from_millis(1)));
        store.fail_next(1, Fault::AnswerLost);
        let outcome = locks.lock_all(["a", "b", "c"]).acquire().await;
        drop(outcome);
        store.heal();
        idle(&store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_leaves_none_taken() {
    let store = MemoryBackend::new();
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let mut is_over = false;
    let mut polls = 0;
    while !is_over {
        polls += 1;
        let theirs = other.lock("b").acquire().await.unwrap();
        let frees = async {
            sleep(Duration::from_millis(3)).await;
            theirs.release().await
        };
        let frees = tokio::spawn(frees);
        {
            store.fail_next(10, Fault::Slow(Duration::from_millis(1)));
            let mut call = pin!(
                one.lock_all(["a", "b", "c"])
                    .run(async |_| sleep(Duration::from_millis(2)).await)
            );
            let mut left = polls;
            is_over = poll_fn(|cx| {
                left -= 1;
                match call.as_mut().poll(cx) {
                    Poll::Ready(outcome) => {
                        outcome.unwrap();
                        Poll::Ready(true)
                    }
                    Poll::Pending if left == 0 => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
        }
        store.heal();
        frees.await.unwrap().unwrap();
        idle(&store).await;
    }
    assert!(polls > 5, "{polls}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_names_each_lock_once() {
    let store = MemoryBackend::new();
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let _theirs = other.lock("b").acquire().await.unwrap();
    let outer = one.lock("a").run(async |_| {
        let again = one.lock("a").run(async |_| {
            let wanted = one.lock("b").wait(Duration::from_secs(1));
            wanted.run(async |_| ()).await
        });
        again.await?
    });
    let refused = outer.await.unwrap().unwrap_err();
    let LockError::Timeout { holding, .. } = &refused else {
        panic!("{refused}");
    };
    let names: Vec<_> = holding.keys().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a"]);
}

/// What is in the accounts, added up.
fn sum(accounts: &[AtomicU64]) -> u64 {
    accounts.iter().map(|it| it.load(Ordering::Relaxed)).sum()
}

/// Moves `cents` as a program without transactions does: what it read may be old when it writes.
async fn transfer(accounts: &[AtomicU64], from: usize, to: usize, cents: u64) {
    let debit = accounts[from].load(Ordering::Relaxed) - cents;
    tokio::task::yield_now().await;
    accounts[from].store(debit, Ordering::Relaxed);
    let credit = accounts[to].load(Ordering::Relaxed) + cents;
    tokio::task::yield_now().await;
    accounts[to].store(credit, Ordering::Relaxed);
}

/// Moves money in all directions by tasks of two processes. What is there in the end.
async fn transfers(is_locked: bool) -> u64 {
    let store = MemoryBackend::new();
    let accounts: Arc<[AtomicU64]> = (0..3).map(|_| AtomicU64::new(10_000)).collect();
    let mut tasks = Vec::new();
    for process in 0..2 {
        let locks = runtime(&store).await;
        for task in 0..4 {
            let (locks, accounts) = (locks.clone(), accounts.clone());
            tasks.push(tokio::spawn(async move {
                for round in 0..100 {
                    let (from, to) = ((task + round) % 3, (process + task * round) % 3);
                    let body = async || transfer(&accounts, from, to, 1).await;
                    if is_locked {
                        let keys = [from, to].map(|account| format!("account:{account}"));
                        let both = locks.lock_all(keys).wait(LONG);
                        both.run(async |_| body().await).await.unwrap();
                    } else {
                        body().await;
                    }
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    sum(&accounts)
}

#[tokio::test(start_paused = true)]
async fn no_money_is_made_or_lost_by_transfers_in_all_directions() {
    assert_ne!(transfers(false).await, 30_000, "the control: without locks");
    assert_eq!(transfers(true).await, 30_000);
}
