//! A run: servers, processes and faults, and then a look at what is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lock_tests::checker::{Event, Recorder, What, now};
use lock_tests::server::Server;

use crate::admin::Admin;
use crate::agents::Consul;
use crate::cluster::Etcd;
use crate::consul_admin::ConsulAdmin;
use crate::effects::Effects;
use crate::etcd_admin::EtcdAdmin;
use crate::fleet::Fleet;
use crate::plan::{Place, Plan, SHARDS, Schedule, Step, Target, share};
use crate::process_faults::{Lookup, ProcessFaults};
use crate::resource::counter;
use crate::station::{Left, Station};
use crate::verdict::Verdict;
use crate::worker::Orders;

/// The number of a log that is not that of a process.
const NOBODY: u32 = 0;
/// How often to tell how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Carries out `plan`, and says what came of it and where the logs are.
pub(crate) fn run(plan: &Plan) -> Fallible<(Verdict, PathBuf)> {
    let logs = match &plan.logs {
        Some(directory) => directory.clone(),
        None => tempfile::Builder::new()
            .prefix("lock-soak-")
            .tempdir()?
            .keep(),
    };
    std::fs::create_dir_all(&logs)?;
    println!("seed {}, logs in {}", plan.seed, logs.display());

    let resource = Server::start();
    for key in plan.store.keys() {
        let shares = (0..SHARDS).map(|shard| share(&key, shard));
        for name in shares.chain([key.clone()]) {
            resource.forgive(&counter(&name));
            resource.forgive(&format!("{}:fence", counter(&name)));
        }
    }
    let mut stations = Vec::new();
    for place in plan.store.places() {
        stations.push(Troubled::start(place, &logs)?);
    }
    let mut counters = Admin::new(&resource.url(), Duration::from_secs(10))?;
    let lookups = stations.iter().map(Troubled::lookup);
    let lookups = lookups.collect::<Fallible<Vec<Lookup>>>()?;
    let orders = Orders {
        number: NOBODY,
        seed: plan.seed,
        tasks: plan.tasks,
        logs: logs.clone(),
        resource: resource.url(),
        store: plan.store,
        servers: stations.iter().map(Troubled::urls).collect(),
        sabotage: plan.sabotage,
        // An older version knows no others.
        alone: plan.other.is_some(),
    };
    let fleet = Mutex::new(Fleet::start(orders, plan.processes, plan.other.clone())?);

    let calm_since = trouble(plan, &logs, &mut stations, &fleet, lookups, &mut counters)?;
    thread::sleep(plan.store.calm());
    let fleet = fleet.into_inner().unwrap_or_else(PoisonError::into_inner);
    let problems = fleet.end(plan.store.end())?;

    let mut left = Left::default();
    for station in &mut stations {
        left.add(station.leftovers()?);
    }
    let end = log(&logs, "end")?;
    end.append(&left.event())?;
    for key in plan.store.keys() {
        let value: Option<u64> = counters.ask(&["GET", &counter(&key)])?;
        let value = value.unwrap_or(0);
        end.append(&event(&key, What::Counter { value }))?;
    }
    let mut verdict = Verdict::reach(&logs, calm_since, &left, problems)?;
    if plan.other.is_some() {
        verdict.look_for_both_versions(&logs)?;
    }
    Ok((verdict, logs))
}

/// Lets everything fail that the plan says, until its time is up. The time of the last fault.
fn trouble(
    plan: &Plan,
    logs: &Path,
    stations: &mut [Troubled],
    fleet: &Mutex<Fleet>,
    lookups: Vec<Lookup>,
    counters: &mut Admin,
) -> Fallible<u64> {
    let over = AtomicBool::new(false);
    let its_log = log(logs, "process-faults")?;
    let effects = Effects::open(logs, "process-faults")?;
    let mut faults = ProcessFaults::new(fleet, plan.store, lookups, its_log, effects);
    thread::scope(|scope| {
        let mut troubles = Vec::new();
        for (place, station) in plan.store.places().into_iter().zip(stations) {
            let schedule = Schedule::new(plan.seed, Target::Server(place));
            let over = &over;
            troubles
                .push(scope.spawn(move || until_over(over, schedule, |step| station.suffer(step))));
        }
        let schedule = Schedule::new(plan.seed, Target::Processes);
        let over = &over;
        troubles.push(scope.spawn(move || until_over(over, schedule, |step| faults.strike(step))));

        let outcome = watch(plan, logs, counters, || {
            troubles.iter().any(|t| t.is_finished())
        });
        over.store(true, Ordering::Relaxed);
        for trouble in troubles {
            trouble
                .join()
                .map_err(|_| "a thread that causes faults has panicked")??;
        }
        outcome?;
        Ok(now())
    })
}

