//! Metrics: their names and labels are exactly those that are documented, and no key is among them.

use std::collections::BTreeSet;
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::observe::{BUCKETS, METRICS};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::{ms, secs};
use metrics_util::debugging::DebuggingRecorder;
use tokio::time::sleep;

use super::recorded::{count, seen};

#[distributed_lock(key = "coupon:<id>", ttl = "2s", wait = "50ms")]
async fn claim(id: u64, work: Duration) -> Result<(), LockError> {
    sleep(work).await;
    Ok(())
}

/// Every outcome of every metric of a lock, in memory.
async fn everything() {
    let store = MemoryBackend::new();
    let built = LockRuntime::backend(store.clone())
        .retry(|_: u32| -> Option<Duration> { panic!("a policy") });
    let (locks, other) = (built.build(), LockRuntime::backend(store.clone()).build());
    let (locks, other) = (locks.await.unwrap(), other.await.unwrap());
    let run = |work| LockRuntime::scope(locks.clone(), claim(77, work));
    let lock = |wait| {
        locks
            .lock("coupon:77")
            .name("coupon:<id>")
            .ttl(secs(2))
            .wait(wait)
    };

    // acquired and released: free; then passed on, with one who does not wait and one who leaves.
    run(ms(0)).await.unwrap();
    let guard = lock(secs(9)).acquire().await.unwrap();
    let next = tokio::spawn(lock(secs(9)).acquire());
    sleep(ms(1)).await;
    assert!(lock(ms(0)).acquire().await.unwrap_err().is_taken());
    assert!(run(ms(0)).await.unwrap_err().is_timeout());
    let leaves = tokio::spawn(lock(secs(9)).acquire());
    sleep(ms(1)).await;
    leaves.abort();
    let _ = leaves.await;
    guard.release().await.unwrap();
    drop(next.await.unwrap().unwrap());
    sleep(ms(1)).await;

    // Handed over by another process, and after one that does not renew.
    for renews in [true, false] {
        let held = other.lock("coupon:77").ttl(secs(2)).renew(renews);
        let held = held.acquire().await.unwrap();
        let waiting = tokio::spawn(lock(secs(9)).acquire());
        while store.queue_len("coupon:77") == 0 {
            sleep(ms(1)).await;
        }
        let kept = if renews {
            held.release().await.unwrap();
            None
        } else {
            Some(held)
        };
        waiting.await.unwrap().unwrap().release().await.unwrap();
        drop(kept);
        sleep(ms(1)).await;
    }

    // Lost in each way, held too long, and not confirmed.
    for way in ["deleted", "taken over", "expired"] {
        let guard = lock(secs(9)).acquire().await.unwrap();
        match way {
            "deleted" => store.expire("coupon:77"),
            "taken over" => store.steal("coupon:77"),
            _ => store.fail_next(usize::MAX, Fault::Unavailable),
        }
        guard.lost().await;
        store.heal();
        assert!(guard.release().await.unwrap_err().is_lost());
        store.expire("coupon:77");
    }
    let guard = lock(secs(9)).max_hold(ms(1_500)).acquire().await.unwrap();
    guard.lost().await;
    assert!(guard.release().await.unwrap_err().is_max_hold());
    let guard = lock(secs(9)).acquire().await.unwrap();
    store.fail_next(usize::MAX, Fault::Denied);
    assert!(guard.release().await.is_err());
    assert!(lock(ms(9)).acquire().await.unwrap_err().is_denied());
    store.heal();
    store.expire("coupon:77");
    sleep(secs(3)).await;
    store.fail_next(usize::MAX, Fault::Unavailable);
    assert!(lock(ms(200)).acquire().await.unwrap_err().is_unavailable());
    store.heal();
    sleep(secs(3)).await;

    // Renewals that no answer came for, and that were refused.
    let guard = lock(secs(9)).acquire().await.unwrap();
    store.fail_next(1, Fault::Denied);
    sleep(secs(1)).await;
    store.fail_next(1, Fault::Hang(secs(600)));
    sleep(secs(1)).await;
    guard.release().await.unwrap();
    // Releases that no answer came for.
    for fault in [Fault::Unavailable, Fault::Hang(secs(600))] {
        let guard = lock(secs(9)).acquire().await.unwrap();
        store.fail_next(usize::MAX, fault);
        assert!(guard.release().await.unwrap_err().is_unavailable());
        store.heal();
        store.expire("coupon:77");
        sleep(secs(3)).await;
    }
    locks.shutdown().await.unwrap();
    assert!(lock(ms(9)).acquire().await.unwrap_err().is_shut_down());
}

