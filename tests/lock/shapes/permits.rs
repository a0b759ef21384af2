//! At most so many at once, wherever they are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_runtime::backend::Mode;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockGuard, LockRuntime, distributed_lock};
use lock_tests::faults::can_be_had;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::shapes::way::{LONG, TRIP, Way, processes, settled, waiting};

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
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let first = one.lock("k").permits(4).weight(2).acquire().await.unwrap();
        let second = one.lock("k").permits(4).try_acquire().await.unwrap();
        assert_eq!(second.is_some(), !is_plain);
        let heavy = waiting(other.lock("k").permits(4).weight(3)).await;
        let light = waiting(one.lock("k").permits(4)).await;
        assert!(!heavy.is_finished() && !light.is_finished());
        first.release().await.unwrap();
        let heavy = heavy.await.unwrap();
        assert_eq!(heavy.mode(), Mode::Permits { take: 3, of: 4 });
        settled().await;
        assert!(!light.is_finished());
        match second {
            Some(second) => {
                second.release().await.unwrap();
                light.await.unwrap().release().await.unwrap();
                heavy.release().await.unwrap();
            }
            None => {
                heavy.release().await.unwrap();
                light.await.unwrap().release().await.unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_given_back_is_handed_on_by_one_command() {
    for is_plain in [false, true] {
        let [(here, one), (there, other)] = processes(is_plain).await;
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
}

/// A permit that is not renewed is passed on within the process only if the next has nine tenths of
/// the ttl before it; else the store gives the next a lease of its own.
#[tokio::test(start_paused = true)]
async fn a_permit_that_is_not_renewed_is_passed_on_with_nine_tenths_of_its_ttl() {
    let ttl = Duration::from_secs(10);
    for is_plain in [false, true] {
        for (held, is_passed_on) in [(500, true), (1_500, false)] {
            let way = Way::new(&MemoryBackend::new(), is_plain);
            // The share of the ttl in which a lease may be passed on is no limit.
            let locks = LockRuntime::backend(way).local_share(1.0);
            let locks = locks.build().await.unwrap();
            // The first lease of a store has no fencing token for another holder.
            can_be_had(&locks, "k").await;
            let permit = || locks.lock("k").permits(1).ttl(ttl).renew(false);
            let first = permit().acquire().await.unwrap();
            let owner = first.owner_token().clone();
            let next = waiting(permit()).await;
            sleep(Duration::from_millis(held)).await;
            first.release().await.unwrap();
            let next = next.await.unwrap();
            assert_eq!(*next.owner_token() == owner, is_passed_on, "{held}");
            if !is_passed_on {
                // What the store hands over is extended to the ttl once.
                sleep(Duration::from_millis(800)).await;
            }
            let left = next.remaining();
            assert!(left >= ttl / 10 * 9 && left <= ttl, "{left:?}");
            next.release().await.unwrap();
        }
    }
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
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let permits = |locks: &LockRuntime| locks.lock("k").permits(2).ttl(Duration::from_secs(10));
        // Not renewed, as those of a process that is dead.
        let dead = permits(&one).renew(false).acquire().await.unwrap();
        let alive = permits(&one).try_acquire().await.unwrap();
        assert_eq!(alive.is_some(), !is_plain);
        let at = Instant::now();
        let next = permits(&other).wait(LONG).acquire().await.unwrap();
        let waited = at.elapsed();
        assert!(
            waited >= Duration::from_secs(9) && waited <= Duration::from_secs(11),
            "{waited:?}"
        );
        assert!(!dead.is_held() && next.is_held());
        assert!(alive.as_ref().is_none_or(LockGuard::is_held));
        // It ends nothing of its successor's.
        drop(dead);
        settled().await;
        assert!(permits(&one).try_acquire().await.unwrap().is_none());
    }
}

/// With a minimum hold no window sees more than that many beginnings.
#[tokio::test(start_paused = true)]
async fn permits_with_a_minimum_hold_are_an_exact_rate() {
    let window = Duration::from_secs(1);
    for (is_plain, permits) in [(false, 10), (true, 1)] {
        let processes = processes::<3>(is_plain).await;
        let mut tasks = JoinSet::new();
        for (_, locks) in &processes {
            for _ in 0..10 {
                let lock = locks.lock("k").permits(10).min_hold(window);
                tasks.spawn(async move { lock.run(async |_| Instant::now()).await.unwrap() });
            }
        }
        let mut starts = tasks.join_all().await;
        starts.sort();
        for (first, beyond) in starts.iter().zip(&starts[permits..]) {
            assert!(*beyond - *first >= window, "{:?}", *beyond - *first);
        }
        let all = starts[29] - starts[0];
        assert!(all < window * (30 / permits as u32), "{all:?}");
        // Those who wait for its end ask again.
        let asked: usize = processes.iter().map(|(way, _)| way.asked()).sum();
        assert!(asked <= 30 * 3, "{asked} questions for 30 beginnings");
    }
}

/// A beginning costs two commands where nobody has to wait for the end of another.
#[tokio::test(start_paused = true)]
async fn a_beginning_of_a_rate_costs_two_commands() {
    let [(way, locks)] = processes(false).await;
    let before = way.asked();
    for _ in 0..10 {
        let lock = locks.lock("k").permits(10).min_hold(Duration::from_secs(1));
        lock.run(async |_| ()).await.unwrap();
    }
    settled().await;
    assert_eq!(way.asked() - before, 20);
}

#[distributed_lock(key = "k", permits = 2, guard = lock, runtime = locks)]
async fn annotated(locks: &LockRuntime, hold: Duration) -> Result<Mode, LockError> {
    sleep(hold).await;
    Ok(lock.mode())
}

#[tokio::test(start_paused = true)]
async fn an_annotated_function_has_permits() {
    for (is_plain, seconds) in [(false, 2), (true, 4)] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let at = Instant::now();
        let second = Duration::from_secs(1);
        let calls = [&one, &other, &one, &other].map(|locks| annotated(locks, second));
        let [a, b, c, d] = calls;
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let modes = [a, b, c, d].map(Result::unwrap);
        assert_eq!(modes, [Mode::Permits { take: 1, of: 2 }; 4]);
        assert_eq!(at.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_takes_is_handed_on() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let holder = one.lock("k").permits(1).acquire().await.unwrap();
        let waiter = waiting(other.lock("k").permits(1)).await;
        let behind = waiting(one.lock("k").permits(1)).await;
        waiter.abort();
        holder.release().await.unwrap();
        behind.await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
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
}
