//! A process that takes locks, holds them and writes to what they protect, until it is told to stop
//! or dies.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lock_conformance::Decorated;
use lock_runtime::consul::{ConsulBackend, ConsulSettings};
use lock_runtime::etcd::{EtcdBackend, EtcdSettings};
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_runtime::redlock::{RedlockBackend, RedlockSettings};
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::checker::{Leftovers, Recorder, What, now};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::effects::Effects;
use crate::plan::{GRACE, HEARTBEAT, KEYS, Sabotage, Store};
use crate::resource::Resource;
use crate::sabotage::Saboteur;
use crate::shared::Worker;
use crate::turn::{PLANNED_PANIC, Turn};
use crate::witness::Witness;

/// What runs for each server while nothing goes on: its lane, the task of its connection, and
/// what leaves the card of the process.
const IDLE_TASKS: usize = 3;
/// By when everything has come to rest.
const REST: Duration = Duration::from_secs(10);

/// What a process is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Which process of the run.
    pub(crate) number: u32,
    pub(crate) seed: u64,
    pub(crate) tasks: usize,
    pub(crate) logs: PathBuf,
    /// Where the resource is.
    pub(crate) resource: String,
    /// What holds the locks; older versions know it by the other name.
    #[serde(rename = "topology", default)]
    pub(crate) store: Store,
    /// Where the lock servers are: how to connect to them, and, for sabotage, without a network
    /// between, in the order of [`Store::places`].
    pub(crate) servers: Vec<(String, String)>,
    pub(crate) sabotage: Option<Sabotage>,
    /// Whether each lock is held alone.
    #[serde(default)]
    pub(crate) alone: bool,
}

/// Runs the process; it ends when its standard input does.
pub(crate) fn main(orders: &Orders) -> Result<(), Box<dyn std::error::Error>> {
    std::panic::set_hook(Box::new(|panic| {
        // The planned ones say nothing.
        if panic.payload().downcast_ref::<&str>() != Some(&PLANNED_PANIC) {
            eprintln!("{panic}");
        }
    }));
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(orders))
}

async fn run(orders: &Orders) -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("process-{}", orders.number);
    let log = orders.logs.join(&name).with_extension("jsonl");
    let log = Arc::new(Recorder::open_for(log, orders.number)?);
    let effects = Effects::open(&orders.logs, &name)?;
    let fds = open_fds()?;

    let (locks, executors) = connect(orders, &log).await?;
    let fenced = orders.sabotage != Some(Sabotage::NoFence);
    let worker = Arc::new(Worker {
        number: orders.number,
        log,
        effects,
        store: orders.store,
        alone: orders.alone,
        sabotage: orders.sabotage,
        locks,
        resource: Resource::connect(&orders.resource, fenced).await?,
        stopping: AtomicBool::new(false),
        claims: AtomicU64::new(0),
    });
    stop_at_end_of_input(&worker);

    let mut rng = Rng::with_seed(orders.seed ^ u64::from(orders.number) << 32);
    take_turns(&worker, orders.tasks, &mut rng).await?;
    for place in 0..worker.locks.len() {
        for number in 0..KEYS {
            Turn::with(&worker, place, number, &mut rng).insist().await;
        }
    }

    let mut left = Leftovers {
        tasks: tasks_after_rest(&executors, orders.servers.len()).await,
        ..Leftovers::default()
    };
    for locks in &worker.locks {
        locks.shutdown().await?;
    }
    drop(executors);
    let worker = Arc::into_inner(worker).ok_or("a task is still there")?;
    drop((worker.locks, worker.resource));
    until(|| lock_threads().is_ok_and(|threads| threads == 0)).await;
    left.tasks += lock_threads()?;
    until(|| open_fds().is_ok_and(|open| open <= fds)).await;
    left.fds = open_fds()?.saturating_sub(fds);
    worker.log.record("*", now(), What::End(left))?;
    Ok(())
}

/// The lock runtimes, and what their background work runs on.
async fn connect(
    orders: &Orders,
    log: &Arc<Recorder>,
) -> Result<(Vec<LockRuntime>, Vec<Handle>), LockError> {
    match orders.store {
        Store::Redis => connect_to_each(orders, log).await,
        Store::Redlock => connect_to_all(orders).await,
        Store::Etcd => connect_to_etcd(orders, log).await,
        Store::Consul => connect_to_consul(orders, log).await,
    }
}

/// A runtime for a majority of all servers.
async fn connect_to_all(orders: &Orders) -> Result<(Vec<LockRuntime>, Vec<Handle>), LockError> {
    let mut settings = RedlockSettings::default();
    settings.redis.command_timeout = orders.store.command_timeout();
    settings.restart_delay = match orders.sabotage {
        Some(Sabotage::NoRestartDelay) => Duration::ZERO,
        _ => orders.store.longest_ttl(),
    };
    let configs = orders.servers.iter().map(|(url, _)| Config::from_url(url));
    let configs: Vec<_> = configs.collect();
    let backend = RedlockBackend::connect_lazily(&configs, settings)?;
    let handle = backend.handle().clone();
    let builder = match orders.sabotage {
        Some(sabotage) => LockRuntime::backend(Decorated(Saboteur::new(
            backend,
            sabotage,
            direct(&orders.servers[0])?,
        ))),
        None => LockRuntime::backend(backend),
    };
    Ok((
        vec![with_settings(orders.store, builder).build().await?],
        vec![handle],
    ))
}