/// A server, or a cluster of them, with its troubles.
enum Troubled {
    Redis(Box<Station>),
    Etcd(Box<Etcd>),
    Consul(Box<Consul>),
}

impl Troubled {
    fn start(place: Place, logs: &Path) -> Fallible<Troubled> {
        let name = match place {
            Place::Node(node) => format!("server-{node}"),
            _ => format!("server-{place:?}").to_lowercase(),
        };
        let (log, effects) = (log(logs, &name)?, Effects::open(logs, &name)?);
        Ok(match place {
            Place::Cluster => Troubled::Etcd(Box::new(Etcd::start(log, effects))),
            Place::Agents => Troubled::Consul(Box::new(Consul::start(log, effects))),
            place => Troubled::Redis(Box::new(Station::start(place, log, effects)?)),
        })
    }

    /// How to connect, and how without a network between.
    fn urls(&self) -> (String, String) {
        match self {
            Troubled::Redis(station) => (station.url(), station.direct_url()),
            Troubled::Etcd(etcd) => (etcd.url(), etcd.url()),
            Troubled::Consul(consul) => (consul.url(), consul.url()),
        }
    }

    /// What tells who holds its locks and waits for them. The servers fail meanwhile; another is
    /// asked then.
    fn lookup(&self) -> Fallible<Lookup> {
        let patience = Duration::from_millis(100);
        Ok(match self {
            Troubled::Redis(station) => {
                let admin = Admin::new(&station.direct_url(), patience)?;
                Lookup::Redis(Box::new(admin))
            }
            Troubled::Etcd(etcd) => Lookup::Etcd(EtcdAdmin::new(etcd.ports(), patience)),
            Troubled::Consul(consul) => Lookup::Consul(ConsulAdmin::new(consul.ports(), patience)),
        })
    }

    fn suffer(&mut self, step: &Step) -> io::Result<()> {
        match self {
            Troubled::Redis(station) => station.suffer(step),
            Troubled::Etcd(etcd) => etcd.suffer(step),
            Troubled::Consul(consul) => consul.suffer(step),
        }
    }

    fn leftovers(&mut self) -> Fallible<Left> {
        Ok(match self {
            Troubled::Redis(station) => station.leftovers()?,
            Troubled::Etcd(etcd) => etcd.leftovers()?,
            Troubled::Consul(consul) => consul.leftovers()?,
        })
    }
}

fn until_over(
    over: &AtomicBool,
    schedule: Schedule,
    mut cause: impl FnMut(&Step) -> io::Result<()>,
) -> io::Result<()> {
    for step in schedule {
        thread::sleep(step.pause);
        if over.load(Ordering::Relaxed) {
            break;
        }
        cause(&step)?;
    }
    Ok(())
}

/// Tells how far it is, until the time is up or no more faults come.
fn watch(
    plan: &Plan,
    logs: &Path,
    counters: &mut Admin,
    failed: impl Fn() -> bool,
) -> Fallible<()> {
    let started = Instant::now();
    let mut told = started;
    while started.elapsed() < plan.duration && !failed() {
        thread::sleep(Duration::from_millis(100));
        if told.elapsed() < PROGRESS {
            continue;
        }
        told = Instant::now();
        let mut writes = 0;
        for key in plan.store.keys() {
            let count: Option<u64> = counters.ask(&["GET", &counter(&key)])?;
            writes += count.unwrap_or(0);
        }
        let effects = Effects::tally(logs)?;
        println!(
            "{:>5} s: {writes} writes under a lock, {} faults of {} kinds",
            started.elapsed().as_secs(),
            effects.values().sum::<u64>(),
            effects.len()
        );
    }
    Ok(())
}

fn log(logs: &Path, name: &str) -> io::Result<Recorder> {
    Recorder::open_for(logs.join(name).with_extension("jsonl"), NOBODY)
}

fn event(key: &str, what: What) -> Event {
    Event {
        process: NOBODY,
        key: key.to_owned(),
        invoke: now(),
        returned: now(),
        what,
    }
}
