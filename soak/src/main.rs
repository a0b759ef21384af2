//! Locks of real processes on real servers while everything fails, and what came of them.
//!
//! ```text
//! run ── plan: which faults, from the seed
//!  ├── station: a Redis server and its troubles (4 or 5 of them)  ─┐
//!  ├── cluster: or three members of etcd and theirs                │
//!  ├── agents: or three servers of Consul and theirs               │
//!  ├── process_faults: kills and stops those that hold and wait    ├── effects: faults that were seen to take effect
//!  ├── fleet: the processes ── worker ── turn: what callers do    ─┘
//!  │                           └── witness: whom the store queues and serves
//!  ├── resource: what the locks protect, on a server without troubles
//!  └── verdict: the checker over all logs, and what is left
//! recovery: how soon somebody has the lock again after a kill
//! ```

mod admin;
mod agents;
mod cluster;
mod consul_admin;
mod effects;
mod etcd_admin;
mod fleet;
mod members;
#[cfg(feature = "peers")]
mod peers;
mod plan;
mod process_faults;
mod recovery;
mod resource;
mod run;
mod sabotage;
mod shared;
mod station;
mod turn;
mod verdict;
mod witness;
mod worker;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, ValueExt};

use crate::plan::{Plan, Sabotage, Store};
use crate::recovery::Recovery;
use crate::station::Left;
use crate::verdict::Verdict;

const USAGE: &str = "\
Usage: lock-soak [--store redis|redlock|etcd|consul] [--minutes M] [--seed S] [--processes P] [--tasks T]
                 [--logs DIRECTORY] [--other PROGRAM]
                 [--sabotage double-grant|low-fence|overtake|leak-key|hang|short-keep|no-fence|
                             no-restart-delay|permit-too-many|reader-beside-writer|shard-twice]
       lock-soak judge DIRECTORY
       lock-soak recovery [KILLS]
       lock-soak peers

Lets P processes with T tasks each (4 and 16, if not said) take locks for M minutes (10) while
servers, network and processes fail. The locks are on single Redis servers, of which each suffers
from something else (redis, if not said), on five, of which a majority holds the locks (redlock, also
by --topology redlock), or on three members of etcd or servers of Consul, which know no sabotage but
no-fence. Each overlap of leases that a fault permits is printed with that fault. With another version of this program every
second process is of that. The last line of the output is a JSON object with what was seen. Exits
with 1 if a promise was broken.

`judge` looks again at the logs of a run. `recovery` kills so many holders (200), a quarter as many
waiters and a tenth as many servers, and tells how soon somebody has the lock again. `peers`, in a
build with that feature, causes the same faults to other libraries.";

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["worker", orders] => {
            let orders = serde_json::from_str(orders)?;
            return worker::main(&orders).map(|()| ExitCode::SUCCESS);
        }
        ["victim", url, key] => return recovery::be_victim(url, key).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "peers")]
        ["peers"] => return compared(peers::compare()),
        #[cfg(feature = "peers")]
        ["peer", library, url, key, millis] => {
            return compared(peers::be_holder(library, url, key, millis));
        }
        ["judge", logs] => {
            let verdict = Verdict::reach(Path::new(logs), 0, &Left::default(), Vec::new())?;
            println!("{verdict}");
            return Ok(verdict.exit_code());
        }
        ["recovery"] => return recovery(200),
        ["recovery", kills] => return recovery(kills.parse()?),
        _ => {}
    }
    let Some(plan) = read_plan()? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let (verdict, logs) = run::run(&plan)?;
    println!("{verdict}");
    if !verdict.problems.is_empty() {
        eprintln!(
            "{} violations; the logs are in {}",
            verdict.problems.len(),
            logs.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    if plan.logs.is_none() {
        std::fs::remove_dir_all(logs)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "peers")]
fn compared(outcome: Result<(), lock_peers::Failure>) -> Result<ExitCode, Box<dyn Error>> {
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) => Err(failure),
    }
}

fn recovery(kills: usize) -> Result<ExitCode, Box<dyn Error>> {
    let recovery = Recovery::measure(kills)?;
    println!("{recovery}");
    Ok(if recovery.is_in_time() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The plan that the command line asks for; `None` if it asks for help.
fn read_plan() -> Result<Option<Plan>, lexopt::Error> {
    let mut plan = Plan {
        seed: fastrand::u64(..),
        duration: Duration::from_secs(600),
        store: Store::default(),
        processes: 4,
        tasks: 16,
        sabotage: None,
        other: None,
        logs: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("minutes") => {
                let minutes: f64 = parser.value()?.parse()?;
                plan.duration = Duration::try_from_secs_f64(minutes * 60.0)
                    .map_err(|_| "that is no number of minutes")?;
            }
            Long("store" | "topology") => {
                let known = Store::parse(&parser.value()?.string()?);
                plan.store = known.ok_or("there is no store of that name")?;
            }
            Long("seed") => plan.seed = parser.value()?.parse()?,
            Long("processes") => plan.processes = parser.value()?.parse()?,
            Long("tasks") => plan.tasks = parser.value()?.parse()?,
            Long("logs") => plan.logs = Some(PathBuf::from(parser.value()?)),
            Long("sabotage") => {
                let sabotage = parser.value()?.string()?;
                let known = Sabotage::parse(&sabotage);
                plan.sabotage = Some(known.ok_or("there is no sabotage of that name")?);
            }
            Long("other") => plan.other = Some(PathBuf::from(parser.value()?)),
            Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    match plan.sabotage {
        Some(sabotage) if !plan.store.has_protection(sabotage) => {
            Err("this store has no protection like that".into())
        }
        _ => Ok(Some(plan)),
    }
}