#[test]
fn the_metrics_are_those_of_the_table_and_no_key_is_among_them() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut built = tokio::runtime::Builder::new_current_thread();
        built.enable_all().start_paused(true);
        built.build().unwrap().block_on(everything());
    });
    let seen = seen(&snapshotter);
    let names: BTreeSet<String> = seen.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.iter().all(|name| !name.contains("77")), "{names:?}");
    let mut expected = BTreeSet::new();
    let mut table = |name: &str, label: &str, values: &[&str]| {
        for lock in ["coupon:<id>", "-"] {
            for value in values {
                expected.insert(format!(
                    "distributed_lock_{name}{{lock={lock},{label}={value}}}"
                ));
            }
        }
    };
    let outcomes = [
        "acquired",
        "taken",
        "timeout",
        "unavailable",
        "denied",
        "cancelled",
        "shut_down",
    ];
    table("acquire_duration_seconds", "outcome", &outcomes);
    table(
        "hold_duration_seconds",
        "outcome",
        &["released", "lost", "max_hold", "dropped"],
    );
    table(
        "grants_total",
        "via",
        &["free", "local", "handed_over", "after_expiry"],
    );
    table(
        "lost_total",
        "reason",
        &["expired", "deleted", "taken_over"],
    );
    let mut plain = |name: &str, labels: &[&str]| {
        for labels in labels {
            expected.insert(format!("distributed_lock_{name}{{{labels}}}"));
        }
    };
    for name in ["oldest_hold_seconds", "held", "waiting"] {
        plain(name, &["lock=coupon:<id>", "lock=-"]);
    }
    plain("lease_margin_seconds", &[""]);
    let causes = ["cause=timeout", "cause=connection", "cause=refused"];
    plain("renewal_failures_total", &causes);
    plain("release_failures_total", &causes);
    for verb in ["acquire", "renew", "release", "abandon"] {
        for outcome in ["ok", "lost", "refused", "timeout"] {
            plain(
                "store_request_duration_seconds",
                &[&format!("outcome={outcome},verb={verb}")],
            );
        }
    }
    let functions = [
        "function=retry",
        "function=owner_tokens",
        "function=observer",
    ];
    plain("panics_total", &functions);
    let unknown: Vec<_> = names.difference(&expected).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    // Of the locks that have a name, all of it is there.
    let of_coupon = expected.iter().filter(|name| name.contains("coupon:<id>"));
    let missing: Vec<_> = of_coupon.filter(|name| !names.contains(*name)).collect();
    assert!(missing.is_empty(), "not told: {missing:?}");

    // What each says can be told from what was done.
    let of = |name: &str, label: &str| {
        count(
            &seen,
            &format!("distributed_lock_{name}{{lock=coupon:<id>,{label}}}"),
        )
    };
    assert_eq!(of("lost_total", "reason=deleted"), 1);
    assert_eq!(of("lost_total", "reason=taken_over"), 1);
    assert_eq!(of("lost_total", "reason=expired"), 1);
    assert_eq!(of("hold_duration_seconds", "outcome=lost"), 3);
    assert_eq!(of("hold_duration_seconds", "outcome=max_hold"), 1);
    assert_eq!(of("hold_duration_seconds", "outcome=dropped"), 1);
    for outcome in &outcomes[1..] {
        let label = format!("outcome={outcome}");
        assert_eq!(of("acquire_duration_seconds", &label), 1, "{outcome}");
    }
    let ways = ["free", "local", "handed_over", "after_expiry"];
    let grants = ways.map(|via| of("grants_total", &format!("via={via}")));
    assert_eq!(grants[1..], [1, 1, 1]);
    assert_eq!(
        grants.iter().sum::<i64>(),
        of("acquire_duration_seconds", "outcome=acquired")
    );
    let of_all = |name: &str| count(&seen, &format!("distributed_lock_{name}"));
    assert_eq!(of_all("panics_total{function=retry}"), 1);
    assert_eq!(of_all("panics_total{function=observer}"), 0);
    for cause in ["timeout", "connection", "refused"] {
        let name = format!("release_failures_total{{cause={cause}}}");
        assert_eq!(of_all(&name), 1, "{cause}");
    }
    assert_eq!(of_all("renewal_failures_total{cause=refused}"), 1);
    assert_eq!(of_all("renewal_failures_total{cause=timeout}"), 1);
    // Each verb is answered, and each reason for none occurs.
    for verb in ["acquire", "renew", "release", "abandon"] {
        let name = format!("store_request_duration_seconds{{outcome=ok,verb={verb}}}");
        assert!(of_all(&name) > 0, "{verb}");
    }
    for outcome in ["timeout", "lost", "refused"] {
        let of_it = |name: &&String| name.contains(&format!("outcome={outcome},verb="));
        assert!(names.iter().any(|name| of_it(&name)), "{outcome}");
    }
    assert!(of_all("renewal_failures_total{cause=connection}") > 1);
    for gauge in ["held", "waiting", "oldest_hold_seconds"] {
        let name = format!("distributed_lock_{gauge}{{lock=coupon:<id>}}");
        assert_eq!(count(&seen, &name), 0, "{gauge}");
    }
    // Each is named in the list.
    for name in &names {
        let name = name.split('{').next().unwrap();
        assert!(METRICS.contains(&name), "{name}");
    }
    assert!(BUCKETS.is_sorted());
}

