//! What one process of a run is told to do, and what it tells when it is done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::HEAP;
use crate::board::{Phase, Shared};
use crate::side::{Failure, Side};

/// What the section writes to in Redis.
pub const SECTION_KEY: &str = "bench:section";

/// What one process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub side: Side,
    pub url: String,
    pub board: PathBuf,
    /// The number of this process, and how many there are.
    pub process: usize,
    pub processes: usize,
    pub tasks: usize,
    /// How many tasks the processes before this one have.
    pub tasks_before: usize,
    /// The name of the lock, or what the names of the locks start with.
    pub key: String,
    /// Whether all tasks want the same lock.
    pub shared: bool,
    pub section: Section,
    pub timed: Timed,
    /// How many worker threads the tokio runtime has.
    pub threads: usize,
    /// How many claims wait in each queue, where the queues are made by hand.
    pub waiters: usize,
    /// Whether allocations are counted.
    pub count_allocations: bool,
    /// For rueidislock: whether it tracks its keys with NOLOOP.
    pub no_loop: bool,
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
    /// Stays for two milliseconds.
    LongPause,
}

/// What the times are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timed {
    /// From the call of acquire to the answer of the release, less the section.
    Pair,
    /// From the call of acquire to its return.
    Wait,
    /// From the first release of one task's turn to the return of another task's acquire.
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
    /// What was spent while it counted.
    #[serde(flatten)]
    pub spent: Spent,
}

impl Tally {
    pub fn add(&mut self, served: u64, times: &Histogram<u64>) {
        self.served.push(served);
        for time in times.iter_recorded() {
            *self.times.entry(time.value_iterated_to()).or_default() += time.count_at_value();
        }
    }
}

/// What a process has spent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Seconds on a processor.
    pub cpu_s: f64,
    /// How often a thread went to sleep.
    pub switches: u64,
    /// Allocations; zero where they are not counted.
    pub allocations: u64,
}

impl Spent {
    /// What this process has spent so far.
    pub fn so_far() -> Result<Spent, Failure> {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        // The sum over the threads is what `getrusage` tells, but for threads that have ended.
        let mut switches = 0;
        for thread in std::fs::read_dir("/proc/self/task")? {
            let status = std::fs::read_to_string(thread?.path().join("status"))?;
            let voluntary = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            switches += voluntary.map_or(Ok(0), |count| count.trim().parse::<u64>())?;
        }
        Ok(Spent {
            cpu_s: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
            switches,
            allocations: HEAP.allocations(),
        })
    }

    pub fn since(self, earlier: Spent) -> Spent {
        Spent {
            cpu_s: self.cpu_s - earlier.cpu_s,
            switches: self.switches.saturating_sub(earlier.switches),
            allocations: self.allocations - earlier.allocations,
        }
    }
}

/// A histogram for nanoseconds: to three digits, from 100 ns to 200 s.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 200_000_000_000, 3).expect("the bounds are in order")
}

/// Resolves when the run has come as far as `phase`.
pub async fn reached(board: &Shared, phase: Phase) {
    while (board.phase() as u32) < phase as u32 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Says that this process is ready, and what it spends and its tasks do from then on.
pub async fn tallied(
    board: &Shared,
    mut tasks: JoinSet<Result<(u64, Histogram<u64>), Failure>>,
) -> Result<Tally, Failure> {
    board.ready.fetch_add(1, Ordering::SeqCst);
    let mut tally = Tally {
        spent: spending(board).await?,
        ..Tally::default()
    };
    while let Some(task) = tasks.join_next().await {
        let (served, times) = task??;
        tally.add(served, &times);
    }
    Ok(tally)
}

/// Tells what this process spends from `Measure` to `Stop`.
pub async fn spending(board: &Shared) -> Result<Spent, Failure> {
    reached(board, Phase::Measure).await;
    let before = Spent::so_far()?;
    reached(board, Phase::Stop).await;
    Ok(Spent::so_far()?.since(before))
}
