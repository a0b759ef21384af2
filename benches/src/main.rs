//! What the lock costs, beside what others cost, measured in the same run. `benches/README.md` says
//! what each workload shows.

mod bare;
mod board;
mod crowd;
mod heap;
mod held;
mod job;
mod load;
mod nodes;
mod peer;
mod plot;
mod proxy;
mod raw;
mod report;
mod server;
mod side;
mod trace;
mod turns;
mod waiters;
mod wake;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::heap::Counting;
use crate::job::{Job, Section, Timed};
use crate::load::{Counted, Load};
use crate::plot::Series;
use crate::report::Outcome;
use crate::server::{Kind, Target};
use crate::side::{Failure, Side};
use crate::turns::{Row, interleaved};

#[global_allocator]
static HEAP: Counting = Counting::new();

#[derive(Parser)]
#[command(about = "Measures distributed locks on Redis, etcd or Consul, side by side in one run.")]
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
    /// What a pair and a hand-over cost the server, with 64 in flight.
    Server,
    /// Readers, permits and shards: all tasks of several processes want one lock, together.
    Together {
        /// What is done while the lock is held.
        #[arg(long, value_enum, default_value_t = Section::Pause)]
        section: Section,
    },
    /// One more permit with 10 to 10,000 taken, and a hand-over with so many waiting.
    Crowd,
    /// One task and a free lock on five servers, where all are up, two refuse, and two hang.
    Down,
    /// One process of a run; started by the others.
    #[command(hide = true)]
    Worker { job: String },
}

#[derive(Args, Clone)]
struct Options {
    /// How many processes want the locks.
    #[arg(long, global = true)]
    processes: Option<usize>,
    /// How many tasks each process has; several numbers: one for each process.
    #[arg(long, global = true, value_delimiter = ',')]
    tasks: Option<Vec<usize>>,
    /// How many worker threads each process has.
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// For how long a side is measured in one round.
    #[arg(long, global = true)]
    seconds: Option<f64>,
    /// How often each side is measured.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
    /// Measures in so many turns of a quarter of a second at most, in random order, and prints
    /// ratios with intervals.
    #[arg(long, global = true, conflicts_with = "rounds")]
    turns: Option<usize>,
    /// With --turns: what the ratios are to, another build of this program.
    #[arg(long, global = true, requires = "turns")]
    against: Option<PathBuf>,
    /// The sides, in the order in which they are run; all that fit the workload if not given.
    #[arg(long, global = true, value_delimiter = ',')]
    sides: Option<Vec<Side>>,
    /// What ratios are to, if not the raw commands and rueidislock; with --turns, the first side
    /// where neither is measured.
    #[arg(long, global = true, value_delimiter = ',')]
    to: Option<Vec<Side>>,
    /// Where the locks are: etcd and Consul for `uncontended`, `many-keys` and `hot-key` alone.
    #[arg(long, global = true, value_enum, default_value_t = Kind::Redis, conflicts_with_all = ["url", "delay"])]
    store: Kind,
    /// What holds the locks: five servers for `uncontended`, `hot-key` and `down` alone.
    #[arg(long, global = true, value_enum, default_value_t = Topology::Single, conflicts_with_all = ["url", "delay", "store"])]
    topology: Topology,
    /// The server; one is started if not given.
    #[arg(long, global = true)]
    url: Option<String>,
    /// Adds so much each way between clients and server, as in `100us`.
    #[arg(long, global = true, value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Counts this as well.
    #[arg(long, global = true, value_enum)]
    count: Option<Counted>,
    /// Runs the clients and the server on one core.
    #[arg(long, global = true)]
    pin: bool,
    /// Prints one line of JSON for each side instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

/// What holds the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Topology {
    /// One server.
    Single,
    /// A majority of five.
    Redlock,
}

