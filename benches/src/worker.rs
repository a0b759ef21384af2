//! One process of a run: its tasks take and release locks as fast as they can.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::task::JoinSet;

use crate::board::{Phase, Shared, now};
use crate::job::{Job, SECTION_KEY, Section, Tally, Timed, cpu_s, histogram, reached};
use crate::side::{Client, Failure, Side, multiplexed};
use crate::{held, wake};

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
