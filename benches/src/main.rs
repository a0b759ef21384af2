//! What the lock costs, beside what others cost, measured in the same run. `benches/README.md` says what each workload shows.

mod board;
mod heap;
mod held;
mod job;
mod load;
mod plot;
mod report;
mod server;
mod side;
mod waiters;
mod wake;
mod worker;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::heap::Counting;
use crate::job::{Job, Section, Timed};
use crate::load::{Load, interleaved};
use crate::plot::Series;
use crate::server::Target;
use crate::side::{Failure, Side};

#[global_allocator]
static HEAP: Counting = Counting::new();

#[derive(Parser)]
#[command(about = "Measures distributed locks on Redis, side by side in one run.")]
struct Command {
    #[command(subcommand)]
    workload: Workload,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Workload {
    /// One task that takes and releases one lock nobody else wants.
    Uncontended,
    /// 256 tasks with a lock each.
    ManyKeys,
    /// All tasks of several processes want one lock.
    HotKey {
        /// What is done while the lock is held.
        #[arg(long, value_enum, default_value_t = Section::Free)]
        section: Section,
        /// Draws hand-offs a second and p99 wait against the number of waiters into this file.
        #[arg(long)]
        plot: Option<PathBuf>,
    },
    /// Two processes hand one lock to and fro.
    PingPong,
    /// Waiters of several processes behind one holder: what they send while they wait.
    Idle,
    /// 10,000 leases held under renewal: memory, renewals and what they cost.
    Held,
    /// One lock handed from claim to claim, with 10 to 10,000 of them in the queue.
    Waiters,
    /// One process of a run; started by the others.
    #[command(hide = true)]
    Worker { job: String },
}

#[derive(Args, Clone)]
struct Options {
    /// How many processes want the locks.
    #[arg(long, global = true)]
    processes: Option<usize>,
    /// How many tasks each process has.
    #[arg(long, global = true)]
    tasks: Option<usize>,
    /// For how long a side is measured in one round.
    #[arg(long, global = true)]
    seconds: Option<f64>,
    /// How often each side is measured.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
    /// The sides, in the order in which they are run; all that fit the workload if not given.
    #[arg(long, global = true, value_delimiter = ',')]
    sides: Option<Vec<Side>>,
    /// The server; one is started if not given.
    #[arg(long, global = true)]
    url: Option<String>,
    /// Runs the clients and the server on one core.
    #[arg(long, global = true)]
    pin: bool,
    /// Prints one line of JSON for each side instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> Result<(), Failure> {
    let Command { workload, options } = Command::parse();
    if let Workload::Worker { job } = &workload {
        let job: Job = serde_json::from_str(job)?;
        if job.timed == Timed::Held {
            HEAP.count();
        }
        let tally = on_tokio(worker::run(job))?;
        println!("{}", serde_json::to_string(&tally)?);
        return Ok(());
    }
    if options.pin {
        pin()?;
    }
    let mut target = Target::open(options.url.as_deref())?;
    match workload {
        Workload::Worker { .. } => Ok(()),
        Workload::Uncontended => {
            let load = options.load("uncontended", (1, 1), false, Section::Free, Timed::Pair);
            let sides = [&ALL[..], &[Side::Backend]].concat();
            options.compare(&load, &sides, &mut target)
        }
        Workload::ManyKeys => {
            let load = options.load("many-keys", (1, 256), false, Section::Free, Timed::Pair);
            let sides = [&ALL[..], &[Side::Backend, Side::Pool]].concat();
            options.compare(&load, &sides, &mut target)
        }
        Workload::HotKey { section, plot } => {
            let load = options.load("hot-key", (4, 64), true, section, Timed::Wait);
            match plot {
                Some(file) => options.draw(&load, &file, &mut target),
                None => options.compare(&load, &ALL, &mut target),
            }
        }
        Workload::PingPong => {
            let load = options.load("ping-pong", (2, 1), true, Section::Pause, Timed::HandOff);
            let sides = [
                Side::Ours,
                Side::Publish,
                Side::Raw,
                Side::Rslock,
                Side::Rlock,
            ];
            options.compare(&load, &sides, &mut target)
        }
        Workload::Idle => {
            let mut load = options.load("idle", (4, 64), true, Section::Free, Timed::Nothing);
            load.seconds = options.seconds.unwrap_or(20.0);
            let sides = [Side::Ours, Side::Raw, Side::Rslock, Side::Rlock];
            options.compare(&load, &sides, &mut target)
        }
        Workload::Held => held::run(
            options.tasks.unwrap_or(10_000),
            options.seconds.unwrap_or(60.0),
            options.rounds,
            options.json,
            &mut target,
        ),
        Workload::Waiters => options.waiters(target),
    }
}

const ALL: [Side; 6] = [
    Side::Ours,
    Side::OursRemote,
    Side::Raw,
    Side::Rslock,
    Side::Rlock,
    Side::None,
];

impl Options {
    fn load(
        &self,
        name: &'static str,
        (processes, tasks): (usize, usize),
        shared: bool,
        section: Section,
        timed: Timed,
    ) -> Load {
        Load {
            name,
            processes: self.processes.unwrap_or(processes),
            tasks: self.tasks.unwrap_or(tasks),
            seconds: self.seconds.unwrap_or(2.0),
            shared,
            section,
            timed,
        }
    }