fn main() -> Result<(), Failure> {
    let Command { workload, options } = Command::parse();
    if let Workload::Worker { job } = &workload {
        return work(serde_json::from_str(job)?);
    }
    if options.pin {
        pin()?;
    }
    if let Some(other) = &options.against {
        return options.against(other);
    }
    if options.topology == Topology::Redlock || matches!(workload, Workload::Down) {
        return options.on_five(&workload);
    }
    let is_elsewhere = matches!(
        workload,
        Workload::Uncontended | Workload::ManyKeys | Workload::HotKey { .. }
    );
    if options.store != Kind::Redis && !is_elsewhere {
        return Err("this workload is measured on Redis alone".into());
    }
    let mut target = match options.store {
        Kind::Redis => Target::open(options.url.as_deref(), options.delay)?,
        Kind::Etcd => Target::etcd(),
        Kind::Consul => Target::consul(),
    };
    let (free, pair) = (Section::Free, Timed::Pair);
    match workload {
        Workload::Worker { .. } | Workload::Down => Ok(()),
        Workload::Uncontended => {
            let load = options.load("uncontended", (1, 1), false, free, pair)?;
            let mut sides = options.with(&[Side::Backend]);
            match options.store {
                Kind::Redis => {}
                Kind::Etcd => sides.push(Side::EtcdRaw),
                Kind::Consul => sides.push(Side::Bare),
            }
            options.compare(load, &sides, &mut target)
        }
        Workload::ManyKeys => {
            let load = options.load("many-keys", (1, 256), false, free, pair)?;
            let sides = options.with(&[Side::Backend, Side::Pool]);
            options.compare(load, &sides, &mut target)
        }
        Workload::HotKey { section, plot } => {
            let load = options.load("hot-key", (4, 64), true, section, Timed::Wait)?;
            let sides = options.with(&[Side::Ring]);
            match plot {
                Some(file) => options.draw(&load, &file, &mut target),
                None => options.compare(load, &sides, &mut target),
            }
        }
        Workload::PingPong => {
            let load = options.load("ping-pong", (2, 1), true, Section::Pause, Timed::HandOff)?;
            let sides = [
                Side::Ours,
                Side::Publish,
                Side::Ring,
                Side::Raw,
                Side::Rslock,
                Side::Rlock,
                Side::Rueidislock,
            ];
            options.compare(load, &sides, &mut target)
        }
        Workload::Idle => {
            let mut load = options.load("idle", (4, 64), true, free, Timed::Nothing)?;
            load.seconds = options.seconds.unwrap_or(20.0);
            let sides = [Side::Ours, Side::Raw, Side::Rslock, Side::Rlock];
            options.compare(load, &sides, &mut target)
        }
        Workload::Held => held::run(
            options.tasks.as_ref().map_or(10_000, |tasks| tasks[0]),
            options.seconds.unwrap_or(60.0),
            options.rounds,
            options.json,
            &mut target,
        ),
        Workload::Waiters => {
            let load = options.load("waiters", (1, 1), false, free, pair)?;
            let row = |waiters| Row {
                name: format!("{waiters} waiters"),
                side: Side::HandOver,
                load: Load {
                    waiters,
                    ..load.clone()
                },
            };
            options
                .measure(&[10, 100, 1_000, 10_000].map(row), &mut target)
                .map(drop)
        }
        Workload::Server => {
            let load = options.load("server", (1, 64), false, free, pair)?;
            let sides = [Side::Pipeline, Side::Backend, Side::HandOver];
            options.compare(load, &sides, &mut target)
        }
        Workload::Together { section } => {
            let load = options.load("together", (4, 64), true, section, Timed::Wait)?;
            let sides = [
                Side::Ours,
                Side::Shared,
                Side::Permits,
                Side::Shards,
                Side::Parts,
            ];
            options.compare(load, &sides, &mut target)
        }
        Workload::Crowd => {
            let load = options.load("crowd", (1, 1), false, free, pair)?;
            let row = |(side, of, waiters)| Row {
                name: format!("{waiters} {of}"),
                side,
                load: Load {
                    waiters,
                    ..load.clone()
                },
            };
            let (holders, waiters) = (Side::Crowd, Side::CrowdQueue);
            let rows = [
                (holders, "holders", 10),
                (holders, "holders", 10_000),
                (waiters, "waiters", 10),
                (waiters, "waiters", 10_000),
            ];
            options.measure(&rows.map(row), &mut target).map(drop)
        }
    }
}

const ALL: [Side; 7] = [
    Side::Ours,
    Side::OursRemote,
    Side::Raw,
    Side::Rslock,
    Side::Rlock,
    Side::Rueidislock,
    Side::None,
];

