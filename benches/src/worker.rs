//! One process of a run: its tasks take and release locks as fast as they can.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::board::{Phase, Shared, now};
use crate::side::{Client, Failure, Side, multiplexed};
use crate::{held, wake};

/// What one process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub side: Side,
    pub url: String,
    pub board: PathBuf,
    /// The number of this process.
    pub process: usize,
    pub tasks: usize,
    /// The name of the lock, or what the names of the locks start with.
    pub key: String,
    /// Whether all tasks want the same lock.
    pub shared: bool,
    pub section: Section,
    pub timed: Timed,
}

/// What a task does while it holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Notes in shared memory who is there: costs nothing.
    Free,
    /// Sends two commands to Redis as well, one after the other.
    Redis,
    /// Stays for a millisecond, so that the others surely wait.
    Pause,
}

/// What the times are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timed {
    /// From the call of acquire to the answer of the release, less the section.
    Pair,
    /// From the call of acquire to its return.
    Wait,
    /// From the call of a release to the return of another task's acquire.
    HandOff,
    /// Nothing: the lock is held by somebody else all the time.
    Nothing,
    /// Nothing: all locks are held at once.
    Held,
}

/// What one process has measured.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// How often each task was served.
    pub served: Vec<u64>,
    /// Nanoseconds, and how often.
    pub times: BTreeMap<u64, u64>,
    /// Bytes alive for each held lease.
    pub bytes_per_lease: f64,
    /// Leases that were lost.
    pub lost: u64,
    /// Seconds on a processor, while it counted.
    pub cpu_s: f64,
}

impl Tally {
    pub fn add(&mut self, served: u64, times: &Histogram<u64>) {
        self.served.push(served);
        for time in times.iter_recorded() {
            *self.times.entry(time.value_iterated_to()).or_default() += time.count_at_value();
        }
    }
}

/// A histogram for nanoseconds: to three digits, from 100 ns to 200 s.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 200_000_000_000, 3).expect("the bounds are in order")
}

/// Does `job` until the board says stop.
pub async fn run(job: Job) -> Result<Tally, Failure> {
    if job.side == Side::Publish {
        return wake::run(job).await;
    }
    if job.timed == Timed::Held {
        return held::hold(job).await;
    }
    let board = Arc::new(Shared::map(&job.board)?);
    let client = job.side.connect(&job.url).await?;
    let redis = match job.section {
        Section::Redis => Some(multiplexed(&job.url).await?),
        Section::Free | Section::Pause => None,
    };
    let mut tasks = JoinSet::new();
    for number in 0..job.tasks {
        let task = Task {
            id: (job.process * job.tasks + number) as u64 + 1,
            key: if job.shared {
                job.key.clone()
            } else {
                format!("{}:{}:{number}", job.key, job.process)
            },
            client: client.clone(),
            board: board.clone(),
            shared: job.shared,
            section: job.section,
            redis: redis.clone(),
            timed: job.timed,
            served: 0,
            times: histogram(),
        };
        tasks.spawn(task.run());
    }
    board.ready.fetch_add(1, Ordering::SeqCst);
    reached(&board, Phase::Measure).await;
    let before = cpu_s();
    reached(&board, Phase::Stop).await;
    let mut tally = Tally {
        cpu_s: cpu_s() - before,
        ..Tally::default()
    };
    if job.timed == Timed::Nothing {
        tasks.abort_all();
    }
    while let Some(task) = tasks.join_next().await {
        match task {
            Ok(task) => {
                let (served, times) = task?;
                tally.add(served, &times);
            }
            Err(error) if error.is_cancelled() => tally.add(0, &histogram()),
            Err(error) => return Err(error.into()),
        }
    }
    client.close().await?;
    Ok(tally)
}

/// Resolves when the run has come as far as `phase`.
pub async fn reached(board: &Shared, phase: Phase) {
    while (board.phase() as u32) < phase as u32 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The seconds that this process has been on a processor.
pub fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

struct Task {
    /// Unique in the run; not zero.
    id: u64,
    key: String,
    client: Client,
    board: Arc<Shared>,
    shared: bool,
    section: Section,
    redis: Option<MultiplexedConnection>,
    timed: Timed,
    served: u64,
    times: Histogram<u64>,
}

impl Task {
    async fn run(mut self) -> Result<(u64, Histogram<u64>), Failure> {
        reached(&self.board, Phase::WarmUp).await;
        while self.board.phase() != Phase::Stop {
            self.turn().await?;
        }
        Ok((self.served, self.times))
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let held = self.client.acquire(&self.key).await?;
        let waited = started.elapsed();

        let handed_over = self.shared && self.board.enter(self.id, held.fence());
        let hand_off = now().saturating_sub(self.board.released_at.load(Ordering::SeqCst));
        self.stay().await?;
        if self.shared {
            self.board.leave();
        }

        if self.timed == Timed::HandOff {
            self.board.released_at.store(now(), Ordering::SeqCst);
        }
        let releasing = Instant::now();
        held.release().await?;
        let time = match self.timed {
            Timed::Pair => waited + releasing.elapsed(),
            Timed::Wait => waited,
            Timed::HandOff => Duration::from_nanos(hand_off),
            Timed::Nothing | Timed::Held => {
                return Err("the lock was not held by somebody else".into());
            }
        };
        if self.board.phase() == Phase::Measure {
            self.served += 1;
            if self.timed != Timed::HandOff || handed_over {
                self.times.saturating_record(time.as_nanos() as u64);
            }
        }
        Ok(())
    }

    /// What is done in the critical section.
    async fn stay(&mut self) -> Result<(), Failure> {
        match (self.section, &mut self.redis) {
            (Section::Redis, Some(redis)) => {
                cmd("INCR").arg(SECTION_KEY).exec_async(redis).await?;
                cmd("DECR").arg(SECTION_KEY).exec_async(redis).await?;
            }
            (Section::Pause, _) => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => {}
        }
        Ok(())
    }
}

/// What the section writes to in Redis.
pub const SECTION_KEY: &str = "bench:section";
