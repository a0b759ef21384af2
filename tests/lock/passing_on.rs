//! What a process may do with a lease that it passes on between its own callers, or was handed:
//! mistakes that the model of the protocol shows to be harmful.

use std::time::Duration;

use lock_conformance::{Decorated, Decorator};
use lock_runtime::backend::{Acquired, Backend, BackendError, Claim, Release, Released};
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockGuard, LockRuntime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(10);

/// A caller that waits for the lock, in the queue already.
async fn waiter(locks: &LockRuntime) -> JoinHandle<LockGuard> {
    let acquire = locks.lock("k").ttl(TTL).wait(TTL * 10).acquire();
    let waiter = tokio::spawn(async { acquire.await.unwrap() });
    for _ in 0..20 {
        yield_now().await;
    }
    waiter
}

async fn process(store: impl Backend, local_share: f64) -> LockRuntime {
    let runtime = LockRuntime::backend(store).local_share(local_share);
    runtime.build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn others_get_their_turn_when_the_share_of_a_process_is_used_up() {
    let store = MemoryBackend::new();
    let (one, two) = (process(store.clone(), 0.1).await, process(store, 0.1).await);
    let holder = one.lock("k").ttl(TTL).acquire().await.unwrap();
    let (here, there) = (waiter(&one).await, waiter(&two).await);
    sleep(TTL / 5).await;
    holder.release().await.unwrap();
    let there = timeout(TTL / 10, there).await.unwrap().unwrap();
    assert!(!here.is_finished());
    there.release().await.unwrap();
    here.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handed_over_lease_is_relied_on_for_its_grace_only() {
    let store = MemoryBackend::new();
    let (one, two) = (process(store.clone(), 0.1).await, process(store, 0.1).await);
    let holder = one.lock("k").ttl(TTL).acquire().await.unwrap();
    let waiter = waiter(&two).await;
    holder.release().await.unwrap();
    let handed = waiter.await.unwrap();
    // The grace is a second, unless it is set.
    assert!(handed.is_held() && handed.remaining() <= Duration::from_secs(1));
    sleep(Duration::from_secs(1)).await;
    assert!(handed.is_held() && handed.remaining() > Duration::from_secs(1));
    handed.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_not_passed_on() {
    let store = MemoryBackend::new();
    let one = process(store.clone(), 1.0).await;
    let holder = one.lock("k").ttl(TTL).acquire().await.unwrap();
    let waiter = waiter(&one).await;
    store.steal("k");
    sleep(TTL / 4).await;
    assert!(!holder.is_held());
    assert!(holder.release().await.unwrap_err().is_lost());
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!waiter.is_finished());
    waiter.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_passed_on_with_reserved_tokens_only() {
    let store = Decorated(OneToken(MemoryBackend::new()));
    let (one, two) = (process(store.clone(), 0.1).await, process(store, 0.1).await);
    let holder = one.lock("k").ttl(TTL).acquire().await.unwrap();
    let (here, there) = (waiter(&one).await, waiter(&two).await);
    holder.release().await.unwrap();
    // No token is left for the caller next to the holder, so it is the other process's turn.
    let there = timeout(TTL / 100, there).await.unwrap().unwrap();
    assert!(!here.is_finished());
    there.release().await.unwrap();
    here.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_spent_lease_is_not_passed_on() {
    let store = MemoryBackend::new();
    let locks = process(store.clone(), 1.0).await;
    let holder = locks.lock("k").ttl(TTL).acquire().await.unwrap();
    let waiter = waiter(&locks).await;
    store.fail_next(usize::MAX, Fault::Unavailable);
    sleep(TTL - Duration::from_millis(400)).await;
    store.heal();
    // The control: it is still a lease, but for less than half a grace.
    let left = holder.remaining();
    assert!(!left.is_zero() && left < Duration::from_millis(500));
    let owner = holder.owner_token().clone();
    holder.release().await.unwrap();
    let next = waiter.await.unwrap();
    assert!(next.remaining() > TTL / 2, "{:?} left", next.remaining());
    assert_ne!(*next.owner_token(), owner);
    next.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_renews_is_passed_on_while_it_is_nearly_whole() {
    let locks = process(MemoryBackend::new(), 1.0).await;
    let lock = locks.lock("k").ttl(TTL).wait(TTL * 10).renew(false);
    // A new store begins with one token, and so with nothing to pass on.
    lock.clone()
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    for (held, is_passed_on) in [(TTL / 20, true), (TTL / 5, false)] {
        let holder = lock.clone().acquire().await.unwrap();
        let waiter = tokio::spawn(lock.clone().acquire());
        yield_now().await;
        sleep(held).await;
        let owner = holder.owner_token().clone();
        holder.release().await.unwrap();
        let next = waiter.await.unwrap().unwrap();
        assert_eq!(*next.owner_token() == owner, is_passed_on, "{held:?}");
        assert!(next.remaining() > TTL / 10 * 9, "{:?}", next.remaining());
        next.release().await.unwrap();
    }
}

/// In real time, since a blocked thread is the point: the watchdog, which runs on it here, has not
/// noticed.
#[tokio::test]
async fn a_lease_held_beyond_its_limit_is_not_passed_on() {
    let limit = Duration::from_secs(2);
    let locks = process(MemoryBackend::new(), 1.0).await;
    let lock = locks.lock("k").ttl(TTL).wait(TTL).max_hold(limit);
    let holder = lock.clone().acquire().await.unwrap();
    let waiter = tokio::spawn(lock.acquire());
    yield_now().await;
    std::thread::sleep(limit);
    let error = holder.release().await.unwrap_err();
    assert!(matches!(error, LockError::MaxHold { .. }), "{error}");
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

/// A store that reserves one fencing token a grant, as it may.
#[derive(Clone)]
struct OneToken(MemoryBackend);

fn with_one(claim: &Claim) -> Claim {
    let mut claim = claim.clone();
    claim.tokens = 1;
    claim
}

impl Decorator for OneToken {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.0
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.0.acquire(&with_one(claim)).await
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let next = release.next.as_ref().map(with_one);
        self.0.release(&release.clone().then(next)).await
    }
}