/// What ratios are to, where it is measured.
const BASES: [Side; 9] = [
    Side::Raw,
    Side::Pipeline,
    Side::Rueidislock,
    Side::Mutex,
    Side::EtcdRaw,
    Side::ApiLock,
    Side::Bare,
    Side::RedlockRaw,
    Side::Redsync,
];

/// The sides of a comparison on etcd.
const ON_ETCD: [Side; 4] = [Side::Ours, Side::OursRemote, Side::Mutex, Side::None];

/// The sides of a comparison on Consul.
const ON_CONSUL: [Side; 4] = [Side::Ours, Side::OursRemote, Side::ApiLock, Side::None];

impl Options {
    /// The sides that fit every workload, and these, which are of Redis alone.
    fn with(&self, more: &[Side]) -> Vec<Side> {
        match self.store {
            Kind::Redis => [&ALL[..], more].concat(),
            Kind::Etcd => ON_ETCD.to_vec(),
            Kind::Consul => ON_CONSUL.to_vec(),
        }
    }

    fn load(
        &self,
        name: &'static str,
        (processes, tasks): (usize, usize),
        shared: bool,
        section: Section,
        timed: Timed,
    ) -> Result<Load, Failure> {
        let tasks = match self.tasks.as_deref() {
            None => vec![tasks; self.processes.unwrap_or(processes)],
            Some([tasks]) => vec![*tasks; self.processes.unwrap_or(processes)],
            Some(tasks) if self.processes.is_none_or(|number| number == tasks.len()) => {
                tasks.to_vec()
            }
            Some(_) => return Err("--tasks names one number, or one for each process".into()),
        };
        let seconds = self.seconds.unwrap_or(2.0);
        Ok(Load {
            name,
            tasks,
            seconds: match self.turns {
                Some(_) => seconds.min(turns::LONGEST),
                None => seconds,
            },
            shared,
            section,
            timed,
            threads: self.threads.into(),
            waiters: 16,
            counted: self.count,
            no_loop: false,
        })
    }

    /// The workloads that there are for a majority of five servers.
    fn on_five(&self, workload: &Workload) -> Result<(), Failure> {
        if self.url.is_some() || self.delay.is_some() || self.store != Kind::Redis {
            return Err("five servers are started, without --url, --delay and --store".into());
        }
        let (free, pair) = (Section::Free, Timed::Pair);
        let (load, sides) = match workload {
            Workload::Uncontended => (
                self.load("uncontended", (1, 1), false, free, pair)?,
                vec![Side::Redlock, Side::RedlockRaw, Side::Redsync],
            ),
            Workload::HotKey {
                section: Section::Free,
                plot: None,
            } => (
                self.load("hot-key", (4, 64), true, free, Timed::Wait)?,
                vec![Side::Redlock, Side::RedlockRemote, Side::Redsync],
            ),
            Workload::Down => (
                self.load("down", (1, 1), false, free, pair)?,
                vec![Side::Redlock, Side::RedlockTwoRefuse, Side::RedlockTwoHang],
            ),
            _ => return Err("there is no such workload on five servers".into()),
        };
        self.compare(load, &sides, &mut Target::open_nodes()?)
    }

    fn draw(&self, load: &Load, file: &Path, target: &mut Target) -> Result<(), Failure> {
        let sides = self.sides.as_deref().unwrap_or(&CONTENDERS);
        let mut series: Vec<Series> = sides.iter().map(|side| (*side, Vec::new())).collect();
        for tasks in [1, 4, 16, 64, 256] {
            let load = Load {
                tasks: vec![tasks; load.tasks.len()],
                ..load.clone()
            };
            let waiters = load.tasks.iter().sum::<usize>() as f64;
            let outcome = interleaved(&rows(&load, sides), self.rounds, false, target)?;
            for ((_, points), (_, rounds)) in series.iter_mut().zip(outcome) {
                points.push((waiters, report::medians(&rounds)));
            }
        }
        plot::draw(file, &series)
    }

