//! Electing a leader: one leads, until it loses the lock, ends, or shuts down.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(15);

async fn runtime(store: &MemoryBackend) -> LockRuntime {
    LockRuntime::backend(store.clone()).build().await.unwrap()
}

/// Who led, in which term.
#[derive(Clone, Default)]
struct Terms(Arc<Mutex<Vec<(&'static str, u64)>>>, Arc<AtomicUsize>);

impl Terms {
    fn stand(&self, locks: &LockRuntime, name: &'static str) -> JoinHandle<Result<(), LockError>> {
        let terms = self.clone();
        let leader = locks.lock("leader").ttl(TTL);
        tokio::spawn(leader.lead(async move |lock| {
            let others = terms.1.fetch_add(1, Ordering::SeqCst);
            assert_eq!(others, 0, "two lead");
            let _leads = Leads(terms.1.clone());
            terms
                .0
                .lock()
                .unwrap()
                .push((name, lock.fencing_token().as_u64()));
            pending::<()>().await;
        }))
    }

    /// The leaders so far, once there were so many.
    async fn leaders(&self, count: usize, within: Duration) -> Vec<&'static str> {
        let leaders = async {
            loop {
                let terms = self.0.lock().unwrap().clone();
                if terms.len() >= count {
                    assert!(terms.is_sorted_by(|one, next| one.1 < next.1), "{terms:?}");
                    return terms.iter().map(|term| term.0).collect();
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(within, leaders).await.expect("somebody leads")
    }
}

/// Ends when the body is dropped.
struct Leads(Arc<AtomicUsize>);

impl Drop for Leads {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

const AT_ONCE: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_dropped_or_shut_down_hands_over_at_once() {
    let (store, terms) = (MemoryBackend::new(), Terms::default());
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let first = terms.stand(&one, "first");
    assert_eq!(terms.leaders(1, AT_ONCE).await, ["first"]);
    let second = terms.stand(&other, "second");
    sleep(Duration::from_secs(60)).await;
    first.abort();
    assert_eq!(terms.leaders(2, AT_ONCE).await[1..], ["second"]);
    let third = terms.stand(&one, "third");
    sleep(Duration::from_secs(60)).await;
    let started = Instant::now();
    other.shutdown().await.unwrap();
    assert!(started.elapsed() < AT_ONCE);
    assert!(second.await.unwrap().unwrap_err().is_shut_down());
    assert_eq!(terms.leaders(3, AT_ONCE).await[2..], ["third"]);
    third.abort();
}

#[tokio::test(start_paused = true)]
async fn whoever_only_stands_is_told_of_the_shutdown() {
    let (store, terms) = (MemoryBackend::new(), Terms::default());
    let locks = runtime(&store).await;
    store.steal("leader");
    let stands = terms.stand(&locks, "nobody");
    sleep(Duration::from_secs(60)).await;
    locks.shutdown().await.unwrap();
    assert!(stands.await.unwrap().unwrap_err().is_shut_down());
    assert!(
        terms
            .stand(&locks, "late")
            .await
            .unwrap()
            .unwrap_err()
            .is_shut_down()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_loses_the_lock_stands_again() {
    let (store, terms) = (MemoryBackend::new(), Terms::default());
    let locks = runtime(&store).await;
    let stands = terms.stand(&locks, "it");
    terms.leaders(1, AT_ONCE).await;
    // It is taken by another, who goes later.
    store.steal("leader");
    sleep(TTL).await;
    assert_eq!(
        terms.1.load(Ordering::SeqCst),
        0,
        "its body has been dropped"
    );
    store.expire("leader");
    terms.leaders(2, Duration::from_secs(5)).await;
    // The store is away for longer than the lease, and comes back.
    store.fail_next(usize::MAX, Fault::Unavailable);
    sleep(2 * TTL).await;
    assert_eq!(
        terms.1.load(Ordering::SeqCst),
        0,
        "nobody leads without a store"
    );
    store.heal();
    terms.leaders(3, 2 * TTL).await;
    stands.abort();
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_term_lets_others_lead() {
    let (store, terms) = (MemoryBackend::new(), Terms::default());
    let (one, other) = (runtime(&store).await, runtime(&store).await);
    let leader = one.lock("leader").max_hold(Duration::from_secs(30));
    let stands = tokio::spawn(leader.lead(async |_| pending::<()>().await));
    sleep(Duration::from_secs(1)).await;
    terms.stand(&other, "other");
    terms.leaders(1, Duration::from_secs(31)).await;
    stands.abort();
}

#[tokio::test(start_paused = true)]
async fn what_standing_again_cannot_change_is_an_error() {
    let store = MemoryBackend::new();
    let locks = runtime(&store).await;
    store.fail_next(usize::MAX, Fault::Denied);
    let refused = locks.lock("leader").lead(async |_| ()).await.unwrap_err();
    assert!(refused.is_denied());
    let wrong = locks.lock("leader").ttl(Duration::ZERO);
    let refused = wrong.lead(async |_| ()).await.unwrap_err();
    assert!(matches!(refused, LockError::Config(_)));
}

#[distributed_lock(key = "stock", wait = "0s", runtime = locks)]
async fn count(locks: &LockRuntime) -> Result<u64, LockError> {
    Ok(7)
}

#[tokio::test(start_paused = true)]
async fn what_a_guard_runs_is_inside_of_it() {
    let store = MemoryBackend::new();
    let locks = runtime(&store).await;
    let mut guard = locks.lock("stock").acquire().await.unwrap();
    // The control: beside it, the lock is taken.
    assert!(count(&locks).await.unwrap_err().is_taken());
    assert_eq!(
        guard
            .run(async |_| count(&locks).await)
            .await
            .unwrap()
            .unwrap(),
        7
    );
    assert!(guard.is_held(), "it is held by its guard");
    let lost = guard.run(async |_| {
        store.steal("stock");
        pending::<()>().await
    });
    assert!(lost.await.unwrap_err().is_lost());
    store.expire("stock");
}
