//! Runs of load: several processes under one side.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lock_runtime::backend::OwnerToken;

use crate::board::{Phase, Shared};
use crate::job::{Job, SECTION_KEY, Section, Tally, Timed, histogram};
use crate::peer;
use crate::report::{Figures, median, ratios};
use crate::server::{Kind, Senders, Target};
use crate::side::{Failure, PARTS, POLL, RSLOCK_DELAY, Side, TTL};
use crate::trace::Trace;

/// Until the connections are warm and the queues are full.
const WARM_UP: Duration = Duration::from_millis(500);

/// By when processes have started or ended.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is counted of etcd, by the names of figures and of methods.
const METHODS: [(&str, &str); 5] = [
    ("txns", "Txn"),
    ("ranges", "Range"),
    ("grants", "LeaseGrant"),
    ("keep_alives", "LeaseKeepAlive"),
    ("watches", "Watch"),
];

/// The same of Consul: questions by their methods and paths.
const QUESTIONS: [(&str, &str); 6] = [
    ("txns", "PUT v1_txn"),
    ("sessions", "PUT v1_session_create"),
    ("renewals", "PUT v1_session_renew_"),
    ("ends", "PUT v1_session_destroy_"),
    ("reads", "GET v1_kv_"),
    ("writes", "PUT v1_kv_"),
];

/// What is counted beside commands, and costs time where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Counted {
    /// Allocations of the clients written in Rust, by the allocator.
    Allocations,
    /// System calls of the clients, by `strace`.
    SystemCalls,
}

/// What is run on every side.
#[derive(Clone, Debug)]
pub struct Load {
    pub name: &'static str,
    /// How many tasks each process has.
    pub tasks: Vec<usize>,
    pub seconds: f64,
    /// Whether all tasks want the same lock.
    pub shared: bool,
    pub section: Section,
    pub timed: Timed,
    /// The worker threads of each process.
    pub threads: usize,
    /// How many claims wait in each queue that is made by hand.
    pub waiters: usize,
    pub counted: Option<Counted>,
    /// Whether rueidislock tracks with NOLOOP.
    pub no_loop: bool,
}

impl Load {
    /// How `side` is configured for this, where that matters.
    pub fn settings(&self, side: Side) -> String {
        match side {
            Side::Ours => "the defaults".to_owned(),
            Side::OursRemote => "the defaults, but local_passes 0".to_owned(),
            Side::OursInside => "`ours`, called on the backend's own thread".to_owned(),
            Side::OursRemoteInside => {
                "`ours-remote`, called on the backend's own thread".to_owned()
            }
            Side::Rueidislock => format!(
                "KeyMajority 1, KeyValidity {TTL:?}, NoLoopTracking {} (the better for this load), GOMAXPROCS {}",
                self.no_loop, self.threads
            ),
            Side::Mutex => format!(
                "concurrency.Mutex, one session a process, GOMAXPROCS {}",
                self.threads
            ),
            Side::EtcdRaw => format!(
                "the transactions of ours by Go's client; does not wait, GOMAXPROCS {}",
                self.threads
            ),
            Side::ApiLock => format!(
                "api.Lock as its documents show it, a session a claim, GOMAXPROCS {}",
                self.threads
            ),
            Side::Bare => format!(
                "the transactions of ours by Go's client, a session a lock; does not wait, GOMAXPROCS {}",
                self.threads
            ),
            Side::Ring => "one socket (RESP3) and one thread a process, which blocks".to_owned(),
            Side::HandOver => format!(
                "`release` of `RedisBackend` with a next claim, {} claims in each queue",
                self.waiters
            ),
            Side::Backend => "`acquire` and `release` of `RedisBackend`; does not wait".to_owned(),
            Side::Raw => format!("one MultiplexedConnection; polls every {POLL:?}"),
            Side::Pipeline => {
                format!("one task and connection, pipelines of {}", self.tasks[0])
            }
            Side::Pool => {
                format!("a deadpool-redis pool of the default size; polls every {POLL:?}")
            }
            Side::Rslock => {
                format!("acquire, release; retries for ever, after up to {RSLOCK_DELAY:?}")
            }
            Side::Rlock => format!("RenewalMode::Auto, retry_interval {POLL:?}"),
            Side::Shared => "one in a hundred takes the plain lock, the others a share".to_owned(),
            Side::Permits => format!("{PARTS} permits"),
            Side::Shards => format!("{PARTS} shards"),
            Side::Parts => {
                format!("the raw commands, on one of {PARTS} keys; polls every {POLL:?}")
            }
            Side::Crowd => "a pair of `RedisBackend` for one permit, so many taken".to_owned(),
            Side::CrowdQueue => {
                "a claim and a release of `RedisBackend` for one of 8 permits, so many waiting"
                    .to_owned()
            }
            Side::None => "no lock".to_owned(),
            Side::Redlock => "the defaults, on five servers; restart_delay 0".to_owned(),
            Side::RedlockRemote => "`redlock`, but local_passes 0".to_owned(),
            Side::RedlockTwoRefuse => "`redlock`, where two refuse connections".to_owned(),
            Side::RedlockTwoHang => "`redlock`, where two do not answer".to_owned(),
            Side::RedlockRaw => {
                "a MultiplexedConnection to each server; stops at the third answer".to_owned()
            }
            Side::Redsync => format!(
                "the defaults of redsync and go-redis, asked again for ever, GOMAXPROCS {}",
                self.threads
            ),
            Side::Publish => {
                "one MultiplexedConnection (RESP3) for the commands and the pushes".to_owned()
            }
        }
    }

