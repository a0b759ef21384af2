//! Futures that are not polled any more, and live on: a `select!` whose other branch wants the same
//! lock, a slow consumer, a thread that is blocked.
//!
//! Whatever such a future was about to do, its key is free for others soon after the wait that the
//! caller asked for, and a lock that comes too late for it goes to somebody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use lock_conformance::poll_once;
use lock_runtime::{LockError, LockEvent, LockGuard, LockRuntime, LockRuntimeBuilder};
use lock_tests::faults::{DEADLINE, GRACE, SLACK, eventually};
use lock_tests::ms;
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

use super::places::{self, ANSWER, Place, on_each_store};

/// How long the stalled ones want to wait.
const WAIT: Duration = ms(3000);
/// How long after its deadline a stalled future may still be in the way of others.
const AFTER: Duration = ANSWER.saturating_add(GRACE).saturating_add(SLACK);

/// The settings of a runtime as one process would have it.
async fn builder(place: &impl Place) -> LockRuntimeBuilder {
    places::builder(place).await.grace(GRACE).heartbeat(GRACE)
}

async fn process(place: &impl Place) -> LockRuntime {
    builder(place).await.build().await.unwrap()
}

/// Gets the lock, which has to be free by `deadline`.
async fn had_by(deadline: Instant, locks: &LockRuntime) -> LockGuard {
    let guard = locks.lock("k").wait(DEADLINE).acquire().await;
    let guard =
        guard.unwrap_or_else(|error| panic!("nobody holds it, and it is not free: {error}"));
    let late = Instant::now().saturating_duration_since(deadline);
    assert!(late.is_zero(), "{late:?} too late");
    guard
}

/// An `acquire` that was polled once, and when its wait ends at the latest.
async fn parked_acquire(
    locks: &LockRuntime,
) -> (
    impl Future<Output = Result<LockGuard, LockError>> + use<>,
    Instant,
) {
    loop {
        let mut parked = Box::pin(locks.lock("k").wait(WAIT).acquire());
        match poll_once(parked.as_mut()) {
            Poll::Pending => return (parked, Instant::now() + WAIT),
            // The thread stood still for so long in the middle of the poll.
            Poll::Ready(answered) => answered.unwrap().release().await.unwrap(),
        }
    }
}

/// Parked in `acquire` after the first poll.
async fn a_parked_acquire_blocks_nobody_beyond_its_wait(place: &impl Place) {
    let locks = process(place).await;
    place.answer_late();
    let (parked, deadline) = parked_acquire(&locks).await;

    let guard = had_by(deadline + AFTER, &locks).await;
    guard.release().await.unwrap();
    drop(parked);
}

/// Parked in `acquire` because its thread is blocked, and with it its runtime.
async fn an_acquire_on_a_blocked_thread_blocks_nobody_beyond_its_wait(place: &impl Place) {
    let locks = process(place).await;
    place.answer_late();
    let (unblock, blocked) = mpsc::channel::<()>();
    let (tell, asked) = tokio::sync::oneshot::channel();
    let there = locks.clone();
    let caller = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_parked, deadline) = parked_acquire(&there).await;
            tell.send(deadline).unwrap();
            // Until the test is over, however it ends.
            let _ = blocked.recv();
        });
    });
    let deadline = asked.await.unwrap();

    let guard = had_by(deadline + AFTER, &locks).await;
    guard.release().await.unwrap();
    drop(unblock);
    caller.join().unwrap();
}

/// Granted, and not polled to hear of it.
async fn a_waiter_that_is_not_polled_gets_no_lock_after_its_wait(place: &impl Place) {
    let queued = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&queued);
    let locks = builder(place).await.observer(move |event: &LockEvent| {
        told.fetch_or(matches!(event, LockEvent::Queued { .. }), Ordering::SeqCst);
    });
    let (locks, other) = (locks.build().await.unwrap(), process(place).await);
    let holder = other.lock("k").acquire().await.unwrap();
    let deadline = Instant::now() + WAIT;
    let mut parked = Box::pin(locks.lock("k").wait(WAIT).acquire());
    // Until it has heard that it waits, and no further.
    eventually("it is queued", || {
        assert!(poll_once(parked.as_mut()).is_pending(), "it was answered");
        queued.load(Ordering::SeqCst)
    })
    .await;
    holder.release().await.unwrap();

    // Nobody else waits, so the lock is handed over to it.
    let guard = had_by(deadline + AFTER, &other).await;
    // Its wait has not been waited for if somebody else had the lock before.
    let outcome = timeout(DEADLINE, parked).await.expect("it never ends");
    let error = outcome.expect_err("a lock that came after the wait");
    assert!(error.is_timeout(), "{error}");
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

/// Parked in `release` after the first poll.
async fn a_parked_release_frees_the_lock(place: &impl Place) {
    let locks = process(place).await;
    let (parked, started) = loop {
        let guard = locks.lock("k").acquire().await.unwrap();
        place.answer_late();
        let mut parked = Box::pin(guard.release());
        match poll_once(parked.as_mut()) {
            Poll::Pending => break (parked, Instant::now()),
            // As above.
            Poll::Ready(answered) => answered.unwrap(),
        }
    };

    let guard = had_by(started + AFTER, &locks).await;
    guard.release().await.unwrap();
    drop(parked);
}

on_each_store! {
    real_time
    a_parked_acquire_blocks_nobody_beyond_its_wait
    an_acquire_on_a_blocked_thread_blocks_nobody_beyond_its_wait
    a_waiter_that_is_not_polled_gets_no_lock_after_its_wait
    a_parked_release_frees_the_lock
}

/// A waker that is the last to own a task, as in an executor that keeps no list of its tasks; and
/// the task has the lock.
#[test]
fn a_waker_that_owns_a_guard_may_be_given_up() {
    struct Task(#[expect(dead_code, reason = "it is dropped")] LockGuard);
    impl Wake for Task {
        fn wake(self: Arc<Task>) {}
    }
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let task = Task(locks.lock("k").acquire().await.unwrap());
            let mut next = Box::pin(locks.lock("k").acquire());
            for _ in 0..2 {
                let mut context = Context::from_waker(Waker::noop());
                assert!(next.as_mut().poll(&mut context).is_pending());
            }
            let waker = Waker::from(Arc::new(task));
            let mut context = Context::from_waker(&waker);
            assert!(next.as_mut().poll(&mut context).is_pending());
            drop(waker);
            drop(next);
            let again = locks.lock("k").acquire().await.unwrap();
            again.release().await.unwrap();
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(DEADLINE).expect("it hangs");
}