/// What a lock is while it is held and waited for, and what a connection is.
#[test]
fn gauges_tell_what_is_held_now() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut built = tokio::runtime::Builder::new_current_thread();
        built.enable_all().start_paused(true);
        built.build().unwrap().block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let lock = |key: &str| locks.lock(key).name("report").ttl(secs(10));
            let first = lock("a").acquire().await.unwrap();
            sleep(secs(30)).await;
            let second = lock("b").acquire().await.unwrap();
            let waiting = tokio::spawn(lock("b").wait(secs(60)).acquire());
            sleep(secs(30)).await;
            let now = seen(&snapshotter);
            let gauge =
                |name: &str| count(&now, &format!("distributed_lock_{name}{{lock=report}}"));
            assert_eq!((gauge("held"), gauge("waiting")), (2, 1));
            let oldest = gauge("oldest_hold_seconds");
            assert!((55..=60).contains(&oldest), "{oldest}");
            let local = locks.local();
            assert_eq!(local.len(), 2);
            assert_eq!((local[0].key.as_str(), local[0].held), ("a", secs(60)));
            assert_eq!((local[1].key.as_str(), local[1].waiting), ("b", 1));
            assert!(local[1].remaining > secs(5));
            assert_eq!(local[1].fencing_token, second.fencing_token());
            first.release().await.unwrap();
            second.release().await.unwrap();
            waiting.await.unwrap().unwrap().release().await.unwrap();
            assert!(locks.local().is_empty());
            let now = seen(&snapshotter);
            let gauge =
                |name: &str| count(&now, &format!("distributed_lock_{name}{{lock=report}}"));
            assert_eq!((gauge("held"), gauge("waiting")), (-2, -1));
            assert_eq!(gauge("oldest_hold_seconds"), 0);
        });
    });
}