    /// Whether the better of rueidislock's modes of tracking for this is that with NOLOOP: each is
    /// run in turns.
    pub fn tracks_better_without_loop(&self, target: &mut Target) -> Result<bool, Failure> {
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 0..3 {
            for (no_loop, rounds) in [false, true].into_iter().zip(&mut rounds) {
                let load = Load {
                    no_loop,
                    seconds: self.seconds.min(0.5),
                    counted: None,
                    ..self.clone()
                };
                let round = format!("{no_loop}:{round}");
                rounds.push(load.run(Side::Rueidislock, &round, &Senders::default(), target)?);
            }
        }
        let [without, with] = rounds;
        let ratio = median(ratios(&with, &without, "per_s").into_iter());
        eprintln!("rueidislock with NoLoopTracking: {ratio:.2} × without");
        Ok(ratio >= 1.0)
    }

    /// A short run under a watch: who sends which command.
    pub fn senders(&self, side: Side, target: &mut Target) -> Result<Senders, Failure> {
        let short = Load {
            seconds: self.seconds.min(0.25),
            counted: None,
            ..self.clone()
        };
        let watch = target.watch()?;
        let run = short.run(side, "watched", &Senders::default(), target);
        let senders = target.watched(watch)?;
        run.and(Ok(senders))
    }

    /// One run of one side.
    pub fn run(
        &self,
        side: Side,
        round: &str,
        senders: &Senders,
        target: &mut Target,
    ) -> Result<Figures, Failure> {
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
                .exec(target.connection()?)?;
        }
        let mut holder = match self.timed {
            Timed::Nothing => Some(Holder::start(self.key(side, round), target)?),
            _ => None,
        };
        let processes = self.tasks.len();
        let mut workers = Vec::new();
        for process in 0..processes {
            let job = self.job(side, round, process, &target.urls(side), &path);
            workers.push(Worker::start(&job)?);
        }
        wait_until(&mut workers, || {
            board.ready.load(Ordering::SeqCst) as usize == processes
        })?;

        board.enter_phase(Phase::WarmUp);
        sleep(WARM_UP);
        let trace = match self.counted {
            Some(Counted::SystemCalls) => {
                let ids: Vec<u32> = workers.iter().map(Worker::id).collect();
                Some(Trace::start(&ids, directory.path())?)
            }
            _ => None,
        };
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
        let calls = trace.map(Trace::finish).transpose()?;

