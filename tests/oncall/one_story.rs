//! A loss as each of those sees it who are told of it: they tell the same.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockError, LockEvent, LockRuntime, LostReason, distributed_lock};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;

use super::log::Log;

const TTL: Duration = Duration::from_secs(2);

/// What somebody did to a lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    RenewalsCut,
    KeyDeleted,
    KeyTaken,
}

/// A lease of 2 s, which nobody gives up.
#[distributed_lock(key = "coupon:<id>", ttl = "2s", runtime = locks)]
async fn claim(
    locks: &LockRuntime,
    id: u64,
    way: Way,
    store: &MemoryBackend,
) -> Result<(), LockError> {
    sleep(Duration::from_secs(1)).await;
    match way {
        Way::RenewalsCut => store.fail_next(usize::MAX, Fault::Unavailable),
        Way::KeyDeleted => store.expire("coupon:7"),
        Way::KeyTaken => store.steal("coupon:7"),
    }
    std::future::pending().await
}

/// How often a counter went up since the last look.
fn lost(snapshotter: &Snapshotter) -> Vec<(String, u64)> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    let lost = all.filter_map(|(key, _, _, value)| {
        let (_, key) = key.into_parts();
        let mut labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        labels.sort();
        match value {
            DebugValue::Counter(count) if key.name() == "distributed_lock_lost_total" => {
                Some((labels.join(" "), count))
            }
            _ => None,
        }
    });
    lost.filter(|(_, count)| *count > 0).collect()
}

/// The last of the causes of an error.
fn root(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[test]
fn event_log_metric_error_and_inspection_of_a_loss_say_the_same() {
    let ways = [
        (Way::RenewalsCut, LostReason::Expired, "expired"),
        (Way::KeyDeleted, LostReason::Deleted, "deleted"),
        (Way::KeyTaken, LostReason::TakenOver, "taken_over"),
    ];
    for (way, expected, word) in ways {
        let (log, _subscribed) = Log::of(LevelFilter::INFO);
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let mut built = tokio::runtime::Builder::new_current_thread();
        let runtime = built.enable_all().start_paused(true).build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let told = Arc::new(Mutex::new(Vec::new()));
                let seen = Arc::clone(&told);
                let store = MemoryBackend::new();
                let locks = LockRuntime::backend(store.clone())
                    .observer(move |event: &LockEvent| {
                        if let LockEvent::Lost { .. } = event {
                            seen.lock().unwrap().push(event.clone());
                        }
                    })
                    .build()
                    .await
                    .unwrap();

                // Whoever looks meanwhile sees its token.
                let holding = claim(&locks, 7, way, &store);
                let looking = async {
                    sleep(Duration::from_millis(500)).await;
                    let local = locks.local();
                    let info = locks.inspect("coupon:7").await.unwrap().unwrap();
                    assert_eq!(store.owner("coupon:7"), Some(info.owner.clone()));
                    (local[0].fencing_token.as_u64(), info.owner)
                };
                let (outcome, (token, owner)) = tokio::join!(holding, looking);
                store.heal();

                // The error.
                let error = outcome.unwrap_err();
                let LockError::Lost {
                    key,
                    reason,
                    held,
                    cause,
                } = &error
                else {
                    panic!("{error:?}");
                };
                assert_eq!((key.as_str(), *reason), ("coupon:7", expected));
                let is_cut = way == Way::RenewalsCut;
                assert_eq!(cause.is_some(), is_cut, "{error:?}");
                let failures = cause.as_ref().map_or(0, |cause| cause.times());

                // The event.
                let told = told.lock().unwrap().clone();
                let [
                    LockEvent::Lost {
                        lock,
                        fencing_token,
                        held: event_held,
                        reason: event_reason,
                        cause: event_cause,
                    },
                ] = &told[..]
                else {
                    panic!("{told:?}");
                };
                assert_eq!((lock.name, &lock.key), ("coupon:<id>", key));
                assert_eq!(fencing_token.as_u64(), token);
                assert_eq!((event_reason, event_held), (reason, held));
                assert_eq!(
                    event_cause.as_ref().map_or(0, |cause| cause.times()),
                    failures
                );

                // The line in the log.
                let line = log.line("lock lost");
                let said = [
                    "WARN".to_owned(),
                    "lock=\"coupon:<id>\"".to_owned(),
                    format!("fencing_token={token}"),
                    format!("reason={reason}"),
                    format!("held_secs={}", held.as_secs_f64()),
                    format!("failed_renewals={failures}"),
                ];
                for words in said {
                    assert!(line.contains(&words), "{words} is not in {line}");
                }
                if is_cut {
                    assert!(failures > 1, "{error:?}");
                    let root = root(&error);
                    assert!(root.contains("unavailable"), "{root}");
                    assert!(line.contains(&root), "{root} is not in {line}");
                }

                // The metric.
                assert_eq!(lost(&snapshotter), [(format!("coupon:<id> {word}"), 1)]);

                // The store: whose it is now.
                assert!(locks.local().is_empty());
                sleep(TTL).await;
                let info = locks.inspect("coupon:7").await.unwrap();
                match way {
                    Way::KeyTaken => {
                        let info = info.unwrap();
                        assert_ne!(info.owner, owner);
                        assert_eq!(info.remaining, None);
                    }
                    _ => assert_eq!(info, None),
                }
            });
        });
    }
}

/// The control: what ends as it should is none.
#[tokio::test(start_paused = true)]
async fn a_lock_that_is_released_is_told_as_lost_by_nobody() {
    let told = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&told);
    let locks = LockRuntime::in_memory().observer(move |event: &LockEvent| {
        if let LockEvent::Lost { .. } = event {
            *seen.lock().unwrap() += 1;
        }
    });
    let locks = locks.build().await.unwrap();
    let guard = locks.lock("coupon:7").ttl(TTL).acquire().await.unwrap();
    sleep(3 * TTL).await;
    guard.release().await.unwrap();
    assert_eq!(*told.lock().unwrap(), 0);
    assert_eq!(locks.inspect("coupon:7").await.unwrap(), None);
}