    fn compare(&self, mut load: Load, sides: &[Side], target: &mut Target) -> Result<(), Failure> {
        let asked = self.sides.as_deref();
        let mut sides = asked.unwrap_or(sides).to_vec();
        for side in sides.clone() {
            let Some(peer) = peer::of(side) else {
                continue;
            };
            match peer::program(peer) {
                Err(error) if asked.is_none() => {
                    eprintln!("{} is left out: {error}", side.name());
                    sides.retain(|other| *other != side);
                }
                program => {
                    program?;
                    if side == Side::Rueidislock {
                        load.no_loop = load.tracks_better_without_loop(target)?;
                    }
                }
            }
        }
        let outcome = self.measure(&rows(&load, &sides), target)?;
        let is_hot = load.name == "hot-key" && load.section == Section::Free;
        match is_hot && load.tasks.iter().all(|tasks| *tasks >= 64) {
            true => peer::check(&outcome),
            false => Ok(()),
        }
    }

    /// Measures `rows` and prints what came of it.
    fn measure(&self, rows: &[Row], target: &mut Target) -> Result<Outcome, Failure> {
        let rounds = self.turns.unwrap_or(self.rounds);
        let outcome = interleaved(rows, rounds, self.turns.is_some(), target)?;
        let Some(Row { load, .. }) = rows.first() else {
            return Ok(outcome);
        };
        let asked = self.to.as_deref();
        let bases = asked.unwrap_or(match load.name {
            "down" => &[Side::Redlock],
            _ => &BASES,
        });
        let is_base = |name: &str| bases.iter().any(|base| base.name() == name);
        let mut bases: Vec<_> = outcome.iter().filter(|(name, _)| is_base(name)).collect();
        if bases.is_empty() && self.turns.is_some() {
            bases.push(&outcome[0]);
        }
        if self.json {
            report::json(load.name, &outcome);
        } else {
            println!(
                "{}: tasks by process {:?}, {} s a round, medians of {rounds} rounds, {} worker threads, {}{}\n",
                load.name,
                load.tasks,
                load.seconds,
                load.threads,
                target.version()?,
                if self.pin { ", all on one core" } else { "" },
            );
            for Row { name, side, load } in rows {
                println!("- {name}: {}", load.settings(*side));
            }
            println!();
            report::table(&outcome, &bases);
        }
        if self.turns.is_some() {
            let pairs = bases.iter().flat_map(|(base, others)| {
                let sides = outcome.iter().filter(move |(name, _)| name != base);
                sides.map(move |(name, rounds)| {
                    (name.as_str(), &rounds[..], base.as_str(), &others[..])
                })
            });
            report::compared(load.name, pairs, self.json);
        }
        if let Some(reached) = target.reached()? {
            eprintln!("{reached}");
        }
        Ok(outcome)
    }

    /// Compares this build with another.
    fn against(&self, other: &Path) -> Result<(), Failure> {
        let mut command = Vec::new();
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            let name = argument.split('=').next().unwrap_or_default();
            match name {
                "--turns" | "--against" | "--seconds" if name == argument => drop(given.next()),
                "--turns" | "--against" | "--seconds" | "--json" => {}
                _ => command.push(argument),
            }
        }
        let seconds = self.seconds.unwrap_or(turns::LONGEST).min(turns::LONGEST);
        command.extend(["--seconds".to_owned(), seconds.to_string()]);
        let [this, that] = turns::against(other, &command, self.turns.unwrap_or(self.rounds))?;
        let theirs = other.display().to_string();
        let pairs = this.iter().filter_map(|(name, rounds)| {
            let (_, others) = that.iter().find(|(side, _)| side == name)?;
            Some((name.as_str(), &rounds[..], theirs.as_str(), &others[..]))
        });
        report::compared(&command[0], pairs, self.json);
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

/// The same load on all of `sides`.
fn rows(load: &Load, sides: &[Side]) -> Vec<Row> {
    let row = |side: &Side| Row {
        name: side.name().to_owned(),
        side: *side,
        load: load.clone(),
    };
    sides.iter().map(row).collect()
}

/// Does one process's part of a run.
fn work(job: Job) -> Result<(), Failure> {
    if job.count_allocations {
        HEAP.count();
    }
    let tally = match job.side {
        Side::Ring => wake::ring(&job)?,
        // As a task like any other, on a runtime that is the same on every side.
        _ => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(job.threads)
            .enable_all()
            .build()?
            .block_on(async { tokio::spawn(worker::run(job)).await? })?,
    };
    println!("{}", serde_json::to_string(&tally)?);
    Ok(())
}

/// Keeps this process, and those it starts, on one core.
fn pin() -> Result<(), Failure> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(0);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}
