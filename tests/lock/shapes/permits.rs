//! At most so many at once, wherever they are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_runtime::{LockError, distributed_lock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::shapes::way::{LONG, TRIP, processes, settled, waiting};

const NOW: Duration = Duration::ZERO;

/// The most that were at once in a body of 5 ms, of `tasks` in each of three processes.
async fn most_at_once(permits: u32, is_plain: bool) -> usize {
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    MOST.store(0, Ordering::Relaxed);
    let processes = processes::<3>(is_plain).await;
    let mut tasks = JoinSet::new();
    for (_, locks) in &processes {
        for _ in 0..20 {
            let lock = locks.lock("k").permits(permits);
            tasks.spawn(async move {
                lock.run(async |_| {
                    let inside = INSIDE.fetch_add(1, Ordering::Relaxed) + 1;
                    MOST.fetch_max(inside, Ordering::Relaxed);
                    sleep(Duration::from_millis(5)).await;
                    INSIDE.fetch_sub(1, Ordering::Relaxed);
                })
                .await
                .unwrap();
            });
        }
    }
    assert_eq!(tasks.join_all().await.len(), 60);
    MOST.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn as_many_bodies_run_at_once_as_there_are_permits_and_no_more() {
    assert_eq!(most_at_once(5, false).await, 5);
    // Where the store grants each alone, it is slower and never wrong.
    assert_eq!(most_at_once(5, true).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_plain_lock_waits_for_all_permits_and_keeps_new_ones_out() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let holder = one.lock("k").permits(5).acquire().await.unwrap();
        let all = waiting(other.lock("k")).await;
        let late = one.lock("k").permits(5).wait(NOW).acquire().await;
        assert!(late.unwrap_err().is_taken());
        assert!(!all.is_finished());
        holder.release().await.unwrap();
        let all = all.await.unwrap();
        assert!(
            one.lock("k")
                .permits(5)
                .try_acquire()
                .await
                .unwrap()
                .is_none()
        );
        all.release().await.unwrap();
        let permit = one.lock("k").permits(5).acquire().await.unwrap();
        permit.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_passes_one_who_wants_more_than_there_is() {
    let [(_, one), (_, other)] = processes(false).await;
    let first = one.lock("k").permits(4).weight(2).acquire().await.unwrap();
    let second = one.lock("k").permits(4).acquire().await.unwrap();
    let heavy = waiting(other.lock("k").permits(4).weight(3)).await;
    let light = waiting(one.lock("k").permits(4)).await;
    assert!(!heavy.is_finished() && !light.is_finished());
    first.release().await.unwrap();
    let heavy = heavy.await.unwrap();
    settled().await;
    assert!(!light.is_finished());
    second.release().await.unwrap();
    light.await.unwrap().release().await.unwrap();
    heavy.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_given_back_is_handed_on_by_one_command() {
    let [(here, one), (there, other)] = processes(false).await;
    let holder = one.lock("k").permits(1).acquire().await.unwrap();
    let waiter = waiting(other.lock("k").permits(1)).await;
    let before = here.asked() + there.asked();
    let at = Instant::now();
    holder.release().await.unwrap();
    let permit = waiter.await.unwrap();
    assert_eq!(here.asked() + there.asked() - before, 1);
    assert!(at.elapsed() <= TRIP * 2);
    permit.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_limit_changes_with_the_code_that_brings_it() {
    let [(_, old), (_, new)] = processes(false).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(old.lock("k").permits(2).acquire().await.unwrap());
    }
    assert!(
        old.lock("k")
            .permits(2)
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    );
    for _ in 0..3 {
        held.push(new.lock("k").permits(5).acquire().await.unwrap());
    }
    assert!(
        new.lock("k")
            .permits(5)
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    );
    for guard in held.drain(..4) {
        guard.release().await.unwrap();
    }
    let permit = old.lock("k").permits(2).acquire().await.unwrap();
    permit.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_permit_of_a_process_that_died_is_free_after_its_ttl() {
    let [(_, one), (_, other)] = processes(false).await;
    let permits =
        |locks: &lock_runtime::LockRuntime| locks.lock("k").permits(2).ttl(Duration::from_secs(10));
    // Not renewed, as those of a process that is dead.
    let dead = permits(&one).renew(false).acquire().await.unwrap();
    let alive = permits(&one).acquire().await.unwrap();
    let at = Instant::now();
    let next = permits(&other).wait(LONG).acquire().await.unwrap();
    let waited = at.elapsed();
    assert!(
        waited >= Duration::from_secs(9) && waited <= Duration::from_secs(11),
        "{waited:?}"
    );
    assert!(!dead.is_held() && alive.is_held() && next.is_held());
    // It ends nothing of its successor's.
    drop(dead);
    settled().await;
    assert!(permits(&one).try_acquire().await.unwrap().is_none());
}

/// With a minimum hold no window sees more than that many beginnings.
#[tokio::test(start_paused = true)]
async fn permits_with_a_minimum_hold_are_an_exact_rate() {
    let window = Duration::from_secs(1);
    let processes = processes::<3>(false).await;
    let mut tasks = JoinSet::new();
    for (_, locks) in &processes {
        for _ in 0..10 {
            let lock = locks.lock("k").permits(10).min_hold(window);
            tasks.spawn(async move { lock.run(async |_| Instant::now()).await.unwrap() });
        }
    }
    let mut starts = tasks.join_all().await;
    starts.sort();
    for (first, eleventh) in starts.iter().zip(&starts[10..]) {
        assert!(*eleventh - *first >= window, "{:?}", *eleventh - *first);
    }
    let all = starts[29] - starts[0];
    assert!(all < window * 3, "{all:?}");
    let asked: usize = processes.iter().map(|(way, _)| way.asked()).sum();
    println!("{asked} questions for 30 beginnings");
}

#[distributed_lock(key = "k", permits = 2, runtime = locks)]
async fn annotated(locks: &lock_runtime::LockRuntime, hold: Duration) -> Result<(), LockError> {
    sleep(hold).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_annotated_function_has_permits() {
    let [(_, one), (_, other)] = processes(false).await;
    let at = Instant::now();
    let second = Duration::from_secs(1);
    let calls = [&one, &other, &one, &other].map(|locks| annotated(locks, second));
    let [a, b, c, d] = calls;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok());
    let took = at.elapsed();
    assert!(took >= second * 2 && took < second * 3, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_takes_is_handed_on() {
    let [(_, one), (_, other)] = processes(false).await;
    let holder = one.lock("k").permits(1).acquire().await.unwrap();
    let waiter = waiting(other.lock("k").permits(1)).await;
    let behind = waiting(one.lock("k").permits(1)).await;
    waiter.abort();
    holder.release().await.unwrap();
    behind.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    let [(_, locks)] = processes(false).await;
    for lock in [
        locks.lock("k").permits(0),
        locks.lock("k").permits(2).weight(3),
        locks.lock("k").permits(100).weight(65),
        locks.lock("k").permits(2).weight(0),
        locks.lock("k").weight(2),
        locks.lock("k").permits(2).shards(2),
        locks.lock("k").shared().permits(2),
        locks.lock("k").shared().min_hold(Duration::from_secs(1)),
        locks.lock("k").shards(0),
        locks.lock("k").shards(65),
    ] {
        let error = lock.clone().acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{lock:?}: {error}");
    }
}
