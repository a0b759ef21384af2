//! Runs of load: several processes, side after side, round after round.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lock_runtime::backend::OwnerToken;

use crate::board::{Phase, Shared};
use crate::job::{Job, SECTION_KEY, Section, Tally, Timed, histogram};
use crate::report::Figures;
use crate::server::Target;
use crate::side::{Failure, Side, TTL};

/// Until the connections are warm and the queues are full.
const WARM_UP: Duration = Duration::from_millis(500);

/// By when processes have started or ended.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is run on every side.
#[derive(Clone, Debug)]
pub struct Load {
    pub name: &'static str,
    pub processes: usize,
    pub tasks: usize,
    pub seconds: f64,
    /// Whether all tasks want the same lock.
    pub shared: bool,
    pub section: Section,
    pub timed: Timed,
}

impl Load {
    /// One run of one side.
    pub fn run(&self, side: Side, round: usize, target: &mut Target) -> Result<Figures, Failure> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("board");
        let board = Shared::map(&path)?;
        if self.section == Section::Redis {
            // Beyond the end of the run it is of no use.
            redis::cmd("SET")
                .arg(SECTION_KEY)
                .arg(0)
                .arg("PX")
                .arg(600_000)
                .exec(target.connection())?;
        }
        let mut holder = match self.timed {
            Timed::Nothing => Some(Holder::start(self.key(side, round), target)?),
            _ => None,
        };
        let mut workers = Vec::new();
        for process in 0..self.processes {
            let job = self.job(side, round, process, target.url(), &path);
            workers.push(Worker::start(&job)?);
        }
        wait_until(&mut workers, || {
            board.ready.load(Ordering::SeqCst) as usize == self.processes
        })?;

        board.enter_phase(Phase::WarmUp);
        sleep(WARM_UP);
        let (before, hand_offs, started) = (
            target.counts()?,
            board.handoffs.load(Ordering::Relaxed),
            Instant::now(),
        );
        board.enter_phase(Phase::Measure);
        match &mut holder {
            Some(holder) => holder.keep(Duration::from_secs_f64(self.seconds), target)?,
            None => sleep(Duration::from_secs_f64(self.seconds)),
        }
        board.enter_phase(Phase::Stop);
        let elapsed = started.elapsed().as_secs_f64();
        let hand_offs = board.handoffs.load(Ordering::Relaxed) - hand_offs;
        let counts = target.counts()?.since(&before);

        let tally = workers
            .into_iter()
            .map(Worker::finish)
            .collect::<Result<Vec<_>, _>>()?;
        let (commands, micros) = counts.sent(side.called_by_scripts());
        let mut figures = figures(&tally, elapsed);
        let operations = if self.shared {
            hand_offs as f64
        } else {
            figures.per_s * elapsed
        };
        figures.commands_per_s = commands as f64 / elapsed / self.processes as f64;
        figures.commands_per_op = commands as f64 / operations;
        figures.server_us_per_op = micros as f64 / operations;
        figures.server_cpu_us_per_op = counts.cpu_s * 1e6 / operations;
        figures.client_cpu_us_per_op =
            tally.iter().map(|tally| tally.cpu_s).sum::<f64>() * 1e6 / operations;
        figures.handoffs_per_s = hand_offs as f64 / elapsed;
        figures.violations = board.violations.load(Ordering::Relaxed) as f64;
        Ok(figures)
    }

    fn key(&self, side: Side, round: usize) -> String {
        format!("{}:{}:{round}", self.name, side.name())
    }

    fn job(&self, side: Side, round: usize, process: usize, url: &str, board: &Path) -> Job {
        Job {
            side,
            url: url.to_owned(),
            board: board.to_owned(),
            process,
            tasks: self.tasks,
            key: self.key(side, round),
            shared: self.shared,
            section: self.section,
            timed: self.timed,
        }
    }
}

/// What the tallies say.
fn figures(tallies: &[Tally], elapsed: f64) -> Figures {
    let served: Vec<f64> = tallies
        .iter()
        .flat_map(|tally| &tally.served)
        .map(|served| *served as f64)
        .collect();
    let mut times = histogram();
    for (value, count) in tallies.iter().flat_map(|tally| &tally.times) {
        times.saturating_record_n(*value, *count);
    }
    let micros = |nanos: u64| nanos as f64 / 1e3;
    Figures {
        per_s: served.iter().sum::<f64>() / elapsed,
        p50_us: micros(times.value_at_quantile(0.5)),
        p99_us: micros(times.value_at_quantile(0.99)),
        max_us: micros(times.max()),
        mean_us: times.mean() / 1e3,
        jain: jain(&served),
        ..Figures::default()
    }
}

/// Jain's index of fairness: 1 if all shares are equal, 1/n if one has all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Holds a lock against all sides, in the way of each, without commands that count.
struct Holder {
    /// The lock as ours calls it, and as the others do.
    keys: [String; 2],
}

impl Holder {
    fn start(key: String, target: &mut Target) -> Result<Holder, Failure> {
        let keys = [format!("lock:{key}"), key];
        // A foreign one would be asked again and again whether it is still there.
        let token = OwnerToken::unique("holder");
        for key in &keys {
            redis::cmd("SET")
                .arg(key)
                .arg(token.as_str())
                .arg("PX")
                .arg(TTL.as_millis() as u64)
                .exec(target.connection())?;
        }
        Ok(Holder { keys })
    }

    fn keep(&mut self, time: Duration, target: &mut Target) -> Result<(), Failure> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for key in &self.keys {
                redis::cmd("PEXPIRE")
                    .arg(key)
                    .arg(TTL.as_millis() as u64)
                    .exec(target.connection())?;
            }
            sleep((TTL / 10).min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// A process under load.
pub struct Worker(Child);

impl Worker {
    pub fn start(job: &Job) -> Result<Worker, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .arg(serde_json::to_string(job)?)
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Worker(child))
    }

    pub fn finish(mut self) -> Result<Tally, Failure> {
        let mut output = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_string(&mut output)?;
        }
        match self.0.wait()?.success() {
            true => Ok(serde_json::from_str(&output)?),
            false => Err("a process under load has failed".into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Nothing is left of it after `finish`.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait_until(workers: &mut [Worker], condition: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        for worker in &mut *workers {
            if worker.0.try_wait()?.is_some() {
                return Err("a process under load has ended early".into());
            }
        }
        if Instant::now() > deadline {
            return Err("the processes do not get ready".into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs `load` on all `sides` in turn, `rounds` times. The figures of each round, by side.
pub fn interleaved(
    load: &Load,
    sides: &[Side],
    rounds: usize,
    target: &mut Target,
) -> Result<Vec<(Side, Vec<Figures>)>, Failure> {
    let mut all: Vec<(Side, Vec<Figures>)> = sides.iter().map(|side| (*side, Vec::new())).collect();
    for round in 0..rounds {
        for (side, figures) in &mut all {
            eprintln!(
                "{} round {} of {rounds}: {}",
                load.name,
                round + 1,
                side.name()
            );
            figures.push(load.run(*side, round, target)?);
        }
    }
    Ok(all)
}
