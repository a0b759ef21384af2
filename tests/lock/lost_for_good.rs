//! Once somebody was told that a lock is lost, nobody is told again that it is held: not by another
//! thread in the same instant, nor by an answer that comes late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockHandle, LockRuntime};
use lock_tests::ms;

/// Short, so that there are many ends to look at.
const TTL: Duration = ms(60);
const ROUNDS: usize = 40;
const WATCHERS: usize = 3;

/// What one thread is told until it is told to stop.
struct Told {
    /// Whether the lock was ever held after it had been lost.
    found_again: bool,
    lost: bool,
}

fn watch(lock: &LockHandle, stop: &AtomicBool) -> Told {
    let mut told = Told {
        found_again: false,
        lost: false,
    };
    while !(told.lost && stop.load(Ordering::Acquire)) {
        // Whoever else was told so before, it stays so: the flag is read before the question.
        let was_lost = LOST.load(Ordering::Acquire);
        let is_held = lock.is_held() && !lock.remaining().is_zero();
        if is_held {
            told.found_again |= was_lost;
        } else {
            told.lost = true;
            LOST.store(true, Ordering::Release);
        }
    }
    told
}

static LOST: AtomicBool = AtomicBool::new(false);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_was_told_lost_is_never_told_held_again() {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let mut late = 0;
    // On a busy machine the lease may be over before it is renewed: then more rounds follow.
    for round in 0..10 * ROUNDS {
        if round >= ROUNDS && late > 0 {
            break;
        }
        LOST.store(false, Ordering::Release);
        let guard = locks
            .lock("k")
            .ttl(TTL)
            .renew(false)
            .acquire()
            .await
            .unwrap();
        let stop = &*Box::leak(Box::new(AtomicBool::new(false)));
        let watchers: Vec<_> = (0..WATCHERS)
            .map(|_| {
                let lock = guard.handle();
                thread::spawn(move || watch(&lock, stop))
            })
            .collect();
        // The store extends the lease, and says so when the holder has been told that it ended.
        tokio::time::sleep(TTL / 2).await;
        store.fail_next(1, Fault::Slow(TTL));
        // Its patience is a quarter of the ttl, so the answer itself is not waited for.
        let _ = guard.renew().await;
        guard.lost().await;
        // That a renewal was done in the store makes the difference: it could be found again.
        late += usize::from(store.is_held("k"));
        let renewed = guard.renew().await;
        assert!(renewed.is_err_and(|error| error.is_lost()));
        stop.store(true, Ordering::Release);
        for watcher in watchers {
            assert!(!watcher.join().unwrap().found_again);
        }
        store.heal();
        assert!(guard.release().await.is_err_and(|error| error.is_lost()));
    }
    assert!(late > 0, "no renewal came late");
}
