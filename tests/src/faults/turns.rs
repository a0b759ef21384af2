//! Tasks of several runtimes that take one lock in turns, while a test makes its store fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use lock_runtime::LockRuntime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::eventually_in;
use crate::ms;

/// How each task takes the lock.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The ttl of the lock.
    pub ttl: Duration,
    /// How long most wait; every fourth gives up at once.
    pub wait: Duration,
    /// Whether a lock may be lost within milliseconds, as where an operator ends its lease.
    pub may_lose: bool,
}

/// The tasks, four for each runtime.
pub struct Turns {
    seen: Arc<Seen>,
    tasks: JoinSet<()>,
    runtimes: Vec<LockRuntime>,
}

#[derive(Default)]
struct Seen {
    inside: AtomicBool,
    token: AtomicU64,
    turns: AtomicU64,
    given_up: AtomicU64,
    is_over: AtomicBool,
}

impl Turns {
    /// Starts the tasks.
    pub fn start(runtimes: Vec<LockRuntime>, terms: Terms) -> Turns {
        let (seen, mut tasks) = (Arc::<Seen>::default(), JoinSet::new());
        for locks in runtimes.iter().flat_map(|locks| [locks; 4]) {
            let (locks, seen) = (locks.clone(), Arc::clone(&seen));
            tasks.spawn(async move {
                while !seen.is_over.load(SeqCst) {
                    turn(&locks, &seen, terms).await;
                }
            });
        }
        Turns {
            seen,
            tasks,
            runtimes,
        }
    }

    /// Waits until the lock has been taken often since now, or fails after this `time`.
    pub async fn go_on(&self, time: Duration) {
        let (before, since) = (self.seen.turns.load(SeqCst), Instant::now());
        eventually_in(time, "locks are taken again", || {
            self.seen.turns.load(SeqCst) > before + 20
        })
        .await;
        println!("20 turns after a fault took {:?}", since.elapsed());
    }

    /// Ends the tasks and the runtimes. Every task must have kept its promises, and some must have
    /// given up.
    pub async fn end(self) {
        self.seen.is_over.store(true, SeqCst);
        self.tasks.join_all().await;
        let (turns, given_up) = (&self.seen.turns, &self.seen.given_up);
        println!("{turns:?} turns, {given_up:?} given up");
        assert!(given_up.load(SeqCst) > 0, "some gave up");
        for locks in self.runtimes {
            locks.shutdown().await.unwrap();
        }
    }
}

async fn turn(locks: &LockRuntime, seen: &Seen, terms: Terms) {
    let wait = if fastrand::u8(..4) == 0 {
        ms(5)
    } else {
        terms.wait
    };
    let lock = locks.lock("k").ttl(terms.ttl).wait(wait);
    let Ok(guard) = lock.acquire().await else {
        seen.given_up.fetch_add(1, SeqCst);
        return;
    };
    assert!(!seen.inside.swap(true, SeqCst), "two hold the lock");
    let token = u64::from(guard.fencing_token());
    let before = seen.token.swap(token, SeqCst);
    assert!(before < token, "{token} was granted after {before}");
    sleep(ms(fastrand::u64(..4))).await;
    assert!(
        terms.may_lose || guard.is_held(),
        "a section of some milliseconds lost its lock"
    );
    seen.inside.store(false, SeqCst);
    // Its outcome may not be known; then the lock goes on when its lease has ended.
    let _ = guard.release().await;
    seen.turns.fetch_add(1, SeqCst);
}
