//! What the lock promises on every store, on each of them: in memory by a clock that is paused, on
//! real servers by the real one.

use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lock_runtime::backend::{LockKey, Mode};
use lock_runtime::{Lock, LockError, LockGuard, LockRuntime, LostReason};
use lock_tests::faults::is_taken;
use lock_tests::ms;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::places::{ANSWER, LONG, Place, builder, on_each_store};

/// By when what must happen has happened.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough that a busy machine renews in time.
const TTL: Duration = Duration::from_secs(3);

/// A runtime as one process would have it.
async fn process(place: &impl Place) -> LockRuntime {
    builder(place).await.build().await.unwrap()
}

async fn two_processes(place: &impl Place) -> (LockRuntime, LockRuntime) {
    (process(place).await, process(place).await)
}

async fn acquire(locks: &LockRuntime) -> LockGuard {
    let acquiring = timeout(DEADLINE, locks.lock("k").acquire());
    acquiring.await.expect("it hangs").unwrap()
}

/// Somebody who waits: a while later its claim is in the queue.
async fn waiter(locks: &LockRuntime) -> JoinHandle<LockGuard> {
    let locks = locks.clone();
    let waiter = tokio::spawn(async move { acquire(&locks).await });
    sleep(ms(300)).await;
    assert!(!waiter.is_finished(), "it does not wait");
    waiter
}

/// Nothing is left of those that gave up, as soon as what cleans up after them has run.
async fn nothing_left(place: &impl Place) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = place.leftovers().await;
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        sleep(ms(5)).await;
    }
}

fn assert_about<P: Place>(place: &P, took: Duration, promised: Duration) {
    let _ = place;
    let is_right = took >= promised && took <= promised + P::SLACK;
    assert!(is_right, "{took:?}, not {promised:?}");
}

async fn a_lock_excludes_others_until_it_is_released(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let guard = acquire(&one).await;
    assert!(is_taken(&two, "k").await && is_taken(&one, "k").await);
    let refused = two.lock("k").wait(Duration::ZERO).acquire().await;
    let taken = refused.unwrap_err();
    assert!(taken.is_taken() && taken.is_retryable(), "{taken}");
    guard.release().await.unwrap();
    drop(two.lock("k").try_acquire().await.unwrap().unwrap());
    nothing_left(place).await;
}

async fn waiting_ends_with_the_wait_and_says_that_another_holds_it(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let guard = acquire(&one).await;
    for locks in [&one, &two] {
        let started = Instant::now();
        let error = locks.lock("k").wait(ms(1000)).acquire().await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert_about(place, started.elapsed(), ms(1000));
    }
    guard.release().await.unwrap();
    nothing_left(place).await;
}

async fn the_next_waiter_is_served_at_once_whichever_process_it_is_in(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    for locks in [&one, &two] {
        let guard = acquire(&one).await;
        let waiter = waiter(locks).await;
        let released = Instant::now();
        guard.release().await.unwrap();
        let next = waiter.await.unwrap();
        assert_about(place, released.elapsed(), Duration::ZERO);
        next.release().await.unwrap();
    }
    nothing_left(place).await;
}