    fn draw(&self, load: &Load, file: &Path, target: &mut Target) -> Result<(), Failure> {
        let sides = self.sides.as_deref().unwrap_or(&CONTENDERS);
        let mut series: Vec<Series> = sides.iter().map(|side| (*side, Vec::new())).collect();
        for tasks in [1, 4, 16, 64, 256] {
            let load = Load {
                tasks,
                ..load.clone()
            };
            let outcome = interleaved(&load, sides, self.rounds, target)?;
            for ((_, points), (_, rounds)) in series.iter_mut().zip(outcome) {
                points.push(((load.processes * tasks) as f64, report::medians(&rounds)));
            }
        }
        plot::draw(file, &series)
    }

    fn waiters(&self, mut target: Target) -> Result<(), Failure> {
        let (rounds, seconds, json) = (self.rounds, self.seconds.unwrap_or(1.0), self.json);
        let mut outcome = waiters::NUMBERS.map(|number| (format!("{number} waiters"), Vec::new()));
        on_tokio(async move {
            for round in 0..rounds {
                let figures = waiters::measure(&mut target, seconds, round).await?;
                for ((_, rounds), figures) in outcome.iter_mut().zip(figures) {
                    rounds.push(figures);
                }
            }
            let outcome: Vec<_> = outcome
                .iter()
                .map(|(name, rounds)| (name.as_str(), rounds.clone()))
                .collect();
            if json {
                report::json("waiters", &outcome);
            } else {
                println!("waiters: {seconds} s a round, medians of {rounds} rounds\n");
                report::table(&outcome);
            }
            Ok(())
        })
    }

    fn compare(&self, load: &Load, sides: &[Side], target: &mut Target) -> Result<(), Failure> {
        let sides = self.sides.as_deref().unwrap_or(sides);
        let outcome = interleaved(load, sides, self.rounds, target)?;
        let outcome: Vec<_> = outcome
            .into_iter()
            .map(|(side, rounds)| (side.name(), rounds))
            .collect();
        if self.json {
            report::json(load.name, &outcome);
        } else {
            println!(
                "{}: {} × {} tasks, {} s a round, medians of {} rounds, Redis {}{}\n",
                load.name,
                load.processes,
                load.tasks,
                load.seconds,
                self.rounds,
                target.version()?,
                if self.pin { ", all on one core" } else { "" },
            );
            for side in sides {
                println!("- {}: {}", side.name(), side.settings());
            }
            println!();
            report::table(&outcome);
        }
        Ok(())
    }
}

/// The sides of the plot: those that wait for one another.
const CONTENDERS: [Side; 5] = [
    Side::Ours,
    Side::OursRemote,
    Side::Raw,
    Side::Rslock,
    Side::Rlock,
];

/// Runs `future` on a tokio runtime of two threads, the same on every side, as a task like any other.
fn on_tokio<T: Send + 'static>(
    future: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async { tokio::spawn(future).await? })
}

/// Keeps this process, and those it starts, on one core.
fn pin() -> Result<(), Failure> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(0);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}
