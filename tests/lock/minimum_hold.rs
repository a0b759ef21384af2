//! A key stays taken for its minimum hold: counted from the beginning of the body, whatever becomes
//! of the body and of its process. With `once_per` it does after a body that ended well.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_conformance::{Decorated, Decorator};
use lock_runtime::backend::{Acquired, Backend, BackendError, Claim, Limits};
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::time::{Instant, sleep, timeout};

const LEAST: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(600);

/// The way of a process to the store, which is cut when the process dies.
#[derive(Clone)]
struct Way {
    store: MemoryBackend,
    is_dead: Arc<AtomicBool>,
    keeps: bool,
}

impl Way {
    fn new(store: &MemoryBackend) -> Way {
        Way {
            store: store.clone(),
            is_dead: Arc::default(),
            keeps: true,
        }
    }

    /// From now on nothing of the process arrives.
    fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    async fn travel(&self) {
        if self.is_dead.load(Ordering::Relaxed) {
            pending().await
        }
        sleep(Duration::from_millis(5)).await;
        if self.is_dead.load(Ordering::Relaxed) {
            pending().await
        }
    }
}

impl Decorator for Way {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.store
    }

    fn limits(&self) -> Limits {
        let mut limits = self.store.limits();
        limits.keep = self.keeps;
        limits
    }

    async fn before(&self) {
        self.travel().await;
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let answer = self.store.acquire(claim).await;
        self.travel().await;
        answer
    }
}

async fn process(way: &Way) -> LockRuntime {
    let locks = LockRuntime::backend(Decorated(way.clone()));
    locks.default_wait(LONG).build().await.unwrap()
}

async fn processes() -> (MemoryBackend, LockRuntime, LockRuntime) {
    let store = MemoryBackend::new();
    let one = process(&Way::new(&store)).await;
    let other = process(&Way::new(&store)).await;
    (store, one, other)
}

/// When somebody else has the lock.
async fn next(locks: &LockRuntime) -> Instant {
    let guard = locks.lock("job").acquire().await.unwrap();
    let had = Instant::now();
    guard.release().await.unwrap();
    had
}

