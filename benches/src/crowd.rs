//! One process that takes and gives back permits of a lock, beside many that are taken or waited
//! for: what that costs the server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lock_runtime::backend::{
    self, Acquired, Backend, Claim, Grant, LockKey, Mode, News, OwnerToken, Release, Released,
};
use lock_runtime::redis::RedisBackend;
use tokio::task::JoinSet;

use crate::board::{Phase, Shared};
use crate::job::{Job, Tally, histogram, reached, tallied};
use crate::side::{self, Failure, Side};

/// Takes and gives back a permit, with so many others taken as the job says; or hands one on, with
/// so many claims in the queue.
pub async fn run(job: Job) -> Result<Tally, Failure> {
    let board = Arc::new(Shared::map(&job.board)?);
    let backend = Arc::new(side::backend(&job.url).await?);
    let news: Arc<dyn News> = Arc::new(Anybody);
    backend.attach(Arc::downgrade(&news));
    let key = LockKey::new("lock:", &job.key)?;
    let crowd = match job.side {
        Side::Crowd => Crowd::of_holders(&key, job.waiters, backend.clone()).await?,
        _ => Crowd::of_waiters(&key, job.waiters, backend.clone()).await?,
    };
    let mut tasks = JoinSet::new();
    let of_task = board.clone();
    tasks.spawn(async move { crowd.turns(&of_task).await });
    let tally = tallied(&board, tasks).await?;
    backend.close().await;
    Ok(tally)
}

/// Whatever waits is nobody's: what is measured is what the server does.
struct Anybody;

impl News for Anybody {
    fn granted(&self, _: &LockKey, _: &str, _: Grant, _: backend::Instant) -> bool {
        true
    }

    fn ask_at(&self, _: &LockKey, _: &OwnerToken, _: backend::Instant) {}

    fn ask_all(&self) {}
}

/// A lock with as many leases and claims as are there all the while.
struct Crowd {
    key: LockKey,
    /// How many permits there are.
    of: u32,
    /// Who holds one and gives it back next, in the order of the queue; empty where nobody waits.
    next: VecDeque<Claim>,
    backend: Arc<RedisBackend>,
}

impl Crowd {
    /// So many permits are taken, and more are there.
    async fn of_holders(
        key: &LockKey,
        holders: usize,
        backend: Arc<RedisBackend>,
    ) -> Result<Crowd, Failure> {
        let of = u32::try_from(holders)? + 8;
        for _ in 0..holders {
            let Acquired::Granted(_) = backend.acquire(&claim(key, of)).await? else {
                return Err("there was no permit for a holder".into());
            };
        }
        Ok(Crowd {
            key: key.clone(),
            of,
            next: [].into(),
            backend,
        })
    }

    /// All of eight permits are taken, and so many claims wait.
    async fn of_waiters(
        key: &LockKey,
        waiters: usize,
        backend: Arc<RedisBackend>,
    ) -> Result<Crowd, Failure> {
        let of = 8;
        let mut next = VecDeque::new();
        for place in 0..of as usize + waiters {
            let claim = claim(key, of);
            let is_held = matches!(backend.acquire(&claim).await?, Acquired::Granted(_));
            if is_held != (place < of as usize) {
                return Err("not the first of all have the permits".into());
            }
            next.push_back(claim);
        }
        Ok(Crowd {
            key: key.clone(),
            of,
            next,
            backend,
        })
    }

    async fn turns(mut self, board: &Shared) -> Result<(u64, Histogram<u64>), Failure> {
        let (mut served, mut times) = (0, histogram());
        reached(board, Phase::WarmUp).await;
        while board.phase() != Phase::Stop {
            let claim = claim(&self.key, self.of);
            let begun = Instant::now();
            let acquired = self.backend.acquire(&claim).await?;
            // Where others wait, it is the last of them, and the first to be held ends.
            let ended = match self.next.pop_front() {
                None => claim,
                Some(first) => {
                    self.next.push_back(claim);
                    first
                }
            };
            if matches!(acquired, Acquired::Granted(_)) != self.next.is_empty() {
                return Err("a claim passed those who wait, or had to wait".into());
            }
            let mut release = Release::new(self.key.clone(), ended.owner);
            release.mode = ended.mode;
            let released = self.backend.release(&release).await?;
            if !matches!(released, Released::Released(_)) {
                return Err("a permit was lost".into());
            }
            if board.phase() == Phase::Measure {
                served += 1;
                times.saturating_record(begun.elapsed().as_nanos() as u64);
            }
        }
        Ok((served, times))
    }
}

fn claim(key: &LockKey, of: u32) -> Claim {
    let mut claim = side::claim(key);
    claim.mode = Mode::Permits { take: 1, of };
    // Nobody asks again, nor is a lease renewed, while the others are served.
    claim.heartbeat = Duration::from_secs(600);
    claim.ttl = Duration::from_secs(600);
    claim.grace = Duration::from_secs(600);
    claim
}
