//! What the engine promises on any backend, on the in-memory one with a paused clock.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use lock_conformance::poll_once;
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::server::Server;
use lock_tests::{ms, secs};
use tokio::time::{Instant, sleep, timeout};

/// Two runtimes on one store, as two processes have them.
async fn two_processes() -> (MemoryBackend, LockRuntime, LockRuntime) {
    let store = MemoryBackend::new();
    let one = LockRuntime::backend(store.clone()).build().await.unwrap();
    let two = LockRuntime::backend(store.clone()).build().await.unwrap();
    (store, one, two)
}

/// Nothing is left of those that gave up, as soon as the tasks that clean up after them have run.
async fn idle(store: &MemoryBackend) {
    for _ in 0..100 {
        if store.is_idle() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("something was left behind");
}

async fn one_process() -> (MemoryBackend, LockRuntime) {
    let (store, one, _) = two_processes().await;
    (store, one)
}

/// Nobody wakes a future that has been told as it joined the line.
#[tokio::test(start_paused = true)]
async fn what_is_known_at_once_is_told_at_once() {
    let (_store, locks) = one_process().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    let refused = poll_once(pin!(locks.lock("k").try_acquire()));
    assert!(matches!(refused, Poll::Ready(Ok(None))));
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever() {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store)
        .shutdown_timeout(secs(1))
        .build()
        .await
        .unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let error = locks.shutdown().await.unwrap_err();
    let LockError::StillHeld { locks: 1, keys } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(keys, std::slice::from_ref(guard.key()));
    assert!(
        error.to_string().ends_with("1 lock was still held: `k`"),
        "{error}"
    );
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_locked_run_can_be_spawned() {
    let (_, locks) = one_process().await;
    let id = 7_u64;
    let task = tokio::spawn(async move {
        locks
            .lock(format!("k:{id}"))
            .run(async |lock| {
                sleep(ms(1)).await;
                lock.is_held()
            })
            .await
    });
    assert!(task.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_generator_of_owner_tokens_that_panics_leaves_no_lock_behind() {
    let store = MemoryBackend::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let locks = LockRuntime::backend(store.clone())
        .local_passes(0)
        .owner_tokens(move |key| match counted.fetch_add(1, Ordering::SeqCst) {
            0 => "first".to_owned(),
            _ => panic!("no token for {key}"),
        })
        .build()
        .await
        .unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let waiting = {
        let locks = locks.clone();
        tokio::spawn(async move { locks.lock("k").acquire().await.map(drop) })
    };
    sleep(ms(10)).await;
    guard.release().await.unwrap();
    timeout(secs(1), waiting).await.unwrap().unwrap().unwrap();
    assert!(
        calls.load(Ordering::SeqCst) > 1,
        "the generator has panicked"
    );
    idle(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_handed_over_lock_survives_a_renewal_that_fails() {
    let (store, one, two) = two_processes().await;
    let guard = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(async move { two.lock("k").acquire().await.unwrap() });
    sleep(ms(10)).await;
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap();
    // In every way a renewal can fail.
    store.fail_next(1, Fault::Unavailable);
    store.fail_next(1, Fault::AnswerLost);
    store.fail_next(1, Fault::Hang(secs(5)));
    sleep(secs(3)).await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handed_over_lock_that_is_not_renewed_lasts_as_long_as_was_asked_for() {
    let (_, one, two) = two_processes().await;
    let guard = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(async move {
        let lock = two.lock("k").ttl(secs(1)).renew(false);
        lock.acquire().await.unwrap()
    });
    sleep(ms(450)).await;
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap();
    sleep(ms(900)).await;
    assert!(guard.is_held(), "{:?}", guard.remaining());
    timeout(secs(2), guard.lost()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_never_replaces_the_result_of_the_body() {
    for fault in [Fault::Unavailable, Fault::Denied, Fault::Hang(secs(60))] {
        let (store, locks) = one_process().await;
        let outcome = locks.lock("k").run(async |_| {
            store.fail_next(usize::MAX, fault);
            42
        });
        assert_eq!(outcome.await.unwrap(), 42, "{fault:?}");
        assert!(store.is_held("k"), "the release has failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_repeated_until_the_store_is_back() {
    let (store, locks) = one_process().await;
    let guard = locks.lock("k").acquire().await.unwrap();
    store.fail_next(usize::MAX, Fault::Hang(ms(100)));
    let started = Instant::now();
    assert!(guard.release().await.unwrap_err().is_unavailable());
    assert!(started.elapsed() <= ms(2_100), "{:?}", started.elapsed());
    assert!(store.is_held("k"));
    store.heal();
    let again = locks.lock("k").wait(secs(3)).acquire().await.unwrap();
    again.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_during_a_release_is_a_timeout() {
    let store = MemoryBackend::new();
    let builder = LockRuntime::backend(store.clone()).local_passes(0);
    let locks = builder.build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(async move { locks.lock("k").wait(secs(1)).acquire().await });
    sleep(ms(990)).await;
    store.fail_next(1, Fault::Hang(ms(20)));
    let _ = guard.release().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_period_below_a_millisecond_or_above_half_of_the_ttl_is_refused() {
    let (_, locks) = one_process().await;
    for period in [
        Duration::ZERO,
        Duration::from_nanos(1),
        secs(15) + Duration::from_nanos(1),
        Duration::MAX,
    ] {
        let error = locks.lock("k").renew(period).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{error:?}");
    }
    for lock in [
        locks.lock("k").ttl(ms(10)),
        locks.lock("half").renew(secs(15)),
    ] {
        lock.acquire().await.map(drop).unwrap();
    }
}

#[test]
fn the_watchdog_outlives_the_tokio_runtime_that_woke_it() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (home, first, second) = (runtime(), runtime(), runtime());
    let store = MemoryBackend::new();
    let locks = home.block_on(LockRuntime::backend(store).build()).unwrap();
    let lock = |key: &str| locks.lock(key).ttl(ms(3000)).acquire();
    let one = first.block_on(lock("one")).unwrap();
    let two = second.block_on(lock("two")).unwrap();
    first.shutdown_timeout(secs(5));
    second.block_on(async {
        for _ in 0..50 {
            sleep(ms(100)).await;
            assert!(two.is_held() && one.is_held());
        }
    });
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_runtime_that_is_gone() {
    let other = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    store.steal("k");
    let waiting = {
        let locks = locks.clone();
        other.spawn(async move { locks.lock("k").acquire().await.map(drop) })
    };
    while store.queue_len("k") == 0 {
        sleep(ms(1)).await;
    }
    let closing = {
        let locks = locks.clone();
        tokio::spawn(async move { locks.shutdown().await })
    };
    other.shutdown_background();
    let _ = waiting.await;
    timeout(secs(30), closing).await.unwrap().unwrap().unwrap();
}

/// In real time, since a blocked thread is the point: the watchdog, which runs on it here, has not
/// noticed.
#[tokio::test]
async fn a_lease_that_ended_before_its_release_is_lost_even_if_the_store_is_down() {
    let store = MemoryBackend::new();
    let builder = LockRuntime::backend(store.clone()).command_timeout(ms(50));
    let locks = builder.build().await.unwrap();
    let guard = locks.lock("k").ttl(ms(1000)).acquire().await.unwrap();
    store.fail_next(usize::MAX, Fault::Unavailable);
    std::thread::sleep(ms(1010));
    let error = guard.release().await.unwrap_err();
    assert!(error.is_lost(), "{error}");
}

/// What a future says at its first poll, outside of tokio.
fn said<T>(future: impl Future<Output = T>) -> T {
    match poll_once(pin!(future)) {
        Poll::Ready(said) => said,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn outside_of_tokio_the_answer_is_a_configuration_error() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = MemoryBackend::new();
    let server = Server::start();
    let process = |builder: LockRuntimeBuilder| tokio.block_on(builder.build()).unwrap();
    let runtimes = [
        process(LockRuntime::backend(store.clone())),
        process(LockRuntime::redis(server.url())),
    ];
    let is_told = |error: LockError| {
        assert!(matches!(error, LockError::Config(_)), "{error:?}");
        assert!(error.to_string().contains("tokio"), "{error}");
    };
    for locks in runtimes {
        is_told(said(locks.lock("k").acquire()).unwrap_err());
        is_told(said(locks.lock("k").try_acquire()).unwrap_err());
        is_told(said(locks.lock("k").run(async |_| ())).unwrap_err());
        let guard = tokio.block_on(locks.lock("k").acquire()).unwrap();
        is_told(said(guard.release()).unwrap_err());
        is_told(said(locks.shutdown()).unwrap_err());
        // It is released in the background, and nothing is shut down.
        let guard = tokio.block_on(locks.lock("k").acquire()).unwrap();
        tokio.block_on(guard.release()).unwrap();
    }
}
