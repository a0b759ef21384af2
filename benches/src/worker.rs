//! One process of a run: its tasks take and release locks as fast as they can.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lock_runtime::backend::Executor;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::board::{Phase, Shared, now};
use crate::job::{Job, SECTION_KEY, Section, Tally, Timed, histogram, reached, spending};
use crate::side::{Client, Failure, READERS, Side, multiplexed};
use crate::{crowd, held, waiters, wake};

/// Does `job` until the board says stop.
pub async fn run(job: Job) -> Result<Tally, Failure> {
    match job.side {
        Side::Publish => return wake::publish(job).await,
        Side::HandOver => return waiters::run(job).await,
        Side::Crowd | Side::CrowdQueue => return crowd::run(job).await,
        Side::Pipeline => return pipeline(job).await,
        _ if job.timed == Timed::Held => return held::hold(job).await,
        _ => {}
    }
    let board = Arc::new(Shared::map(&job.board)?);
    let client = job.side.connect(&job.url).await?;
    let redis = match job.section {
        Section::Redis => Some(multiplexed(&job.url).await?),
        Section::Free | Section::Pause | Section::LongPause => None,
    };
    let mut tasks = JoinSet::new();
    for number in 0..job.tasks {
        let task = Task {
            id: (job.tasks_before + number) as u64 + 1,
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
        match client.executor() {
            Some(executor) => tasks.spawn(elsewhere(executor, task)),
            None => tasks.spawn(task.run()),
        };
    }
    board.ready.fetch_add(1, Ordering::SeqCst);
    let mut tally = Tally {
        spent: spending(&board).await?,
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

/// Takes as many locks as there are tasks elsewhere, and gives them back, each in one pipeline.
async fn pipeline(job: Job) -> Result<Tally, Failure> {
    let board = Shared::map(&job.board)?;
    let Client::Raw(mut connection, commands) = job.side.connect(&job.url).await? else {
        return Err("pipelines are of the raw commands".into());
    };
    board.ready.fetch_add(1, Ordering::SeqCst);
    let pairs = async {
        let (mut served, mut times) = (0, histogram());
        reached(&board, Phase::WarmUp).await;
        while board.phase() != Phase::Stop {
            let (mut take, mut give) = (redis::pipe(), redis::pipe());
            for number in 0..job.tasks {
                let (taking, giving) = commands.of_claim(&format!("{}:{number}", job.key));
                take.add_command(taking);
                give.add_command(giving);
            }
            let started = Instant::now();
            let taken: Vec<Option<String>> = take.query_async(&mut connection).await?;
            let given: Vec<u64> = give.query_async(&mut connection).await?;
            if !taken.iter().all(Option::is_some) || given.iter().sum::<u64>() != job.tasks as u64 {
                return Err("the locks were not free".into());
            }
            if board.phase() == Phase::Measure {
                served += job.tasks as u64;
                times.saturating_record_n(started.elapsed().as_nanos() as u64, job.tasks as u64);
            }
        }
        Ok((served, times))
    };
    let ((served, times), spent) = tokio::try_join!(pairs, spending(&board))?;
    let mut tally = Tally {
        spent,
        ..Tally::default()
    };
    tally.add(served, &times);
    Ok(tally)
}

/// Runs `task` on `executor`.
async fn elsewhere(
    executor: Arc<dyn Executor>,
    task: Task,
) -> Result<(u64, Histogram<u64>), Failure> {
    let (sender, outcome) = oneshot::channel();
    executor.spawn(Box::pin(async {
        // Nobody listens any more when the run has failed.
        let _ = sender.send(task.run().await);
    }));
    outcome.await?
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

        let handed_over = self.shared && self.board.enter(self.id, held.fence(), held.room());
        let hand_off = now().saturating_sub(self.board.released_at.load(Ordering::SeqCst));
        self.stay().await?;
        if self.shared {
            self.board.leave(held.room());
        }

        // A turn that stays on its side goes on: the other has waited since the first release of
        // it.
        if self.timed == Timed::HandOff && handed_over {
            self.board.released_at.store(now(), Ordering::SeqCst);
        }
        let releasing = Instant::now();
        let held_is_reader = held.room() == Some(READERS);
        held.release().await?;
        let time = match self.timed {
            Timed::Pair => waited + releasing.elapsed(),
            Timed::Wait => waited,
            Timed::HandOff => Duration::from_nanos(hand_off),
            Timed::Nothing | Timed::Held => {
                return Err("the lock was not held by somebody else".into());
            }
        };
        let counts = self.timed != Timed::HandOff || handed_over;
        if counts && self.board.phase() == Phase::Measure {
            self.served += 1;
            if !held_is_reader {
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
            (Section::LongPause, _) => tokio::time::sleep(Duration::from_millis(2)).await,
            _ => {}
        }
        Ok(())
    }
}
