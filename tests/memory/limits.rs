//! A store in memory that plays one which can do less, for tests of what will run on that.

use std::time::Duration;

use lock_conformance::{Remaining, Store};
use lock_protocol::{
    Acquired, Backend, Claim, GraceBy, Limits, LockKey, Order, OwnerToken, Release,
};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime};
use lock_tests::memory_store::MemoryStore;
use lock_tests::secs;
use tokio::time::{Instant, sleep};

const LATE: Duration = Duration::from_millis(1_100);

/// As etcd has them.
fn of_etcd() -> Limits {
    let mut limits = Limits::default();
    limits.min_ttl = secs(2);
    limits.ttl_step = secs(1);
    limits.lateness = LATE;
    limits.grace = GraceBy::Process;
    limits
}

/// As a store has them that knows no queues and no other programs.
fn without_order() -> Limits {
    let mut limits = Limits::default();
    limits.order = Order::None;
    limits.foreign_holders = false;
    limits.max_ttl = secs(120);
    limits
}

/// The suite asks for a minute, which a lease here outlives.
struct Lesser(MemoryStore);

impl Lesser {
    fn new(limits: Limits) -> Lesser {
        Lesser(MemoryStore {
            memory: MemoryBackend::with_limits(limits),
        })
    }
}

impl Store for Lesser {
    type Backend = MemoryBackend;

    const REMAINING: Remaining = Remaining::AtMost;

    async fn connect(&self) -> MemoryBackend {
        self.0.connect().await
    }

    async fn expire(&self, key: &LockKey) {
        self.0.expire(key).await;
    }

    async fn seize(&self, key: &LockKey) {
        self.0.seize(key).await;
    }

    async fn go_dark(&self) {
        self.0.go_dark().await;
    }

    async fn leftovers(&self) -> Vec<String> {
        self.0.leftovers().await
    }
}

mod etcd {
    lock_conformance::conformance! {
        #[tokio::test(start_paused = true)]
        super::Lesser::new(super::of_etcd())
    }
}

mod unordered {
    lock_conformance::conformance! {
        #[tokio::test(start_paused = true)]
        super::Lesser::new(super::without_order())
    }
}

fn claim(owner: &str, ttl: Duration) -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    Claim::new(key, OwnerToken::new(owner), ttl).queued()
}

async fn is_granted(backend: &MemoryBackend, claim: &Claim) -> bool {
    matches!(backend.acquire(claim).await.unwrap(), Acquired::Granted(_))
}

/// How long `next_waiter` waits until it is granted the lock.
async fn waits(backend: &MemoryBackend, next_waiter: &Claim) -> Duration {
    let began = Instant::now();
    while !is_granted(backend, next_waiter).await {
        sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_crash_costs_the_ttl_as_the_store_keeps_it() {
    for (limits, ttl, costs) in [
        (of_etcd(), Duration::from_millis(2_500), secs(3) + LATE),
        (of_etcd(), Duration::from_millis(1), secs(2) + LATE),
        (without_order(), secs(3), secs(3)),
    ] {
        let store = MemoryBackend::with_limits(limits);
        let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
        assert_eq!(locks.takeover_after(ttl), costs);
        assert!(is_granted(&store, &claim("dead", ttl)).await);
        let waited = waits(&store, &claim("next_waiter", ttl)).await;
        assert!(
            waited.abs_diff(costs) <= Duration::from_millis(2),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_waiter_costs_its_ttl_where_the_process_keeps_the_grace() {
    let (grace, ttl) = (secs(1), secs(5));
    for (by, costs) in [(GraceBy::Store, grace), (GraceBy::Process, ttl)] {
        let mut limits = Limits::default();
        limits.grace = by;
        let store = MemoryBackend::with_limits(limits);
        let holder = claim("holder", ttl);
        assert!(is_granted(&store, &holder).await);
        let gone = store.clone();
        let mut dead = claim("dead", ttl);
        dead.grace = grace;
        assert!(!is_granted(&gone, &dead).await);
        drop(gone);
        let next_waiter = claim("next_waiter", ttl);
        assert!(!is_granted(&store, &next_waiter).await);
        let release = Release::new(holder.key, holder.owner);
        store.release(&release).await.unwrap();
        let waited = waits(&store, &next_waiter).await;
        assert!(
            waited.abs_diff(costs) <= Duration::from_millis(2),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_limits_exclude_is_refused_as_by_the_store_itself() {
    let exact = LockRuntime::backend(MemoryBackend::with_limits(of_etcd())).exact_ttl(true);
    let exact = exact.default_ttl(secs(5)).build().await.unwrap();
    let short = exact.lock("k").ttl(Duration::from_millis(1_500));
    let error = short.acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");

    let store = MemoryBackend::with_limits(without_order());
    let long = claim("long", secs(121));
    assert!(store.acquire(&long).await.unwrap_err().is_denied());
    let locks = LockRuntime::backend(store).build().await.unwrap();
    let error = locks.lock("k").ttl(secs(121)).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    let error = locks.lock("k").min_hold(secs(1)).acquire().await;
    assert!(matches!(error, Err(LockError::Config(_))), "{error:?}");
}
