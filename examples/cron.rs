//! How does a job run once a tick, though twenty servers start it?
//!
//! Twenty processes start the job at every tick, each a little early or late, as their clocks have
//! it. `on_taken = skip` lets those go that come while another is at it, and `min_hold` those that
//! come when it has ended already, for as long as the clocks may differ. Two of the processes die
//! on the way, at work: nobody does their tick again, and the next tick is not missed.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example cron
//! 10 ticks, 20 processes, 2 died at work: 10 runs, 0 ticks without a run, 0 with several
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example cron -- --without-minimum
//! 10 ticks, 20 processes, 2 died at work: 48 runs, 0 ticks without a run, 8 with several
//! ```

use std::time::{Duration, SystemTime};

use clap::Parser;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};
use tokio::time::sleep;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs in one process a tick, whatever the others' clocks say: they differ by less than its
/// minimum.
#[distributed_lock(
    key = "cron:<log.name>",
    on_taken = skip,
    ttl = log.tick / 2,
    min_hold = log.tick * 2 / 3,
)]
async fn report(log: &Log, tick: u64) -> Result<(), JobError> {
    log.run(tick).await
}

#[distributed_lock(key = "cron:<log.name>", on_taken = skip, ttl = log.tick / 2)]
async fn report_without_minimum(log: &Log, tick: u64) -> Result<(), JobError> {
    log.run(tick).await
}

#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// Where it is noted which ticks had a run.
struct Log {
    name: String,
    tick: Duration,
    /// The ticks at which whoever runs the job dies.
    deaths: Vec<u64>,
    connection: MultiplexedConnection,
}

impl Log {
    async fn open(name: String, args: &Args) -> Result<Log, BoxError> {
        let url = std::env::var("LOCK_URL").map_err(|_| "set LOCK_URL=redis://…")?;
        let client = redis::Client::open(url)?;
        Ok(Log {
            name,
            tick: Duration::from_millis(args.tick),
            deaths: vec![args.ticks / 3, args.ticks * 2 / 3],
            connection: client.get_multiplexed_async_connection().await?,
        })
    }

    /// The job itself, which takes a while.
    async fn run(&self, tick: u64) -> Result<(), JobError> {
        let mut connection = self.connection.clone();
        let () = connection.hincr(self.key(), tick, 1).await?;
        sleep(self.tick / 50).await;
        if self.deaths.contains(&tick) {
            std::process::exit(DIED);
        }
        Ok(())
    }

    async fn runs(&self, tick: u64) -> Result<u64, redis::RedisError> {
        let runs: Option<u64> = self.connection.clone().hget(self.key(), tick).await?;
        Ok(runs.unwrap_or(0))
    }

    async fn burn(&self) -> Result<(), redis::RedisError> {
        self.connection.clone().del(self.key()).await
    }

    fn key(&self) -> String {
        format!("example:cron:{}", self.name)
    }
}

/// What a process says by its end that died at work.
const DIED: i32 = 7;

/// Many processes that start a job at every tick.
#[derive(Parser)]
struct Args {
    /// How many processes there are.
    #[arg(long, default_value_t = 20)]
    processes: u32,
    /// How many ticks there are.
    #[arg(long, default_value_t = 10)]
    ticks: u64,
    /// Milliseconds from one tick to the next.
    #[arg(long, default_value_t = 1_000)]
    tick: u64,
    /// Show what happens if the job is only skipped while another runs it.
    #[arg(long)]
    without_minimum: bool,
    /// Be one of the processes, for the log of this name.
    #[arg(long, hide = true)]
    log: Option<String>,
    /// Its number.
    #[arg(long, hide = true, default_value_t = 0)]
    number: u32,
    /// When the first tick is, in milliseconds of the clock on the wall.
    #[arg(long, hide = true, default_value_t = 0)]
    begin: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    match &args.log {
        Some(name) => work(name.clone(), &args).await,
        None => start(&args).await,
    }
}

/// One process: starts the job at every tick, as its clock has it.
async fn work(name: String, args: &Args) -> Result<(), BoxError> {
    let log = Log::open(name, args).await?;
    LockRuntime::from_env().build().await?.install()?;
    // Clocks differ by up to a fifth of a tick.
    let skew = log.tick / 5 * args.number / args.processes;
    for tick in 1..=args.ticks {
        let at = Duration::from_millis(args.begin + tick * args.tick) + skew;
        sleep(at.saturating_sub(on_the_wall()?)).await;
        let outcome = if args.without_minimum {
            report_without_minimum(&log, tick).await
        } else {
            report(&log, tick).await
        };
        if let Err(error) = outcome {
            eprintln!("tick {tick}: {error}");
        }
    }
    Ok(LockRuntime::global()?.shutdown().await?)
}

fn on_the_wall() -> Result<Duration, BoxError> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

/// Starts the processes, and counts the runs afterwards.
async fn start(args: &Args) -> Result<(), BoxError> {
    let log = Log::open(uuid::Uuid::new_v4().to_string(), args).await?;
    // All have started by then.
    let begin = on_the_wall()? + Duration::from_secs(3);
    let processes = (0..args.processes).map(|number| process(number, begin, &log, args));
    let mut processes = processes.collect::<Result<Vec<Child>, BoxError>>()?;
    let mut died = 0;
    for process in &mut processes {
        let status = process.wait().await?;
        match status.code() {
            Some(0) => {}
            Some(DIED) => died += 1,
            _ => return Err(format!("a process ended with {status}").into()),
        }
    }
    let (mut runs, mut without, mut several) = (0, 0, 0);
    for tick in 1..=args.ticks {
        let at_tick = log.runs(tick).await?;
        runs += at_tick;
        without += u64::from(at_tick == 0);
        several += u64::from(at_tick > 1);
    }
    let (ticks, processes) = (args.ticks, args.processes);
    println!(
        "{ticks} ticks, {processes} processes, {died} died at work: {runs} runs, {without} ticks without a run, {several} with several"
    );
    Ok(log.burn().await?)
}

/// A process: this program, started once more.
fn process(number: u32, begin: Duration, log: &Log, args: &Args) -> Result<Child, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--log", &log.name, "--number", &number.to_string()]);
    command.args(["--processes", &args.processes.to_string()]);
    command.args(["--ticks", &args.ticks.to_string(), "--tick"]);
    command.args([&args.tick.to_string(), "--begin"]);
    command.arg(begin.as_millis().to_string());
    if args.without_minimum {
        command.arg("--without-minimum");
    }
    Ok(command.kill_on_drop(true).spawn()?)
}