        let tallies = workers
            .into_iter()
            .map(Worker::finish)
            .collect::<Result<Vec<_>, _>>()?;
        let mut figures = figures(&tallies, elapsed);
        let operations = if self.shared {
            figures.set("handoffs_per_s", hand_offs as f64 / elapsed);
            hand_offs as f64
        } else {
            figures.get("per_s") * elapsed
        };
        figures.set("operations", operations);
        let (commands, micros) = counts.sent(senders);
        figures.set("commands_per_s", commands / elapsed / processes as f64);
        let kind = target.kind();
        let spent = |of: fn(&Tally) -> f64| tallies.iter().map(of).sum::<f64>();
        let mut per_op =
            |name: &str, sum: f64| figures.set(&format!("{name}_per_op"), sum / operations);
        per_op("commands", commands);
        match kind {
            Kind::Redis => {
                per_op("messages", counts.reads as f64);
                per_op("server_us", micros);
            }
            Kind::Etcd => {
                for (name, method) in METHODS {
                    per_op(name, counts.calls(method) as f64);
                }
            }
            Kind::Consul => {
                for (name, question) in QUESTIONS {
                    per_op(name, counts.calls(question) as f64);
                }
            }
        }
        per_op("server_cpu_us", counts.cpu_s * 1e6);
        per_op("client_cpu_us", spent(|tally| tally.spent.cpu_s) * 1e6);
        if self.counted.is_none() {
            per_op("switches", spent(|tally| tally.spent.switches as f64));
        }
        if self.counted == Some(Counted::Allocations) && peer::of(side).is_none() {
            per_op("allocations", spent(|tally| tally.spent.allocations as f64));
        }
        for (name, count) in calls.iter().flatten() {
            per_op(name, *count as f64);
        }
        figures.set(
            "violations",
            board.violations.load(Ordering::Relaxed) as f64,
        );
        if self.tasks.iter().any(|tasks| *tasks != self.tasks[0]) {
            self.processes(&tallies, elapsed, &mut figures);
        }
        Ok(figures)
    }

    /// What each process had.
    fn processes(&self, tallies: &[Tally], elapsed: f64, all: &mut Figures) {
        for (process, tally) in tallies.iter().enumerate() {
            let own = figures(std::slice::from_ref(tally), elapsed);
            let mut set = |name: &str, value| all.set(&format!("process_{process}_{name}"), value);
            set("tasks", self.tasks[process] as f64);
            for name in ["per_s", "mean_us", "p99_by_mean", "jain"] {
                set(name, own.get(name));
            }
        }
    }

    fn key(&self, side: Side, round: &str) -> String {
        format!("{}:{}:{}:{round}", self.name, side.name(), self.waiters)
    }

    fn job(&self, side: Side, round: &str, process: usize, url: &str, board: &Path) -> Job {
        Job {
            side,
            url: url.to_owned(),
            board: board.to_owned(),
            process,
            processes: self.tasks.len(),
            tasks: self.tasks[process],
            tasks_before: self.tasks[..process].iter().sum(),
            key: self.key(side, round),
            shared: self.shared,
            section: self.section,
            timed: self.timed,
            threads: self.threads,
            waiters: self.waiters,
            count_allocations: self.counted == Some(Counted::Allocations),
            no_loop: self.no_loop,
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
    let mut times: Histogram<u64> = histogram();
    for (value, count) in tallies.iter().flat_map(|tally| &tally.times) {
        times.saturating_record_n(*value, *count);
    }
    // Without a time there is no median: it must not look like a quick one.
    let micros = |nanos: u64| match times.is_empty() {
        true => f64::NAN,
        false => nanos as f64 / 1e3,
    };
    let mut figures = Figures::default();
    for (name, value) in [
        ("per_s", served.iter().sum::<f64>() / elapsed),
        ("p50_us", micros(times.value_at_quantile(0.5))),
        ("p99_us", micros(times.value_at_quantile(0.99))),
        ("max_us", micros(times.max())),
        ("mean_us", times.mean() * micros(1)),
        (
            "p99_by_mean",
            times.value_at_quantile(0.99) as f64 / times.mean(),
        ),
        ("jain", jain(&served)),
    ] {
        figures.set(name, value);
    }
    figures
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
                .exec(target.connection()?)?;
        }
        Ok(Holder { keys })
    }

    /// Renews by GETEX, which no side sends.
    fn keep(&mut self, time: Duration, target: &mut Target) -> Result<(), Failure> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for key in &self.keys {
                redis::cmd("GETEX")
                    .arg(key)
                    .arg("PX")
                    .arg(TTL.as_millis() as u64)
                    .exec(target.connection()?)?;
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
        let program = match peer::of(job.side) {
            Some(peer) => peer::program(peer)?,
            None => std::env::current_exe()?,
        };
        let child = Command::new(program)
            .arg("worker")
            .arg(serde_json::to_string(job)?)
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Worker(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_without_a_hand_off_has_no_median() {
        let mut tally = Tally::default();
        tally.add(0, &histogram());
        let none = figures(&[tally], 1.0);
        assert!(none.get("p50_us").is_nan() && none.get("mean_us").is_nan());
        assert_eq!(none.get("per_s"), 0.0);

        let (mut tally, mut times) = (Tally::default(), histogram());
        times.saturating_record(5_000);
        tally.add(1, &times);
        let one = figures(&[tally], 1.0);
        assert!((one.get("p50_us") - 5.0).abs() < 0.1 && (one.get("mean_us") - 5.0).abs() < 0.1);
    }

    #[test]
    fn equal_shares_are_fair_and_all_for_one_is_not() {
        assert_eq!(jain(&[3.0; 7]), 1.0);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
