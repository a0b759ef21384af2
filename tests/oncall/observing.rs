//! What observers and logs are told, and that nothing is swallowed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::observe::{Failure, Refusal, Verb, Via};
use lock_runtime::{LockError, LockEvent, LockRuntime, LostReason, Process, distributed_lock};
use lock_tests::faults::can_be_had;
use lock_tests::faults::proxy::Proxy;
use lock_tests::server::{Options, Server};
use lock_tests::{ms, secs};
use tokio::time::sleep;
use tracing::Instrument;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::log::Log;

/// What an observer was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<LockEvent>>>);

impl Told {
    fn observer(&self) -> impl Fn(&LockEvent) + Send + Sync + 'static {
        let told = self.clone();
        move |event: &LockEvent| told.0.lock().unwrap().push(event.clone())
    }

    /// What `pick` makes of each event, in their order.
    fn all<T>(&self, pick: impl Fn(&LockEvent) -> Option<T>) -> Vec<T> {
        self.0.lock().unwrap().iter().filter_map(pick).collect()
    }

    /// How the wishes of callers ended, and of those that nothing is told yet.
    fn wishes(&self) -> (Vec<String>, usize) {
        let asked = self.all(|event| matches!(event, LockEvent::Asked { .. }).then_some(()));
        let ended = self.all(|event| match event {
            LockEvent::Acquired { via, .. } => Some(format!("acquired {}", via.as_str())),
            LockEvent::Refused { refusal, .. } => Some(refusal.as_str().to_owned()),
            _ => None,
        });
        let open = asked.len() - ended.len();
        (ended, open)
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// What `pick` finds, as soon as it is told.
    async fn wait<T>(&self, pick: impl Fn(&LockEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + secs(30);
        loop {
            if let Some(found) = self.all(&pick).pop() {
                return found;
            }
            assert!(Instant::now() < deadline, "it is not told: {:?}", self.0);
            sleep(ms(5)).await;
        }
    }
}

/// Two runtimes on one store, of which the first is observed.
async fn observed() -> (MemoryBackend, Told, LockRuntime, LockRuntime) {
    let (store, told) = (MemoryBackend::new(), Told::default());
    let locks = LockRuntime::backend(store.clone()).observer(told.observer());
    let other = LockRuntime::backend(store.clone());
    let (locks, other) = (locks.build().await.unwrap(), other.build().await.unwrap());
    (store, told, locks, other)
}

#[tokio::test(start_paused = true)]
async fn of_each_wish_it_is_told_how_it_ended() {
    let (store, told, locks, other) = observed().await;
    let lock = |wait| locks.lock("k").ttl(secs(2)).wait(wait);
    // Free, and then passed on to one who waits here.
    let guard = lock(secs(1)).acquire().await.unwrap();
    let next = tokio::spawn(lock(secs(1)).acquire());
    sleep(ms(100)).await;
    assert!(lock(Duration::ZERO).acquire().await.unwrap_err().is_taken());
    guard.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(lock(ms(50)).acquire().await.unwrap_err().is_timeout());
    let dropped = tokio::spawn(lock(secs(1)).acquire());
    sleep(ms(10)).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    guard.release().await.unwrap();
    let (ended, open) = told.wishes();
    let expected = [
        "acquired free",
        "taken",
        "acquired local",
        "timeout",
        "cancelled",
    ];
    assert_eq!(
        (ended.as_slice(), open),
        (expected.map(str::to_owned).as_slice(), 0)
    );
    told.clear();

    // By the release of another process, and after one that did not release.
    for (is_released, via) in [
        (true, "acquired handed_over"),
        (false, "acquired after_expiry"),
    ] {
        let held = other.lock("k").ttl(secs(2)).renew(is_released);
        let guard = held.acquire().await.unwrap();
        let waiting = tokio::spawn(lock(secs(10)).acquire());
        while store.queue_len("k") == 0 {
            sleep(ms(1)).await;
        }
        // Else the lease runs out.
        let _kept = if is_released {
            guard.release().await.unwrap();
            None
        } else {
            Some(guard)
        };
        waiting.await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(told.wishes(), (vec![via.to_owned()], 0));
        let queued = told.all(|event| match event {
            LockEvent::Queued { remaining, .. } => Some(*remaining),
            _ => None,
        });
        assert!(matches!(queued[..], [Some(_)]), "{queued:?}");
        told.clear();
    }

    // The store is away, refuses, and is not asked any more.
    store.fail_next(usize::MAX, Fault::Unavailable);
    assert!(lock(ms(200)).acquire().await.unwrap_err().is_unavailable());
    store.heal();
    store.fail_next(1, Fault::Denied);
    assert!(lock(ms(200)).acquire().await.unwrap_err().is_denied());
    locks.shutdown().await.unwrap();
    assert!(lock(ms(200)).acquire().await.unwrap_err().is_shut_down());
    let (ended, open) = told.wishes();
    let expected = ["unavailable", "denied", "shut_down"];
    assert_eq!(
        (ended.as_slice(), open),
        (expected.map(str::to_owned).as_slice(), 0)
    );
    let failures = told.all(|event| match event {
        LockEvent::Store {
            failure,
            verb: Verb::Acquire,
            ..
        } => *failure,
        _ => None,
    });
    assert!(failures.contains(&Failure::Connection) && failures.contains(&Failure::Refused));
}

/// Who takes several locks by one question, and gets them, or has to take them one by one.
#[tokio::test(start_paused = true)]
async fn locks_that_are_taken_together_are_told_of_once_each() {
    let (_store, told, locks, other) = observed().await;
    let both = || locks.lock_all(["a", "b"]).name("pair").wait(ms(100));
    both().acquire().await.unwrap().release().await.unwrap();
    let (ended, open) = told.wishes();
    assert_eq!((ended, open), (vec!["acquired free".to_owned(); 2], 0));
    let names = told.all(|event| event.lock().map(|lock| lock.name));
    assert!(names.iter().all(|name| *name == "pair"), "{names:?}");
    told.clear();

    let guard = other.lock("b").acquire().await.unwrap();
    assert!(both().acquire().await.unwrap_err().is_timeout());
    guard.release().await.unwrap();
    let (ended, open) = told.wishes();
    assert_eq!(
        (ended, open),
        (vec!["acquired free".to_owned(), "timeout".to_owned()], 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_is_lost_with_the_error_of_its_renewals() {
    let (store, told, locks, _) = observed().await;
    let guard = locks.lock("k").ttl(secs(2)).acquire().await.unwrap();
    store.fail_next(usize::MAX, Fault::Unavailable);
    guard.lost().await;
    let error = guard.release().await.unwrap_err();
    let LockError::Lost {
        reason,
        cause: Some(cause),
        ..
    } = &error
    else {
        panic!("no cause: {error:?}");
    };
    assert_eq!(*reason, LostReason::Expired);
    // The same numbers by all ways.
    let failed = told.all(|event| match event {
        LockEvent::RenewalFailed { cause, .. } => Some(cause.times()),
        _ => None,
    });
    assert!(failed.len() > 2);
    assert_eq!(failed, (1..=cause.times()).collect::<Vec<_>>());
    let lost = told.all(|event| match event {
        LockEvent::Lost { reason, cause, .. } => Some((*reason, cause.as_ref()?.times())),
        _ => None,
    });
    assert_eq!(lost, [(LostReason::Expired, cause.times())]);
    // The chain of sources ends with what the store said.
    let mut source: &dyn std::error::Error = &error;
    while let Some(next) = source.source() {
        source = next;
    }
    assert_eq!(
        source.to_string(),
        "the test made the in-memory backend unavailable"
    );
}

#[tokio::test(start_paused = true)]
async fn a_row_of_failures_ends_with_the_next_renewal() {
    let (store, told, locks, _) = observed().await;
    let guard = locks.lock("k").ttl(secs(20)).acquire().await.unwrap();
    store.fail_next(3, Fault::Unavailable);
    sleep(secs(15)).await;
    guard.release().await.unwrap();
    let renewed = told.all(|event| match event {
        LockEvent::Renewed { margin, after, .. } => {
            Some((*margin, after.as_ref().map_or(0, |after| after.times())))
        }
        _ => None,
    });
    assert!(renewed.len() > 2, "{renewed:?}");
    assert_eq!(renewed[0].1, 3);
    assert!(
        renewed[1..].iter().all(|(_, after)| *after == 0),
        "{renewed:?}"
    );
    assert!(
        renewed
            .iter()
            .all(|(margin, _)| (secs(10)..secs(20)).contains(margin)),
        "{renewed:?}"
    );
    let ends = told.all(|event| match event {
        LockEvent::Lost { .. } | LockEvent::MaxHold { .. } => Some("against its will"),
        LockEvent::Released {
            dropped: false,
            unconfirmed: None,
            ..
        } => Some("released"),
        _ => None,
    });
    assert_eq!(ends, ["released"]);
}

#[tokio::test(start_paused = true)]
async fn of_each_hold_it_is_told_how_it_ended() {
    let (store, told, locks, _) = observed().await;
    let lock = || locks.lock("k").ttl(secs(2)).name("report");
    let ends = || {
        let ends = told.all(|event| match event {
            LockEvent::Released {
                held,
                dropped,
                unconfirmed,
                ..
            } => Some((
                *held,
                format!("dropped: {dropped}, confirmed: {}", unconfirmed.is_none()),
            )),
            LockEvent::MaxHold { limit, .. } => Some((*limit, "max hold".to_owned())),
            LockEvent::Lost { held, reason, .. } => Some((*held, format!("{reason:?}"))),
            _ => None,
        });
        told.clear();
        ends
    };
    let guard = lock().acquire().await.unwrap();
    sleep(ms(300)).await;
    guard.release().await.unwrap();
    assert_eq!(
        ends(),
        [(ms(300), "dropped: false, confirmed: true".to_owned())]
    );
    drop(lock().acquire().await.unwrap());
    tokio::task::yield_now().await;
    assert_eq!(
        ends(),
        [(ms(0), "dropped: true, confirmed: true".to_owned())]
    );
    let guard = lock().max_hold(ms(200)).acquire().await.unwrap();
    guard.lost().await;
    assert!(guard.release().await.unwrap_err().is_max_hold());
    assert_eq!(ends(), [(ms(200), "max hold".to_owned())]);
    let guard = lock().acquire().await.unwrap();
    store.fail_next(usize::MAX, Fault::Unavailable);
    assert!(guard.release().await.unwrap_err().is_unavailable());
    store.heal();
    let [(held, how)] = &ends()[..] else {
        panic!("not told once");
    };
    assert_eq!(
        (*held, how.as_str()),
        (ms(0), "dropped: false, confirmed: false")
    );
}

#[tokio::test(start_paused = true)]
async fn functions_of_the_user_that_panic_are_told_of_once_and_harm_nothing() {
    let (store, told) = (MemoryBackend::new(), Told::default());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let locks = LockRuntime::backend(store.clone())
        .observer(move |_: &LockEvent| {
            counted.fetch_add(1, Ordering::Relaxed);
            panic!("an observer")
        })
        .observer(told.observer())
        .retry(|_: u32| -> Option<Duration> { panic!("a policy") })
        .owner_tokens(|_| panic!("a generator"))
        .build()
        .await
        .unwrap();
    store.fail_next(2, Fault::Unavailable);
    for _ in 0..2 {
        can_be_had(&locks, "k").await;
    }
    let mut panicked = told.all(|event| match event {
        LockEvent::Panicked { function } => Some(*function),
        _ => None,
    });
    panicked.sort_unstable();
    assert_eq!(panicked, ["observer", "owner_tokens", "retry"]);
    // It was told of each event all the same.
    assert!(calls.load(Ordering::Relaxed) > 10);
    assert!(store.is_idle());
}

/// An observer may look at the locks that it is told of.
#[tokio::test(start_paused = true)]
async fn an_observer_may_use_the_runtime() {
    let (store, told) = (MemoryBackend::new(), Told::default());
    let locks = Arc::new(Mutex::new(Weak::<LockRuntime>::new()));
    let seen = Arc::clone(&locks);
    let runtime = LockRuntime::backend(store.clone())
        .observer(move |event: &LockEvent| {
            let LockEvent::Released { lock, .. } = event else {
                return;
            };
            let locks = seen.lock().unwrap().upgrade();
            if let Some(locks) = locks.filter(|_| lock.key.as_str() == "k") {
                // The key whose event this is.
                drop(locks.lock("k").try_acquire());
                tokio::spawn(async move { locks.lock("other").try_acquire().await });
            }
        })
        .observer(told.observer());
    let runtime = Arc::new(runtime.build().await.unwrap());
    *locks.lock().unwrap() = Arc::downgrade(&runtime);
    can_be_had(&runtime, "k").await;
    told.wait(|event| match event {
        LockEvent::Acquired { lock, .. } if lock.key.as_str() == "other" => Some(()),
        _ => None,
    })
    .await;
}

#[distributed_lock(key = "order:<id>")]
async fn order(id: u64) -> Result<(), LockError> {
    tracing::info!("charged");
    tokio::task::yield_now().await;
    deliver().await
}

async fn deliver() -> Result<(), LockError> {
    tracing::info!("delivered");
    Ok(())
}

#[tokio::test]
async fn each_line_that_a_body_logs_carries_its_fencing_token() {
    let (_, told, locks, _) = observed().await;
    // Without the level of the span, there is nothing of it.
    for (level, is_there) in [(LevelFilter::INFO, true), (LevelFilter::WARN, false)] {
        told.clear();
        let (log, _guard) = Log::of(level);
        LockRuntime::scope(locks.clone(), order(7)).await.unwrap();
        tracing::warn!("outside");
        let token = told.all(|event| match event {
            LockEvent::Acquired {
                fencing_token,
                lock,
                ..
            } => {
                assert_eq!(lock.name, "order:<id>");
                Some(fencing_token.as_u64())
            }
            _ => None,
        });
        let span = format!(
            "lock.hold{{lock=\"order:<id>\" key=order:7 fencing_token={}}}",
            token[0]
        );
        for words in ["charged", "delivered"] {
            let lines = log.lines(words);
            assert_eq!(lines.len(), usize::from(is_there), "{lines:?}");
            assert!(lines.iter().all(|line| line.contains(&span)), "{lines:?}");
        }
        assert!(
            log.lines("outside")
                .iter()
                .all(|line| !line.contains("lock.hold"))
        );
    }
}

#[tokio::test]
async fn a_body_by_hand_has_the_same_span_and_one_of_two_locks_has_both() {
    let (_, _, locks, _) = observed().await;
    let (log, _guard) = Log::of(LevelFilter::INFO);
    let report = locks.lock("report").name("reports");
    report
        .run(async |_| tracing::info!("written"))
        .await
        .unwrap();
    let pair = locks.lock_all(["b", "a"]);
    pair.run(async |_| tracing::info!("moved")).await.unwrap();
    let mut guard = locks.lock("leader").acquire().await.unwrap();
    tracing::info!("bare");
    guard.run(async |_| tracing::info!("led")).await.unwrap();
    assert!(log.lines("written")[0].contains("lock.hold{lock=\"reports\" key=report "));
    let moved = &log.lines("moved")[0];
    assert!(
        moved.contains("key=a ") && moved.contains("key=b "),
        "{moved}"
    );
    assert!(!log.lines("bare")[0].contains("lock.hold"));
    assert!(log.lines("led")[0].contains("key=leader "));
}

#[tokio::test(start_paused = true)]
async fn a_slow_wait_is_a_warning_and_a_quick_one_is_not() {
    for (waits, is_slow) in [(ms(2_500), true), (ms(1_500), false)] {
        let (_, _, locks, other) = observed().await;
        let (log, _guard) = Log::of(LevelFilter::WARN);
        let held = other.lock("k").acquire().await.unwrap();
        let waiting = tokio::spawn(locks.lock("k").acquire());
        sleep(waits).await;
        held.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(
            log.lines("lock acquired slowly").len(),
            usize::from(is_slow),
            "{}",
            log.text()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_line_of_a_slow_wait_names_the_process_that_had_the_lock() {
    // Another process, and a library that names none.
    for (owner, process) in [
        ("x/lr-00000000000000ff-1a-1", Some("00000000000000ff-1a")),
        ("x", None),
    ] {
        let (store, told, locks, _) = observed().await;
        let (log, _guard) = Log::of(LevelFilter::WARN);
        let (key, owner) = (LockKey::new("lock:", "k").unwrap(), OwnerToken::new(owner));
        let claim = Claim::new(key.clone(), owner.clone(), secs(30));
        let held = store.acquire(&claim).await.unwrap();
        assert!(matches!(held, Acquired::Granted(_)), "{held:?}");
        let waiting = tokio::spawn(locks.lock("k").wait(secs(30)).acquire());
        let next = tokio::spawn(locks.lock("k").wait(secs(30)).acquire());
        sleep(ms(2_500)).await;
        store.release(&Release::new(key, owner)).await.unwrap();
        let guard = waiting.await.unwrap().unwrap();
        guard.release().await.unwrap();
        next.await.unwrap().unwrap().release().await.unwrap();
        let lines = log.lines("lock acquired slowly");
        let [first, second] = &lines[..] else {
            panic!("{}", log.text());
        };
        match process {
            Some(process) => assert!(first.contains(&format!("holder_process={process} "))),
            None => assert!(!first.contains("holder_process"), "{first}"),
        }
        // Passed on within this one.
        let own = format!("holder_process={} ", Process::current());
        assert!(second.contains(&own), "{second}");
        let previous = told.all(|event| match event {
            LockEvent::Acquired { previous, .. } => Some(*previous),
            _ => None,
        });
        let expected = process.map(|process| Process::parse(process).unwrap());
        assert_eq!(previous, [expected, Some(Process::current())]);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_may_not_be_logged_are_not() {
    for log_keys in [true, false] {
        let (log, _guard) = Log::of(LevelFilter::TRACE);
        let store = MemoryBackend::new();
        let locks = LockRuntime::backend(store.clone()).log_keys(log_keys);
        let locks = locks.shutdown_timeout(ms(10)).build().await.unwrap();
        let lock = || locks.lock("patient:alice").ttl(secs(1));
        let run = lock().run(async |_| tracing::info!("seen"));
        run.await.unwrap();
        let guard = lock().acquire().await.unwrap();
        assert!(
            lock()
                .wait(ms(10))
                .acquire()
                .await
                .unwrap_err()
                .is_timeout()
        );
        store.fail_next(usize::MAX, Fault::Unavailable);
        guard.lost().await;
        drop(guard);
        store.heal();
        let _held = lock().acquire().await.unwrap();
        assert!(locks.shutdown().await.is_err());
        let text = log.text();
        for words in [
            "lock acquired",
            "lock not acquired",
            "renewal failed",
            "lock lost",
            "seen",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        assert_eq!(text.contains("alice"), log_keys, "{text}");
        // All lines of one lock have the same in its place.
        let hashes = text.split("key=\"#").skip(1).map(|rest| &rest[..16]);
        let mut hashes: Vec<_> = hashes.collect();
        hashes.dedup();
        assert_eq!(hashes.len(), usize::from(!log_keys), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_caller_says_how_it_ended_and_who_had_the_lock() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(log.clone())
        .finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let (_store, _, locks, other) = observed().await;
    let guard = other.lock("k").acquire().await.unwrap();
    let refused = locks.lock("k").wait(Duration::ZERO).acquire().await;
    assert!(refused.unwrap_err().is_taken());
    let closed = log.lines("close");
    let [acquired, taken] = &closed[..] else {
        panic!("{closed:?}");
    };
    let token = format!("fencing_token={}", guard.fencing_token());
    assert!(acquired.contains("outcome=\"acquired\"") && acquired.contains(&token));
    assert!(!acquired.contains("holder="), "{acquired}");
    assert!(acquired.contains("via=\"free\""), "{acquired}");
    assert!(!taken.contains("via="), "{taken}");
    let holder = format!("holder={}", Process::current());
    assert!(
        taken.contains("outcome=\"taken\"") && taken.contains(&holder),
        "{taken}"
    );

    // By the release of the other process, and then passed on within this one, to callers that are
    // in a span of their own, which says nothing of locks.
    let span = tracing::info_span!("order", via = tracing::field::Empty);
    let lock = || locks.lock("k").wait(secs(30)).acquire();
    let first = tokio::spawn(lock().instrument(span.clone()));
    let second = tokio::spawn(lock().instrument(span));
    sleep(ms(10)).await;
    guard.release().await.unwrap();
    first.await.unwrap().unwrap().release().await.unwrap();
    second.await.unwrap().unwrap().release().await.unwrap();
    let closed = log.lines("close");
    let acquired = closed.iter().filter(|line| line.contains("lock.acquire{"));
    let came = acquired.filter_map(|line| line.split("via=").nth(1));
    let came: Vec<_> = came.filter_map(|rest| rest.split('"').nth(1)).collect();
    assert_eq!(came, ["free", "handed_over", "local"]);
    let own = closed.iter().filter(|line| !line.contains("lock.acquire{"));
    let own: Vec<_> = own.collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert!(!own[0].contains("via="), "{own:?}");
}

/// It takes so long without an `.await`, with nothing before, or with one that lasts as long.
#[distributed_lock(key = "report:<id>", ttl = "4s", runtime = locks)]
async fn write_report(
    locks: &LockRuntime,
    id: u64,
    blocks: Duration,
    waits: Duration,
) -> Result<(), LockError> {
    sleep(waits).await;
    std::thread::sleep(blocks);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_blocks_its_thread_is_told_and_one_that_awaits_is_not() {
    // Its leases are renewed by another thread.
    let server = Server::start();
    let (log, _listening) = Log::of(LevelFilter::WARN);
    let told = Told::default();
    let locks = LockRuntime::redis(server.url()).observer(told.observer());
    let locks = locks.build().await.unwrap();
    let blocked = || {
        told.all(|event| match event {
            LockEvent::Blocked {
                lock,
                blocked,
                ttl,
                fencing_token,
            } => Some((lock.name, *blocked, *ttl, fencing_token.as_u64())),
            _ => None,
        })
    };
    let waits = write_report(&locks, 7, Duration::ZERO, secs(3));
    waits.await.unwrap();
    assert_eq!(blocked(), []);
    let blocks = write_report(&locks, 7, secs(2), Duration::ZERO);
    // The lease may have ended: that is what one is warned of.
    let _ = blocks.await;
    let all = blocked();
    let [(name, took, ttl, token)] = all[..] else {
        panic!("{all:?}");
    };
    assert_eq!((name, ttl), ("report:<id>", secs(4)));
    assert!(took >= secs(2), "{took:?}");
    let lines = log.lines("body blocks its thread");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(&format!("fencing_token={token}")),
        "{lines:?}"
    );
}

/// A store that keeps leases for two seconds at least, and grants each alone.
fn coarse() -> MemoryBackend {
    let mut limits = MemoryBackend::new().limits();
    limits.min_ttl = secs(2);
    limits.ttl_step = secs(1);
    limits.modes = false;
    MemoryBackend::with_limits(limits)
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_the_store_raises_is_told_once() {
    let told = Told::default();
    let locks = LockRuntime::backend(coarse()).observer(told.observer());
    let locks = locks.default_ttl(secs(5)).build().await.unwrap();
    for ttl in [ms(2_500), ms(500), ms(2_500), secs(3)] {
        let guard = locks.lock("k").ttl(ttl).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
    let raised = told.all(|event| match event {
        LockEvent::TtlRaised { ttl, kept_for } => Some((*ttl, *kept_for)),
        _ => None,
    });
    assert_eq!(raised, [(ms(2_500), secs(3)), (ms(500), secs(2))]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_the_store_grants_alone_is_told_once_for_each_name() {
    let told = Told::default();
    let locks = LockRuntime::backend(coarse()).observer(told.observer());
    let locks = locks.build().await.unwrap();
    for key in ["catalog:1", "catalog:2"] {
        let lock = locks.lock(key).name("catalog:<id>");
        lock.shared()
            .acquire()
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    }
    let stock = locks.lock("stock").name("stock").shards(4);
    stock.acquire().await.unwrap().release().await.unwrap();
    let plain = locks.lock("plain").name("plain").acquire().await.unwrap();
    plain.release().await.unwrap();
    let alone = |event: &LockEvent| match event {
        LockEvent::GrantedAlone { name, mode } => Some((*name, *mode)),
        _ => None,
    };
    let expected = [("catalog:<id>", "shared"), ("stock", "shards")];
    assert_eq!(told.all(alone), expected);

    // A store that knows them has nothing to tell.
    let told = Told::default();
    let locks = LockRuntime::in_memory().observer(told.observer());
    let locks = locks.build().await.unwrap();
    let guard = locks.lock("catalog:1").shared().acquire().await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(told.all(alone), []);
}

#[tokio::test(start_paused = true)]
async fn each_reader_of_a_process_is_told_of_and_listed() {
    let told = Told::default();
    let locks = LockRuntime::in_memory().observer(told.observer());
    let locks = locks.build().await.unwrap();
    let lock = || locks.lock("catalog").name("catalog").shared();
    let (one, other) = (
        lock().acquire().await.unwrap(),
        lock().acquire().await.unwrap(),
    );
    assert_eq!(locks.local().len(), 2);
    one.release().await.unwrap();
    assert_eq!(locks.local().len(), 1);
    drop(other);
    locks.shutdown().await.unwrap();
    assert!(locks.local().is_empty());
    let held = told.all(|event| match event {
        LockEvent::Acquired { via, .. } => Some(format!("acquired {via:?}")),
        LockEvent::Released { dropped, .. } => Some(format!("released {dropped}")),
        _ => None,
    });
    let expected = [
        "acquired Free",
        "acquired Local",
        "released false",
        "released true",
    ];
    assert_eq!(held, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_told_with_its_cause_and_no_password_is_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    // Of all threads, also that of the backend.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut server = Options::default().password("sesame").start();
    let address = format!("127.0.0.1:{}", server.port());
    let told = Told::default();
    let locks = LockRuntime::redis(format!("redis://:sesame@{address}"));
    let locks = locks.observer(told.observer()).build().await.unwrap();
    let lane = |event: &LockEvent| match event {
        LockEvent::Connected {
            way: "lane",
            address,
        } => Some(address.to_string()),
        _ => None,
    };
    assert_eq!(told.wait(lane).await, address);
    told.clear();
    let guard = locks.lock("k").ttl(secs(5)).acquire().await.unwrap();
    server.kill();
    let cause = told.wait(|event| match event {
        LockEvent::Disconnected {
            was_connected: true,
            way: "lane",
            cause,
            ..
        } => cause.clone(),
        _ => None,
    });
    assert!(!cause.await.is_denied());
    let cannot = told.wait(|event| match event {
        LockEvent::Disconnected {
            was_connected: false,
            way: "lane",
            cause,
            ..
        } => cause.clone(),
        _ => None,
    });
    assert!(!cannot.await.is_denied());
    let lost = told.wait(|event| match event {
        LockEvent::Lost {
            reason: LostReason::Expired,
            cause,
            ..
        } => cause.clone(),
        _ => None,
    });
    assert_eq!(Failure::of(lost.await.last()), Failure::Connection);
    let error = guard.release().await.unwrap_err();
    let mut source: &dyn std::error::Error = &error;
    while let Some(next) = source.source() {
        source = next;
    }
    assert!(source.to_string().contains("efused"), "{source}");
    told.clear();
    server.restart();
    assert_eq!(told.wait(lane).await, address);
    locks.shutdown().await.unwrap();
    let text = log.text();
    for words in [
        "connected",
        "connection lost",
        "cannot connect",
        "lock lost",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(
        !text.contains("sesame") && !text.contains("redis://"),
        "{text}"
    );
}

/// One that hangs is told as a timeout, one that breaks as a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_is_told_by_its_kind() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.port());
    let told = Told::default();
    let locks = LockRuntime::redis(proxy.url()).observer(told.observer());
    let locks = locks.command_timeout(ms(300)).build().await.unwrap();
    let failed = |verb: Verb, kind: Failure| {
        move |event: &LockEvent| match event {
            LockEvent::Store {
                verb: of,
                failure: Some(failure),
                ..
            } => (*of == verb && *failure == kind).then_some(()),
            _ => None,
        }
    };
    // Long enough that a question fails before the wait is over: else nobody knows a cause.
    let wait = ms(2000);
    server.pause();
    let refused = locks.lock("k").wait(wait).acquire().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    told.wait(failed(Verb::Acquire, Failure::Timeout)).await;
    server.resume();
    proxy.refuse();
    proxy.cut();
    let refused = locks.lock("k").wait(wait).acquire().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    told.wait(failed(Verb::Acquire, Failure::Connection)).await;
    let refusals = told.all(|event| match event {
        LockEvent::Refused {
            refusal: Refusal::Unavailable(cause),
            ..
        } => Some(cause.is_some()),
        LockEvent::Acquired { via: Via::Free, .. } => Some(false),
        _ => None,
    });
    assert_eq!(refusals, [true, true]);
    proxy.heal();
}