fn direct((_, direct): &(String, String)) -> Result<redis::Client, LockError> {
    redis::Client::open(direct.as_str()).map_err(|error| LockError::Config(error.to_string()))
}

fn with_settings(store: Store, builder: LockRuntimeBuilder) -> LockRuntimeBuilder {
    builder
        .default_ttl(store.longest_ttl())
        .command_timeout(store.command_timeout())
        .grace(GRACE)
        .heartbeat(HEARTBEAT)
        .shutdown_timeout(REST)
}

/// A runtime for the cluster of etcd. Its background work is on a thread that nobody else sees.
async fn connect_to_etcd(
    orders: &Orders,
    log: &Arc<Recorder>,
) -> Result<(Vec<LockRuntime>, Vec<Handle>), LockError> {
    let mut all = Vec::new();
    for (url, _) in &orders.servers {
        let members = url.trim_start_matches("etcd://").split(',');
        let mut settings = EtcdSettings::new(members);
        settings.command_timeout = orders.store.command_timeout();
        let etcd = EtcdBackend::connect_lazily(settings)?;
        let builder = LockRuntime::backend(Decorated(Witness::new(etcd, log.clone())));
        all.push(with_settings(orders.store, builder).build().await?);
    }
    Ok((all, Vec::new()))
}

/// A runtime for the servers of Consul, as that for etcd.
async fn connect_to_consul(
    orders: &Orders,
    log: &Arc<Recorder>,
) -> Result<(Vec<LockRuntime>, Vec<Handle>), LockError> {
    let mut all = Vec::new();
    for (url, _) in &orders.servers {
        let agents = url.trim_start_matches("consul://").split(',');
        let mut settings = ConsulSettings::new(agents);
        settings.command_timeout = orders.store.command_timeout();
        let consul = ConsulBackend::connect_lazily(settings)?;
        let builder = LockRuntime::backend(Decorated(Witness::new(consul, log.clone())));
        all.push(with_settings(orders.store, builder).build().await?);
    }
    Ok((all, Vec::new()))
}

/// A runtime for each server.
async fn connect_to_each(
    orders: &Orders,
    log: &Arc<Recorder>,
) -> Result<(Vec<LockRuntime>, Vec<Handle>), LockError> {
    let (mut all, mut executors) = (Vec::new(), Vec::new());
    for server in &orders.servers {
        let url = &server.0;
        let mut settings = RedisSettings::default();
        settings.command_timeout = orders.store.command_timeout();
        let redis = RedisBackend::connect_lazily(Config::from_url(url), settings)?;
        executors.push(redis.handle().clone());
        let builder = match orders.sabotage {
            Some(sabotage) => {
                let redis = Decorated(Saboteur::new(redis, sabotage, direct(server)?));
                LockRuntime::backend(Decorated(Witness::new(redis, log.clone())))
            }
            None => LockRuntime::backend(Decorated(Witness::new(redis, log.clone()))),
        };
        all.push(with_settings(orders.store, builder).build().await?);
    }
    Ok((all, executors))
}

async fn take_turns(worker: &Arc<Worker>, tasks: usize, rng: &mut Rng) -> io::Result<()> {
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let (worker, mut rng) = (worker.clone(), rng.fork());
        running.spawn(async move {
            while !worker.is_stopping() {
                sleep(Duration::from_millis(rng.u64(..25))).await;
                Turn::any(&worker, &mut rng).take().await;
            }
        });
    }
    let (blocker, blocking) = (worker.clone(), rng.fork());
    running.spawn_blocking(move || block_executors(&blocker, blocking));
    while let Some(ended) = running.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Now and then holds a lock for longer than its ttl while it blocks the only thread of its
/// executor.
fn block_executors(worker: &Arc<Worker>, mut rng: Rng) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be started");
    runtime.block_on(async {
        while !worker.is_stopping() {
            let until = Instant::now() + Duration::from_millis(rng.u64(2_000..12_000));
            while Instant::now() < until && !worker.is_stopping() {
                sleep(Duration::from_millis(50)).await;
            }
            Turn::any(worker, &mut rng).block().await;
        }
    });
}

fn stop_at_end_of_input(worker: &Arc<Worker>) {
    let worker = Arc::downgrade(worker);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        if let Some(worker) = worker.upgrade() {
            worker.stopping.store(true, Ordering::Relaxed);
        }
    });
}

/// How many tasks are left that should have ended.
async fn tasks_after_rest(executors: &[Handle], servers: usize) -> u64 {
    // The watchdog of each sleeps.
    let idle = servers * IDLE_TASKS + executors.len();
    let excess = || {
        let alive = executors
            .iter()
            .map(|executor| executor.metrics().num_alive_tasks());
        let alive: usize = alive.sum();
        u64::try_from(alive.saturating_sub(idle)).unwrap_or(u64::MAX)
    };
    until(|| excess() == 0).await;
    excess()
}

/// Waits for `condition` as long as it may take.
async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + REST;
    while !condition() && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

fn open_fds() -> io::Result<u64> {
    Ok(fs::read_dir("/proc/self/fd")?.count() as u64)
}

/// How many threads of the lock runtime are left.
fn lock_threads() -> io::Result<u64> {
    let mut count = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        // A thread may end while it is looked at.
        let name = fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        count += u64::from(["lock-runtime", "lock-etcd", "lock-consul"].contains(&name.trim()));
    }
    Ok(count)
}
