//! What one process of a run is told to do, and what it tells when it is done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::board::{Phase, Shared};
use crate::side::Side;

/// What the section writes to in Redis.
pub const SECTION_KEY: &str = "bench:section";

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
