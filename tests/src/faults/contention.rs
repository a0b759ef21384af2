//! Tasks that want one lock, in a process among several that do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lock_runtime::{LockError, LockGuard, LockRuntime};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};

use super::builder;
use crate::checker::{Nanos, Outcome, Recorder, What, now};

/// The lock that all of them want.
const KEY: &str = "k";
/// Long beyond the contention: no lease ends for being too short.
const TTL: Duration = Duration::from_secs(30);

/// What each process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contention {
    /// The server that has the lock.
    pub url: String,
    /// Where every process logs who held the lock and when, in a file of its own.
    pub logs: PathBuf,
    /// How many tasks of a process take the lock again and again.
    pub tasks: usize,
    /// For how long they go on.
    pub lasts: Duration,
    /// How long a waiter may wait before it counts as forgotten.
    pub longest: Duration,
    /// Whether every other task leaves in the middle of its waiting, at all kinds of instants.
    pub cancel: bool,
    /// Whether a lease may be lost, because connections are cut.
    pub may_lose: bool,
}

impl Contention {
    /// Does it, and returns how often each task was served that waited to the end; or what went
    /// wrong.
    pub async fn run(self) -> Result<Vec<u64>, String> {
        let locks = builder(&self.url).command_timeout(Duration::from_secs(1));
        let contenders = Arc::new(Contenders {
            locks: locks.build().await.map_err(|error| error.to_string())?,
            log: Recorder::open(self.logs.join(format!("{}.jsonl", std::process::id()))).unwrap(),
            until: Instant::now() + self.lasts,
            terms: self,
        });
        let mut tasks = JoinSet::new();
        for number in 0..contenders.terms.tasks {
            let contenders = Arc::clone(&contenders);
            if contenders.terms.cancel && number % 2 == 0 {
                tasks.spawn(async move { contenders.come_and_go(number).await.map(|()| None) });
            } else {
                tasks.spawn(async move { contenders.stay(number).await.map(Some) });
            }
        }
        let served: Result<Vec<_>, _> = tasks.join_all().await.into_iter().collect();
        Ok(served?.into_iter().flatten().collect())
    }
}

/// The tasks of one process.
struct Contenders {
    terms: Contention,
    locks: LockRuntime,
    log: Recorder,
    until: Instant,
}

impl Contenders {
    /// Takes and releases the lock until the end, and returns how often.
    async fn stay(&self, number: usize) -> Result<u64, String> {
        let mut served = 0;
        while Instant::now() < self.until {
            let asked = now();
            let guard = timeout(self.terms.longest, self.acquire()).await;
            let guard = guard
                .map_err(|_| format!("task {number} was forgotten"))?
                .map_err(|error| error.to_string())?;
            let turn = self.hold(number, asked, &guard);
            yield_now().await;
            let releasing = now();
            let released = guard.release().await;
            self.record_release(turn, releasing);
            match released {
                // A release that finds no connection may come after the grace.
                Err(error) if self.terms.may_lose && error.is_lost() => {}
                released => released.map_err(|error| error.to_string())?,
            }
            served += 1;
        }
        Ok(served)
    }

    /// Asks and leaves again, until the end; whoever gets the lock nevertheless drops it.
    async fn come_and_go(&self, number: usize) -> Result<(), String> {
        while Instant::now() < self.until {
            let asked = now();
            let patience = Duration::from_micros(fastrand::u64(0..20_000));
            let Ok(guard) = timeout(patience, self.acquire()).await else {
                self.leave(number, asked);
                continue;
            };
            let guard = guard.map_err(|error| error.to_string())?;
            let turn = self.hold(number, asked, &guard);
            let releasing = now();
            drop(guard);
            self.record_release(turn, releasing);
        }
        Ok(())
    }

    async fn acquire(&self) -> Result<LockGuard, LockError> {
        let lock = self.locks.lock(KEY).ttl(TTL);
        lock.wait(Duration::from_secs(60)).acquire().await
    }

    /// Notes that the lock is held, and returns the name of the turn.
    fn hold(&self, number: usize, asked: Nanos, guard: &LockGuard) -> String {
        let token = guard.fencing_token().as_u64();
        let claim = format!("{}/{number}/{token}", std::process::id());
        let remaining = u64::try_from(guard.remaining().as_nanos()).unwrap();
        let what = What::Acquire {
            claim: claim.clone(),
            outcome: Outcome::Ok,
            token: Some(token),
            deadline: Some(now() + remaining),
        };
        self.log.record(KEY, asked, what).unwrap();
        claim
    }

    /// Notes that nobody will know what came of the question.
    fn leave(&self, number: usize, asked: Nanos) {
        let what = What::Acquire {
            claim: format!("{}/{number}/left", std::process::id()),
            outcome: Outcome::Unknown,
            token: None,
            deadline: None,
        };
        self.log.record(KEY, asked, what).unwrap();
    }

    fn record_release(&self, claim: String, releasing: Nanos) {
        let outcome = Outcome::Unknown;
        self.log
            .record(KEY, releasing, What::Release { claim, outcome })
            .unwrap();
    }
}