#[distributed_lock(key = "job", min_hold = "10s", runtime = locks)]
async fn job(locks: &LockRuntime, fails: bool) -> Result<Instant, LockError> {
    if fails {
        return Err(LockError::Config("it fails".to_owned()));
    }
    Ok(Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_early_keeps_its_key_for_the_minimum() {
    let (_, one, other) = processes().await;
    let began = job(&one, false).await.unwrap();
    let (own, others) = tokio::join!(next(&one), next(&other));
    for had in [own, others] {
        let after = had - began;
        assert!(after >= LEAST && after < LEAST + LEAST / 10, "{after:?}");
    }
    // So it does whatever came of it.
    let began = Instant::now();
    job(&one, true).await.unwrap_err();
    assert!(next(&other).await - began >= LEAST);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_handed_a_key_that_is_kept() {
    let (store, one, other) = processes().await;
    let body = async |_| sleep(Duration::from_secs(2)).await;
    let job = one.lock("job").min_hold(LEAST).run(body);
    // They wait before it ends, in its own process and in another.
    let began = Instant::now();
    let late = async |locks| {
        sleep(Duration::from_secs(1)).await;
        next(locks).await
    };
    let watch = async {
        sleep(Duration::from_secs(3)).await;
        assert!(store.owner("job").unwrap().as_str().starts_with("kept:"));
    };
    let (outcome, own, others, ()) = tokio::join!(job, late(&one), late(&other), watch);
    outcome.unwrap();
    assert!(own - began >= LEAST && others - began >= LEAST);
    // The control: without a minimum they are handed it when the body ends.
    let began = Instant::now();
    let body = async |_| sleep(Duration::from_secs(2)).await;
    let job = one.lock("job").run(body);
    let (outcome, others) = tokio::join!(job, late(&other));
    outcome.unwrap();
    assert!(others - began < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_longer_than_its_minimum_keeps_nothing() {
    let (store, one, other) = processes().await;
    let body = async |_| sleep(LEAST + LEAST / 10).await;
    let job = one.lock("job").min_hold(LEAST).run(body);
    let began = Instant::now();
    let late = async {
        sleep(Duration::from_secs(1)).await;
        next(&other).await
    };
    let (outcome, had) = tokio::join!(job, late);
    outcome.unwrap();
    assert!(had - began < LEAST + LEAST / 5);
    assert!(store.is_idle());
}

/// How long after the beginning of a body another has the lock, when the process of the body dies
/// as it begins; it waits in the store before that, or does not.
async fn after_a_death(least: Option<Duration>, is_queued: bool) -> Duration {
    let store = MemoryBackend::new();
    let way = Way::new(&store);
    let (one, other) = (process(&way).await, process(&Way::new(&store)).await);
    let held = match is_queued {
        true => Some(other.lock("job").acquire().await.unwrap()),
        false => None,
    };
    let mut lock = one.lock("job").ttl(Duration::from_secs(1));
    if let Some(least) = least {
        lock = lock.min_hold(least);
    }
    let (begins, began) = tokio::sync::oneshot::channel();
    let body = async move |_| {
        way.die();
        begins.send(Instant::now()).unwrap();
        pending::<()>().await
    };
    let job = tokio::spawn(async move { lock.run(body).await });
    if let Some(held) = held {
        sleep(Duration::from_millis(500)).await;
        held.release().await.unwrap();
    }
    let began = began.await.unwrap();
    let had = next(&other).await;
    job.abort();
    had - began
}

#[tokio::test(start_paused = true)]
async fn a_minimum_outlives_the_process_that_began_it() {
    for is_queued in [false, true] {
        let kept = after_a_death(Some(LEAST), is_queued).await;
        assert!(kept >= LEAST && kept < LEAST + LEAST / 5, "{kept:?}");
        // The control: the ttl alone.
        let kept = after_a_death(None, is_queued).await;
        assert!(kept < Duration::from_secs(2), "{kept:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_does_not_count_as_a_hold() {
    let (_, one, other) = processes().await;
    let held = one.lock("job").acquire().await.unwrap();
    let job = async {
        let began = job(&other, false).await.unwrap();
        (began, next(&one).await)
    };
    let frees = async {
        sleep(2 * LEAST).await;
        held.release().await.unwrap();
    };
    let ((began, had), ()) = tokio::join!(job, frees);
    assert!(had - began >= LEAST);
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_the_body_and_not_the_minimum() {
    let (_, one, other) = processes().await;
    let lock = one.lock("job").max_hold(LEAST).min_hold(LEAST);
    let began = Instant::now();
    let outcome = lock.run(async |_| pending::<()>().await).await;
    assert!(outcome.unwrap_err().is_max_hold());
    assert!(next(&other).await - began >= LEAST);

    let outer = one.lock("job").max_hold(LEAST * 2);
    let began = Instant::now();
    let outcome = outer.run(async |_| {
        let inner = one.lock("job").max_hold(LEAST).min_hold(LEAST);
        inner.run(async |_| pending::<()>().await).await
    });
    assert!(outcome.await.unwrap().unwrap_err().is_max_hold());
    assert!(next(&other).await - began >= LEAST);
}

#[tokio::test(start_paused = true)]
async fn a_nested_minimum_is_kept_by_the_lock_around_it() {
    let (_, one, other) = processes().await;
    let outer = one.lock("job").ttl(Duration::from_secs(1));
    let began = outer.run(async |_| job(&one, false).await).await.unwrap();
    assert!(next(&other).await - began.unwrap() >= LEAST);
}

#[tokio::test(start_paused = true)]
async fn all_keys_of_a_call_are_kept() {
    let (store, one, other) = processes().await;
    let both = one.lock_all(["job", "other"]).min_hold(LEAST);
    let began = both.run(async |_| Instant::now()).await.unwrap();
    assert!(store.is_held("job") && store.is_held("other"));
    assert!(next(&other).await - began >= LEAST);
}

#[tokio::test(start_paused = true)]
async fn a_guard_keeps_the_key_when_it_is_dropped() {
    let (_, one, other) = processes().await;
    let guard = one.lock("job").min_hold(LEAST).acquire().await.unwrap();
    let began = Instant::now();
    drop(guard);
    assert!(next(&other).await - began >= LEAST - Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_minimum() {
    let (store, one, _) = processes().await;
    let began = job(&one, false).await.unwrap();
    one.shutdown().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(store.is_held("job"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_its_body_keeps_nothing() {
    let (store, one, other) = processes().await;
    let held = other.lock("job").acquire().await.unwrap();
    let waits = job(&one, false);
    assert!(tokio::time::timeout(LEAST, waits).await.is_err());
    held.release().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_keep_is_told_before_the_body() {
    let store = MemoryBackend::new();
    let mut way = Way::new(&store);
    way.keeps = false;
    let locks = process(&way).await;
    assert!(
        matches!(job(&locks, false).await, Err(LockError::Config(text)) if text.contains("keep"))
    );
    assert!(store.is_idle());
    let lock = locks.lock("job").max_hold(LEAST).min_hold(2 * LEAST);
    assert!(matches!(lock.acquire().await, Err(LockError::Config(_))));
}

const HOUR: Duration = Duration::from_secs(3_600);

#[distributed_lock(key = "job", once_per = "1h", runtime = locks)]
async fn hourly(locks: &LockRuntime, takes: Duration) -> Result<Option<Instant>, LockError> {
    let began = Instant::now();
    sleep(takes).await;
    Ok(Some(began))
}

/// When the body of somebody who tries again and again begins.
async fn tries(locks: &LockRuntime) -> Instant {
    loop {
        if let Some(began) = hourly(locks, Duration::ZERO).await.unwrap() {
            return began;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_well_is_not_run_again_within_its_period() {
    for takes in [0, 600] {
        let (store, one, other) = processes().await;
        let takes = Duration::from_secs(takes);
        let (began, skipped) = tokio::join!(hourly(&one, takes), async {
            sleep(Duration::from_millis(20)).await;
            hourly(&other, takes).await
        });
        let began = began.unwrap().unwrap();
        assert_eq!(skipped.unwrap(), None);
        assert!(store.owner("job").unwrap().as_str().starts_with("kept:"));
        // It is the store that knows: the process may be gone.
        one.shutdown().await.unwrap();
        let after = tries(&other).await - began;
        assert!(after >= HOUR && after < HOUR + HOUR / 60, "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_longer_than_its_period_keeps_nothing() {
    let (store, one, other) = processes().await;
    assert!(hourly(&one, HOUR).await.unwrap().is_some());
    assert!(store.is_idle());
    assert!(hourly(&other, Duration::ZERO).await.unwrap().is_some());
}

/// Whether another may run the job at once after a body that ends so.
async fn is_free_after<T>(body: impl AsyncFnOnce(&MemoryBackend) -> T) -> bool
where
    T: lock_runtime::LockDone,
{
    let (store, one, other) = processes().await;
    let lock = one.lock("job");
    let job = lock.run_once_per(HOUR, async |_| body(&store).await);
    let _ = job.await;
    sleep(Duration::from_secs(1)).await;
    other.lock("job").try_acquire().await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn after_an_error_or_a_loss_the_next_one_tries() {
    assert!(is_free_after(async |_| Err::<(), _>("no data yet")).await);
    assert!(is_free_after(async |_| None::<u32>).await);
    let lost = async |store: &MemoryBackend| {
        store.expire("job");
        sleep(Duration::from_secs(60)).await;
    };
    assert!(is_free_after(lost).await);
    // The control: after what ended well it does not.
    assert!(!is_free_after(async |_| Ok::<_, &str>(1)).await);
    assert!(!is_free_after(async |_| Some(1)).await);
    assert!(!is_free_after(async |_| ()).await);
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_or_a_drop_the_next_one_tries() {
    let (_, one, other) = processes().await;
    let lock = one.lock("job");
    let panics = tokio::spawn(lock.run_once_per(HOUR, async |_| -> () { panic!("planned") }));
    assert!(panics.await.unwrap_err().is_panic());
    let dropped = one
        .lock("job")
        .run_once_per(HOUR, async |_| pending::<()>().await);
    assert!(timeout(LEAST, dropped).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert!(hourly(&other, Duration::ZERO).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_in_the_job_costs_its_ttl() {
    let store = MemoryBackend::new();
    let way = Way::new(&store);
    let (one, other) = (process(&way).await, process(&Way::new(&store)).await);
    let began = Instant::now();
    let lock = one.lock("job").ttl(Duration::from_secs(2));
    let job = tokio::spawn(lock.run_once_per(HOUR, async move |_| {
        way.die();
        pending::<()>().await
    }));
    sleep(Duration::from_secs(1)).await;
    assert!(tries(&other).await - began < Duration::from_secs(5));
    job.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_its_end_leaves_a_key_that_is_free_or_kept() {
    let mut outcomes = Vec::new();
    // The way to the store takes 5 ms, twice: the lock is asked for, extended, and left to be kept.
    for millis in 0..40 {
        let (store, one, other) = processes().await;
        let job = timeout(Duration::from_millis(millis), hourly(&one, Duration::ZERO));
        let is_done = job.await.is_ok();
        sleep(Duration::from_secs(1)).await;
        // Nobody holds it, whose ttl others would wait for.
        let owner = store.owner("job");
        let is_kept = owner.is_some_and(|owner| owner.as_str().starts_with("kept:"));
        assert_eq!(store.is_held("job"), is_kept, "{millis}");
        let skips = hourly(&other, Duration::ZERO).await.unwrap().is_none();
        assert_eq!(skips, is_kept, "{millis}");
        outcomes.push((is_kept, is_done));
    }
    // Once the store was told, it knows; and who is told that the job is done can rely on that.
    assert!(outcomes.is_sorted(), "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .all(|(is_kept, is_done)| *is_kept || !is_done)
    );
    assert_eq!((outcomes[0], outcomes[39]), ((false, false), (true, true)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_job_is_told_to_a_store_that_comes_back_in_time() {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let job = async |failures| {
        let lock = locks.lock("job").ttl(Duration::from_secs(10)).renew(false);
        let job = lock.run_once_per(HOUR, async |_| {
            store.fail_next(failures, Fault::Unavailable)
        });
        let outcome = job.await;
        store.fail_next(0, Fault::Unavailable);
        outcome
    };
    assert_eq!(job(5).await.unwrap(), Some(()));
    assert!(store.owner("job").unwrap().as_str().starts_with("kept:"));
    // One that does not: nobody is told that the job is done.
    store.expire("job");
    assert!(job(usize::MAX).await.unwrap_err().is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_keep_is_told_before_a_job_of_once_per() {
    let store = MemoryBackend::new();
    let mut way = Way::new(&store);
    way.keeps = false;
    let locks = process(&way).await;
    let refused = hourly(&locks, Duration::ZERO).await;
    let LockError::Config(text) = refused.unwrap_err() else {
        panic!("it is a mistake of the program");
    };
    assert!(text.contains("`once_per`"), "{text}");
    assert!(store.is_idle());
    for period in [Duration::ZERO, 25 * HOUR] {
        let refused = locks.lock("job").run_once_per(period, async |_| ()).await;
        assert!(matches!(refused, Err(LockError::Config(_))), "{period:?}");
    }
    let lock = locks.lock("job").min_hold(HOUR);
    let refused = lock.run_once_per(HOUR, async |_| ()).await;
    assert!(matches!(refused, Err(LockError::Config(text)) if text.contains("min_hold")));
}