async fn every_task_of_two_processes_gets_its_turn_with_a_growing_token(place: &impl Place) {
    let mut processes = Vec::new();
    for passes in [0, 32] {
        let builder = LockRuntime::backend(place.connect().await).local_passes(passes);
        processes.push(builder.build().await.unwrap());
    }
    let (inside, overlaps) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (last, stale) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(0)));
    let tasks = (0..40).map(|number| {
        let locks = processes[number % 2].clone();
        let (inside, overlaps) = (inside.clone(), overlaps.clone());
        let (last, stale) = (last.clone(), stale.clone());
        tokio::spawn(async move {
            for round in 0..5 {
                let guard = acquire(&locks).await;
                overlaps.fetch_add(inside.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let token = guard.fencing_token().as_u64();
                let earlier = last.fetch_max(token, Ordering::SeqCst) >= token;
                stale.fetch_add(u32::from(earlier), Ordering::SeqCst);
                sleep(ms((number as u64 + round) % 3)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let found = [overlaps, stale].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(found, [0, 0], "overlaps, and tokens that did not grow");
    for locks in &processes {
        locks.shutdown().await.unwrap();
    }
    nothing_left(place).await;
}

async fn a_body_longer_than_three_ttls_keeps_its_lock(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let lock = one.lock("k").ttl(TTL);
    let body = lock.run(async |_| {
        let (began, mut tries) = (Instant::now(), 0);
        while began.elapsed() < 3 * TTL + TTL / 2 {
            let after = began.elapsed();
            assert!(is_taken(&two, "k").await, "another got it after {after:?}");
            tries += 1;
            sleep(ms(100)).await;
        }
        tries
    });
    let tries: u32 = body.await.unwrap();
    assert!(tries > 3, "the others hardly tried: {tries}");
    assert!(!is_taken(&two, "k").await);
}

async fn without_renewal_a_lock_ends_with_its_ttl_and_says_so(place: &impl Place) {
    let locks = process(place).await;
    let started = Instant::now();
    let lock = locks.lock("k").ttl(TTL).renew(false);
    let guard = lock.acquire().await.unwrap();
    timeout(DEADLINE, guard.lost())
        .await
        .expect("it is not told");
    // The lease is counted to its end less 1 % and 2 ms.
    assert_about(place, started.elapsed() + TTL / 100 + ms(2), TTL);
    assert!(!guard.is_held());
    let error = guard.release().await.unwrap_err();
    let is_expired = matches!(
        error,
        LockError::Lost {
            reason: LostReason::Expired,
            ..
        }
    );
    assert!(is_expired, "{error:?}");
}

async fn a_lock_that_the_store_gave_to_another_is_lost_at_the_next_renewal(place: &impl Place) {
    let locks = process(place).await;
    let lock = locks.lock("k").ttl(TTL).renew(ms(200));
    let guard = lock.acquire().await.unwrap();
    place.seize(&LockKey::new("lock:", "k").unwrap()).await;
    timeout(TTL / 2 + Duration::from_secs(5), guard.lost())
        .await
        .expect("it is not told");
    let error = guard.release().await.unwrap_err();
    let is_of_another = matches!(
        error,
        LockError::Lost {
            reason: LostReason::TakenOver,
            ..
        }
    );
    assert!(is_of_another, "{error:?}");
}

async fn a_waiter_takes_over_when_the_lease_of_a_vanished_holder_ends(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let started = Instant::now();
    let guard = one.lock("k").ttl(TTL).renew(false).acquire().await.unwrap();
    let next = acquire(&two).await;
    let waited = started.elapsed();
    assert!(waited <= TTL + ms(100) + DEADLINE / 4, "{waited:?}");
    assert!(next.fencing_token() > guard.fencing_token());
    assert!(!guard.is_held());
    drop(guard);
    assert!(next.is_held());
    next.release().await.unwrap();
}

async fn a_dropped_acquire_leaves_nothing_behind(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let guard = acquire(&one).await;
    for locks in [&one, &two] {
        let waiting = timeout(ms(300), locks.lock("k").acquire());
        assert!(waiting.await.is_err());
    }
    guard.release().await.unwrap();
    nothing_left(place).await;
}

async fn max_hold_ends_a_hold_that_takes_too_long(place: &impl Place) {
    let locks = process(place).await;
    let lock = locks.lock("k").ttl(TTL).max_hold(ms(1000));
    let started = Instant::now();
    let error = lock.run(async |_| sleep(LONG).await).await.unwrap_err();
    assert!(error.is_max_hold(), "{error:?}");
    assert_about(place, started.elapsed(), ms(1000));
    nothing_left(place).await;
}

async fn a_body_is_dropped_at_its_await_when_the_lock_is_lost(place: &impl Place) {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let locks = process(place).await;
    let drops = Arc::new(AtomicUsize::new(0));
    let lock = locks.lock("k").ttl(TTL).renew(ms(200));
    let outcome = lock.run(async |_| {
        let _dropped = Dropped(drops.clone());
        place.seize(&LockKey::new("lock:", "k").unwrap()).await;
        sleep(LONG).await;
    });
    assert!(outcome.await.unwrap_err().is_lost());
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

async fn a_nested_call_runs_under_the_lease_it_already_has(place: &impl Place) {
    let locks = process(place).await;
    let tokens = locks.lock("k").run(async |outer| {
        let inner = locks.lock("k").run(async |inner| inner.fencing_token());
        let other = locks.lock("k").run(async |inner| {
            sleep(ms(100)).await;
            inner.fencing_token()
        });
        let (inner, other) = tokio::join!(inner, other);
        assert!(!place.leftovers().await.is_empty(), "it is held");
        [outer.fencing_token(), inner.unwrap(), other.unwrap()]
    });
    let tokens = tokens.await.unwrap();
    assert!(
        tokens[0] == tokens[1] && tokens[1] == tokens[2],
        "{tokens:?}"
    );
    nothing_left(place).await;
}

async fn shutdown_refuses_new_claims_and_waits_for_guards(place: &impl Place) {
    let (one, two) = two_processes(place).await;
    let guard = acquire(&one).await;
    let blocker = two.lock("other").acquire().await.unwrap();
    let waiting = tokio::spawn(one.lock("other").acquire());
    sleep(ms(300)).await;
    let closing = tokio::spawn({
        let one = one.clone();
        async move { one.shutdown().await }
    });
    let error = timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(error.is_shut_down(), "{error:?}");
    assert!(one.lock("x").acquire().await.unwrap_err().is_shut_down());
    assert!(!closing.is_finished() && guard.is_held());
    guard.release().await.unwrap();
    timeout(DEADLINE, closing).await.unwrap().unwrap().unwrap();
    drop(blocker);
    nothing_left(place).await;
}

async fn readers_share_a_key_or_have_it_alone_and_exclude_a_writer<P: Place>(place: &P) {
    let (one, two) = two_processes(place).await;
    let third = process(place).await;
    let reader = |locks: &LockRuntime| locks.lock("k").shared();
    let here = reader(&one).acquire().await.unwrap();
    let there = reader(&two).try_acquire().await.unwrap();
    assert_eq!(there.is_some(), P::MODES);
    assert!(is_taken(&one, "k").await && is_taken(&third, "k").await);
    let writer = waiter(&third).await;
    here.release().await.unwrap();
    if let Some(there) = there {
        assert_eq!(there.mode(), Mode::Shared);
        sleep(ms(100)).await;
        assert!(!writer.is_finished());
        there.release().await.unwrap();
    }
    let writer = writer.await.unwrap();
    assert_eq!(writer.mode(), Mode::Exclusive);
    for locks in [&one, &two, &third] {
        assert!(reader(locks).try_acquire().await.unwrap().is_none());
    }
    writer.release().await.unwrap();
    drop(reader(&one).try_acquire().await.unwrap().unwrap());
    nothing_left(place).await;
}

async fn readers_are_renewed_until_the_last_has_ended<P: Place>(place: &P) {
    let (one, two) = two_processes(place).await;
    let third = process(place).await;
    let reader = |locks: &LockRuntime| locks.lock("k").shared().ttl(TTL);
    let here = reader(&one).acquire().await.unwrap();
    let there = reader(&two).try_acquire().await.unwrap();
    assert_eq!(there.is_some(), P::MODES);
    let started = Instant::now();
    while started.elapsed() < TTL + TTL / 2 {
        sleep(ms(100)).await;
        assert!(here.is_held() && is_taken(&third, "k").await);
        assert!(there.as_ref().is_none_or(LockGuard::is_held));
    }
    here.release().await.unwrap();
    if let Some(there) = there {
        assert!(is_taken(&third, "k").await);
        there.release().await.unwrap();
    }
    assert!(!is_taken(&third, "k").await);
}

async fn permits_and_shards_are_never_more_than_there_are<P: Place>(place: &P) {
    let (one, two) = two_processes(place).await;
    let parts: [fn(&LockRuntime) -> Lock; 2] = [
        |locks| locks.lock("k").permits(2),
        |locks| locks.lock("k").shards(2),
    ];
    for part in parts {
        let first = part(&one).acquire().await.unwrap();
        let second = part(&two).try_acquire().await.unwrap();
        assert_eq!(second.is_some(), P::MODES);
        for locks in [&one, &two] {
            assert!(part(locks).try_acquire().await.unwrap().is_none());
            assert!(is_taken(locks, "k").await);
        }
        let shards = [Some(&first), second.as_ref()].map(|guard| guard.map(LockGuard::shard));
        if matches!(first.mode(), Mode::Shard { .. }) {
            assert!(
                shards.iter().flatten().all(|shard| *shard < 2),
                "{shards:?}"
            );
            assert_ne!(shards[0], shards[1]);
        }
        first.release().await.unwrap();
        if let Some(second) = second {
            second.release().await.unwrap();
        }
        assert!(!is_taken(&two, "k").await);
    }
    nothing_left(place).await;
}

async fn a_visit_is_on_each_shard_once_also_within_all_of_the_key<P: Place>(place: &P) {
    let (one, two) = two_processes(place).await;
    let visit = async |locks: &LockRuntime| {
        let mut seen = Vec::new();
        let all = locks.lock("k").shards(3).visit(|lock| {
            seen.push(lock.shard());
            ready(ControlFlow::<()>::Continue(()))
        });
        assert_eq!(all.await.unwrap(), None);
        seen.sort_unstable();
        seen
    };
    for locks in [&one, &two] {
        assert_eq!(visit(locks).await, [0, 1, 2]);
    }
    let within = one.lock("k").run(async |_| visit(&one).await);
    assert_eq!(within.await.unwrap(), [0, 1, 2]);
    nothing_left(place).await;
}

async fn who_has_a_part_of_a_key_and_wants_all_of_it_is_told_at_once(place: &impl Place) {
    let locks = process(place).await;
    let all = || locks.lock("k").run(async |_| ());
    for part in [
        locks.lock("k").shared(),
        locks.lock("k").permits(2),
        locks.lock("k").shards(2),
    ] {
        // Else it waits for itself.
        let upgrade = timeout(DEADLINE, part.run(async |_| all().await)).await;
        let error = upgrade.expect("it waits").unwrap().unwrap_err();
        assert!(error.is_upgrade(), "{error:?}");
    }
    all().await.unwrap();
    nothing_left(place).await;
}

async fn a_store_that_is_away_is_unavailable_in_time(place: &impl Place) {
    let locks = process(place).await;
    let guard = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    place.go_dark().await;
    let started = Instant::now();
    let error = locks.lock("k").wait(ms(500)).acquire().await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_taken(), "{error:?}");
    assert!(started.elapsed() <= ms(500) + ANSWER + Duration::from_secs(5));
    // Who holds a lock is told before the store could give it to another.
    timeout(TTL + Duration::from_secs(5), guard.lost())
        .await
        .expect("it is not told");
}

on_each_store! {
    a_lock_excludes_others_until_it_is_released
    waiting_ends_with_the_wait_and_says_that_another_holds_it
    the_next_waiter_is_served_at_once_whichever_process_it_is_in
    every_task_of_two_processes_gets_its_turn_with_a_growing_token
    a_body_longer_than_three_ttls_keeps_its_lock
    without_renewal_a_lock_ends_with_its_ttl_and_says_so
    a_lock_that_the_store_gave_to_another_is_lost_at_the_next_renewal
    a_waiter_takes_over_when_the_lease_of_a_vanished_holder_ends
    a_dropped_acquire_leaves_nothing_behind
    max_hold_ends_a_hold_that_takes_too_long
    a_body_is_dropped_at_its_await_when_the_lock_is_lost
    a_nested_call_runs_under_the_lease_it_already_has
    shutdown_refuses_new_claims_and_waits_for_guards
    readers_share_a_key_or_have_it_alone_and_exclude_a_writer
    readers_are_renewed_until_the_last_has_ended
    permits_and_shards_are_never_more_than_there_are
    a_visit_is_on_each_shard_once_also_within_all_of_the_key
    who_has_a_part_of_a_key_and_wants_all_of_it_is_told_at_once
    a_store_that_is_away_is_unavailable_in_time
}
