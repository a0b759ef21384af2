//! Each argument of the attribute does what it says.

use std::future::pending;
use std::time::Duration;

use lock_attribute_tests::{Noted, locked, note, record, recorded};
use lock_runtime::{LockError, LockHandle, LockRuntime, distributed_lock};
use tokio::time::{Instant, sleep};

type Res<T> = Result<T, LockError>;

const LEASE: Duration = Duration::from_secs(5);

#[distributed_lock(key = "ttl", ttl = LEASE, renew = false, guard = lock)]
async fn with_a_ttl() -> Res<Duration> {
    Ok(lock.remaining())
}

#[distributed_lock(key = "ttl", ttl = Duration::from_secs(seconds), guard = lock)]
async fn with_a_computed_ttl(seconds: u64) -> Res<Duration> {
    Ok(lock.remaining())
}

#[tokio::test(start_paused = true)]
async fn ttl_is_how_long_a_lease_lives() {
    let ((), _) = record(async {
        let left = with_a_ttl().await.unwrap();
        assert!(left > LEASE * 9 / 10 && left <= LEASE, "{:?}", left);
        let left = with_a_computed_ttl(60).await.unwrap();
        assert!(left > Duration::from_secs(54), "{:?}", left);
        // Out of its range, and known only now.
        assert!(matches!(
            with_a_computed_ttl(0).await,
            Err(LockError::Config(_))
        ));
    })
    .await;
}

#[distributed_lock(key = "held", wait = "0s")]
async fn try_once() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "held", wait = "3s")]
async fn wait_a_little() -> Res<()> {
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn wait_is_how_long_to_wait_for_the_lock() {
    let ((), _) = record(async {
        let guard = LockRuntime::current()
            .unwrap()
            .lock("held")
            .acquire()
            .await
            .unwrap();
        assert!(try_once().await.unwrap_err().is_taken());
        let started = Instant::now();
        assert!(wait_a_little().await.unwrap_err().is_timeout());
        assert!(started.elapsed() >= Duration::from_secs(3));
        guard.release().await.unwrap();
        wait_a_little().await.unwrap();
    })
    .await;
}

#[distributed_lock(key = "long", ttl = "1s", renew = "100ms")]
async fn renewed() -> Res<()> {
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

#[distributed_lock(key = "long", ttl = "1s", renew = false)]
async fn not_renewed() -> Res<()> {
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

#[distributed_lock(key = "long", ttl = "1s", renew = false, on_lost = continue, guard = lock)]
async fn goes_on(end: &mut bool) -> Res<()> {
    sleep(Duration::from_secs(5)).await;
    *end = !lock.is_held();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn renew_keeps_the_lock_and_on_lost_says_what_happens_without() {
    let (_, runtime) = recorded().await;
    LockRuntime::scope(runtime, async {
        renewed().await.unwrap();
        assert!(not_renewed().await.unwrap_err().is_lost());
        let mut ended = false;
        let _ = goes_on(&mut ended).await;
        assert!(ended);
    })
    .await;
}

#[distributed_lock(key = "max", max_hold = "2s")]
async fn limited(_argument: Noted) -> Res<()> {
    note("body");
    pending().await
}

#[tokio::test(start_paused = true)]
async fn max_hold_ends_a_body_with_an_error_of_its_own() {
    let (result, events) = record(limited(Noted("argument"))).await;
    assert!(result.unwrap_err().is_max_hold());
    assert_eq!(events, locked("max", ["body", "drop argument"]));
}

#[distributed_lock(key = "max", ttl = "1m", guard = lock)]
async fn calls_a_limited_one() -> Res<()> {
    let started = Instant::now();
    assert!(limited(Noted("argument")).await.unwrap_err().is_max_hold());
    assert_eq!(started.elapsed().as_secs(), 2);
    // The lock is that of this call, and stays.
    assert!(lock.is_held() && lock.remaining() > Duration::from_secs(50));
    limits_within_limits().await
}

#[distributed_lock(key = "max", max_hold = "4s", guard = outer)]
async fn limits_within_limits() -> Res<()> {
    let (started, view) = (Instant::now(), outer.clone());
    assert!(outer.remaining() <= Duration::from_secs(4));
    let error = looser_limit().await.unwrap_err();
    assert!(matches!(error, LockError::MaxHold { limit, .. } if limit == Duration::from_secs(4)));
    assert_eq!(started.elapsed().as_secs(), 4);
    assert!(!view.is_held() && view.remaining().is_zero());
    assert!(view.renew().await.unwrap_err().is_max_hold());
    Ok(())
}

#[distributed_lock(key = "max", max_hold = "1h", ttl = "5s", renew = "1s")]
async fn looser_limit() -> Res<()> {
    pending().await
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_keeps_to_its_own_max_hold_and_to_those_around_it() {
    let (result, events) = record(calls_a_limited_one()).await;
    // The last of the limits was reached while its body ran on.
    assert!(result.unwrap_err().is_max_hold());
    assert_eq!(events, locked("max", ["body", "drop argument"]));
}

#[distributed_lock(key = "max", max_hold = "1s", on_lost = continue, guard = lock)]
async fn goes_on_after_max_hold() -> Res<bool> {
    sleep(Duration::from_secs(2)).await;
    Ok(lock.is_held())
}

#[distributed_lock(key = "max")]
async fn calls_one_that_goes_on() -> Res<bool> {
    goes_on_after_max_hold().await
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_that_goes_on_is_told_by_its_guard() {
    let (held, _) = record(calls_one_that_goes_on()).await;
    assert!(!held.unwrap());
}

#[distributed_lock(key = "guard", guard = r#lock)]
async fn with_a_guard() -> Res<(LockHandle, LockHandle)> {
    assert!(lock.is_held());
    Ok((lock.clone(), lock))
}

#[tokio::test]
async fn a_handle_that_leaves_the_body_does_not_keep_the_lock() {
    let (handles, events) = record(with_a_guard()).await;
    let (one, two) = handles.unwrap();
    assert!(!one.is_held() && !two.is_held());
    assert_eq!(events, locked("guard", []));
}

struct App {
    locks: LockRuntime,
}

impl App {
    #[distributed_lock(key = "app", runtime = self.locks)]
    async fn by_field(&self) -> Res<()> {
        Ok(())
    }

    #[distributed_lock(key = "app", runtime = locks)]
    async fn by_argument(locks: LockRuntime) -> Res<()> {
        // The body may move what the key and the runtime were taken from.
        drop(locks);
        Ok(())
    }
}

#[tokio::test]
async fn runtime_is_another_than_the_one_in_scope() {
    let (_, locks) = recorded().await;
    // No runtime is in scope here.
    App {
        locks: locks.clone(),
    }
    .by_field()
    .await
    .unwrap();
    App::by_argument(locks).await.unwrap();
    assert_eq!(
        lock_attribute_tests::events(),
        [locked("app", []), locked("app", [])].concat()
    );
}

#[distributed_lock(key = "renamed", crate = ::locks)]
async fn by_a_renamed_dependency() -> Result<(), ::locks::LockError> {
    Ok(())
}

#[tokio::test]
async fn a_renamed_dependency_is_found() {
    let (outcome, events) = record(by_a_renamed_dependency()).await;
    outcome.unwrap();
    assert_eq!(events, locked("renamed", []));
}
