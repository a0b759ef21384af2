//! One process that hands locks from claim to claim through `Backend`: what a hand-over costs the
//! server, and how long it takes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lock_runtime::backend::{
    self, Acquired, Backend, Claim, Grant, LockKey, News, OwnerToken, Release, Released,
};
use lock_runtime::redis::RedisBackend;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::board::{Phase, Shared};
use crate::job::{Job, Tally, histogram, reached, tallied};
use crate::side::{self, Failure};

/// Each task hands a lock of its own round a queue of so many waiters as the job says.
pub async fn run(job: Job) -> Result<Tally, Failure> {
    let board = Arc::new(Shared::map(&job.board)?);
    let backend = Arc::new(side::backend(&job.url).await?);
    let expected = Arc::<Expected>::default();
    let news: Arc<dyn News> = expected.clone();
    backend.attach(Arc::downgrade(&news));
    let mut queues = Vec::new();
    for task in 0..job.tasks {
        let key = LockKey::new("lock:", &format!("{}:{task}", job.key))?;
        queues.push(Queue::of(key, job.waiters, backend.clone(), expected.clone()).await?);
    }
    let mut tasks = JoinSet::new();
    for queue in queues {
        let board = board.clone();
        tasks.spawn(async move { queue.go_round(&board).await });
    }
    let tally = tallied(&board, tasks).await?;
    backend.close().await;
    Ok(tally)
}

/// The claims that wait, each with who is to be told. Others are not expected.
#[derive(Default)]
struct Expected(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl Expected {
    fn expect(&self, claim: &Claim) -> oneshot::Receiver<()> {
        let (sender, told) = oneshot::channel();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(claim.owner.as_str().to_owned(), sender);
        told
    }
}

impl News for Expected {
    fn granted(&self, _: &LockKey, owner: &str, _: Grant, _: backend::Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(owner).is_some_and(|told| told.send(()).is_ok())
    }

    // Whoever is not told within the timeout below ends the run.
    fn ask_at(&self, _: &LockKey, _: &OwnerToken, _: backend::Instant) {}

    fn ask_all(&self) {}
}

/// A lock with its holder, and those who wait for it.
struct Queue {
    key: LockKey,
    holder: Claim,
    waiting: VecDeque<(Claim, oneshot::Receiver<()>)>,
    backend: Arc<RedisBackend>,
    expected: Arc<Expected>,
}

impl Queue {
    async fn of(
        key: LockKey,
        waiters: usize,
        backend: Arc<RedisBackend>,
        expected: Arc<Expected>,
    ) -> Result<Queue, Failure> {
        let holder = claim(&key);
        let Acquired::Granted(_) = backend.acquire(&holder).await? else {
            return Err("the lock is not free at first".into());
        };
        let mut waiting = VecDeque::new();
        for _ in 0..waiters {
            let waiter = claim(&key);
            let told = expected.expect(&waiter);
            let Acquired::Queued(_) = backend.acquire(&waiter).await? else {
                return Err("a claim was not queued".into());
            };
            waiting.push_back((waiter, told));
        }
        Ok(Queue {
            key,
            holder,
            waiting,
            backend,
            expected,
        })
    }

    /// Hands the lock on until the board says stop, and then takes everybody out. What is timed is
    /// until the next one is told.
    async fn go_round(mut self, board: &Shared) -> Result<(u64, Histogram<u64>), Failure> {
        let (mut served, mut times) = (0, histogram());
        reached(board, Phase::WarmUp).await;
        while board.phase() != Phase::Stop {
            let next = claim(&self.key);
            let told = self.expected.expect(&next);
            let release = Release::new(self.key.clone(), self.holder.owner.clone());
            let releasing = Instant::now();
            let Released::Released(Some(Acquired::Queued(_))) = self
                .backend
                .release(&release.then(Some(next.clone())))
                .await?
            else {
                return Err("a release did not hand over".into());
            };
            self.waiting.push_back((next, told));
            let (first, told) = self.waiting.pop_front().ok_or("nobody waits")?;
            if timeout(Duration::from_secs(5), told).await?.is_err() {
                return Err("the first of the queue was not the next".into());
            }
            self.holder = first;
            if board.phase() == Phase::Measure {
                served += 1;
                times.saturating_record(releasing.elapsed().as_nanos() as u64);
            }
        }
        while let Some((waiter, _)) = self.waiting.pop_front() {
            self.backend.abandon(&waiter).await?;
        }
        let release = Release::new(self.key.clone(), self.holder.owner.clone());
        self.backend.release(&release).await?;
        Ok((served, times))
    }
}

fn claim(key: &LockKey) -> Claim {
    let mut claim = side::claim(key);
    // Nobody asks again while the others are served.
    claim.heartbeat = Duration::from_secs(600);
    claim
}
