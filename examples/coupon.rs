//! What goes wrong without a distributed lock, and what puts it right?
//!
//! A shop gives away 10 coupons, 2,000 customers claim one at the same time, and several servers answer them. A server reads the stock,
//! decides, and writes the new stock: right for one customer, and wrong as soon as two are served at once. The race is run twice. Both
//! runs take the coupon by the same function; what the second adds is the attribute.
//!
//! The servers are parts of one program, with locks and stock in its memory:
//!
//! ```text
//! $ cargo run --example coupon
//! 10 coupons, 2000 claims, 4 servers, locks in memory
//!
//!               coupons given  too many      time
//! without lock           1118      1108    0.02 s
//! with lock                10         0    0.16 s
//! ```
//!
//! Or they are processes of the operating system, with locks and stock in Redis:
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example coupon -- --processes 4
//! 10 coupons, 2000 claims, 4 processes, locks in Redis
//!
//!               coupons given  too many      time
//! without lock           2000      1990    0.27 s
//! with lock                10         0    0.79 s
//! ```
//!
//! Or the locks are in etcd or Consul, which keep them when a member dies, and the stock in files: `--kill` ends a
//! process after a quarter of the claims, such as the member that leads.
//!
//! ```text
//! $ LOCK_URL=etcd://127.0.0.1:2379,127.0.0.1:2381,127.0.0.1:2383 \
//!     cargo run --features etcd --example coupon -- --kill 4711
//! 10 coupons, 2000 claims, 4 processes, locks in etcd
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Takes a coupon, if there is one left.
async fn take(shop: &Shop) -> Result<(), ClaimError> {
    let left = shop.stock().await?;
    if left > 0 {
        shop.set_stock(left - 1).await?;
        shop.hand_out().await?;
    }
    Ok(())
}

async fn claim_without_lock(server: Server) -> Result<(), ClaimError> {
    take(&server.shop).await
}

#[distributed_lock(key = "coupon:<server.shop.id>", ttl = "5s", wait = "2m", runtime = server.locks)]
async fn claim_with_lock(server: Server) -> Result<(), ClaimError> {
    take(&server.shop).await
}

#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the shop did not answer")]
    Shop(#[from] ShopError),
}

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error("what is written of the stock is no number")]
    NoNumber(#[from] std::num::ParseIntError),
}

/// What answers the customers: in a real shop, one process on one machine.
#[derive(Clone)]
struct Server {
    shop: Shop,
    locks: LockRuntime,
}

impl Server {
    /// Answers `claims` customers at the same time, and calls `done` after each.
    async fn answer(&self, claims: usize, run: Run, done: impl Fn()) -> Result<(), BoxError> {
        let mut customers = JoinSet::new();
        for _ in 0..claims {
            let server = self.clone();
            match run {
                Run::WithoutLock => customers.spawn(claim_without_lock(server)),
                Run::WithLock => customers.spawn(claim_with_lock(server)),
            };
        }
        while let Some(outcome) = customers.join_next().await {
            outcome??;
            done();
        }
        Ok(())
    }
}

/// The stock and the number of coupons handed out, where all servers find them.
#[derive(Clone)]
struct Shop {
    id: String,
    store: Store,
}

#[derive(Clone)]
enum Store {
    Memory(Arc<Mutex<Shelf>>),
    Redis(MultiplexedConnection),
    /// A directory, for processes on one machine.
    Files(PathBuf),
}

struct Shelf {
    stock: usize,
    given: usize,
}

impl Shop {
    fn in_memory(coupons: usize) -> Shop {
        let shelf = Shelf {
            stock: coupons,
            given: 0,
        };
        Shop {
            id: "spring-sale".to_owned(),
            store: Store::Memory(Arc::new(Mutex::new(shelf))),
        }
    }

    async fn in_redis(id: String, url: &str) -> Result<Shop, BoxError> {
        // Hundreds of claims share a connection, so an answer may take its time.
        let patient =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let connection = redis::Client::open(url)?
            .get_multiplexed_async_connection_with_config(&patient)
            .await?;
        Ok(Shop {
            id,
            store: Store::Redis(connection),
        })
    }

    /// The shop that the processes of a race find by its name.
    async fn shared(id: String, url: &str) -> Result<Shop, BoxError> {
        if !is_for_locks(url) {
            return Shop::in_redis(id, url).await;
        }
        let directory = std::env::temp_dir().join(format!("example-coupon-{id}"));
        std::fs::create_dir_all(&directory)?;
        Ok(Shop {
            id,
            store: Store::Files(directory),
        })
    }

    async fn stock(&self) -> Result<usize, ShopError> {
        match &self.store {
            Store::Memory(shelf) => {
                let stock = lock(shelf).stock;
                // Where a store over a network would let others run.
                tokio::task::yield_now().await;
                Ok(stock)
            }
            Store::Redis(connection) => Ok(connection.clone().get(self.key("stock")).await?),
            Store::Files(directory) => {
                let stock = std::fs::read_to_string(directory.join("stock"))?.parse()?;
                tokio::task::yield_now().await;
                Ok(stock)
            }
        }
    }

    async fn set_stock(&self, stock: usize) -> Result<(), ShopError> {
        match &self.store {
            Store::Memory(shelf) => lock(shelf).stock = stock,
            Store::Redis(connection) => connection.clone().set(self.key("stock"), stock).await?,
            Store::Files(directory) => {
                // Whoever reads meanwhile has the old one or the new one.
                let new = directory.join(format!("stock-{}", uuid::Uuid::new_v4()));
                std::fs::write(&new, stock.to_string())?;
                std::fs::rename(new, directory.join("stock"))?;
            }
        }
        Ok(())
    }

    async fn hand_out(&self) -> Result<(), ShopError> {
        match &self.store {
            Store::Memory(shelf) => lock(shelf).given += 1,
            Store::Redis(connection) => connection.clone().incr(self.key("given"), 1).await?,
            Store::Files(directory) => given_file(directory)?.write_all(b".")?,
        }
        Ok(())
    }

    async fn given(&self) -> Result<usize, ShopError> {
        match &self.store {
            Store::Memory(shelf) => Ok(lock(shelf).given),
            // There is no number where none was given.
            Store::Redis(connection) => {
                let given: Option<usize> = connection.clone().get(self.key("given")).await?;
                Ok(given.unwrap_or_default())
            }
            Store::Files(directory) => {
                let count = given_file(directory)?.metadata()?.len();
                Ok(usize::try_from(count).unwrap_or(usize::MAX))
            }
        }
    }

    async fn close_down(&self) -> Result<(), ShopError> {
        match &self.store {
            Store::Memory(_) => {}
            Store::Redis(connection) => {
                let keys = [self.key("stock"), self.key("given")];
                () = connection.clone().del(&keys).await?;
            }
            Store::Files(directory) => std::fs::remove_dir_all(directory)?,
        }
        Ok(())
    }

    fn key(&self, what: &str) -> String {
        format!("example:coupon:{}:{what}", self.id)
    }
}

/// A file with a character for each coupon that was given, which is longer by one at each write.
fn given_file(directory: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::File::options();
    options
        .create(true)
        .append(true)
        .open(directory.join("given"))
}

/// Whether the store holds locks alone, so that the stock is in files.
fn is_for_locks(url: &str) -> bool {
    url.starts_with("etcd") || url.starts_with("consul")
}

fn lock(shelf: &Mutex<Shelf>) -> std::sync::MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The race of the coupons.
#[derive(Parser)]
struct Args {
    /// How many coupons there are.
    #[arg(long, default_value_t = 10)]
    coupons: usize,
    /// How many customers claim one.
    #[arg(long, default_value_t = 2000)]
    claims: usize,
    /// How many servers answer them: processes if LOCK_URL names a server, else parts of this one.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    processes: u16,
    /// End the process with this number after a quarter of the claims with lock, such as a member of etcd.
    #[arg(long)]
    kill: Option<u32>,
    /// End with a line of JSON.
    #[arg(long)]
    json: bool,
    /// Be one of the processes, for the shop of this name.
    #[arg(long, hide = true, requires = "run")]
    shop: Option<String>,
    #[arg(long, hide = true)]
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Run {
    WithoutLock,
    WithLock,
}

impl Run {
    fn name(self) -> &'static str {
        match self {
            Run::WithoutLock => "without lock",
            Run::WithLock => "with lock",
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let shared = std::env::var("LOCK_URL")
        .ok()
        .filter(|url| url != "memory:");
    if let (Some(url), Some(shop), Some(run)) = (&shared, &args.shop, args.run) {
        return serve(url, shop, run, args.claims).await;
    }

    let servers = match &shared {
        Some(url) if url.starts_with("etcd") => "processes, locks in etcd",
        Some(url) if url.starts_with("consul") => "processes, locks in Consul",
        Some(_) => "processes, locks in Redis",
        None => "servers, locks in memory",
    };
    println!(
        "{} coupons, {} claims, {} {servers}\n",
        args.coupons, args.claims, args.processes
    );
    println!(
        "{:<14}{:>13}{:>10}{:>10}",
        "", "coupons given", "too many", "time"
    );
    let mut given = Vec::new();
    for run in [Run::WithoutLock, Run::WithLock] {
        let started = Instant::now();
        let progress = progress(run, args.claims)?;
        let count = match &shared {
            Some(url) => race_of_processes(url, run, &args, &progress).await?,
            None => race_in_memory(run, &args, &progress).await?,
        };
        progress.finish_and_clear();
        println!(
            "{:<14}{:>13}{:>10}{:>8.2} s",
            run.name(),
            count,
            count.saturating_sub(args.coupons),
            started.elapsed().as_secs_f64()
        );
        given.push(count);
    }
    if let ([without_lock, with_lock], true) = (given.as_slice(), args.json) {
        println!(r#"{{"without_lock": {without_lock}, "with_lock": {with_lock}}}"#);
    }
    Ok(())
}

async fn race_in_memory(run: Run, args: &Args, progress: &ProgressBar) -> Result<usize, BoxError> {
    let shop = Shop::in_memory(args.coupons);
    // One store, and a runtime for each server, as with Redis each process has its own.
    let store = MemoryBackend::new();
    let mut servers = JoinSet::new();
    for claims in shares(args) {
        let locks = LockRuntime::backend(store.clone()).build().await?;
        let server = Server {
            shop: shop.clone(),
            locks,
        };
        let progress = progress.clone();
        servers.spawn(async move { server.answer(claims, run, || progress.inc(1)).await });
    }
    while let Some(outcome) = servers.join_next().await {
        outcome??;
    }
    Ok(shop.given().await?)
}

async fn race_of_processes(
    url: &str,
    run: Run,
    args: &Args,
    progress: &ProgressBar,
) -> Result<usize, BoxError> {
    let id = uuid::Uuid::new_v4().to_string();
    let shop = Shop::shared(id, url)
        .await
        .map_err(|error| format!("LOCK_URL names no Redis server that answers: {error}"))?;
    let victim = args.kill.filter(|_| run == Run::WithLock);
    let answered = Arc::new(AtomicUsize::new(0));
    let quarter = args.claims.div_ceil(4);
    shop.set_stock(args.coupons).await?;

    let mut processes = Vec::new();
    for claims in shares(args) {
        processes.push(Process::start(&shop.id, run, claims)?);
    }
    // The race begins when all are there.
    for process in &mut processes {
        process.is_ready().await?;
    }
    let mut running = JoinSet::new();
    for mut process in processes {
        process.go().await?;
        let (progress, answered) = (progress.clone(), Arc::clone(&answered));
        let done = move || {
            progress.inc(1);
            let count = answered.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(victim) = victim.filter(|_| count == quarter) {
                kill(victim);
            }
        };
        running.spawn(async move { process.end(done).await });
    }
    while let Some(outcome) = running.join_next().await {
        outcome??;
    }

    let given = shop.given().await?;
    shop.close_down().await?;
    Ok(given)
}

/// Ends a process at once, without a word to it.
fn kill(process: u32) {
    let number = process.to_string();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &number])
        .status();
    if !killed.is_ok_and(|status| status.success()) {
        eprintln!("process {number} could not be ended");
    }
}

/// How many claims each server answers.
fn shares(args: &Args) -> impl Iterator<Item = usize> {
    let (claims, servers) = (args.claims, usize::from(args.processes));
    (0..servers).map(move |server| claims * (server + 1) / servers - claims * server / servers)
}

/// A server in a process of its own: this program, started once more.
struct Process {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(shop: &str, run: Run, claims: usize) -> Result<Process, BoxError> {
        let run = clap::ValueEnum::to_possible_value(&run).ok_or("a run has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "--shop",
                shop,
                "--run",
                run.get_name(),
                "--claims",
                &claims.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the output is piped")?;
        Ok(Process {
            child,
            said: BufReader::new(stdout).lines(),
        })
    }

    async fn is_ready(&mut self) -> Result<(), BoxError> {
        match self.said.next_line().await? {
            Some(_) => Ok(()),
            None => Err("a process ended before the race".into()),
        }
    }

    async fn go(&mut self) -> Result<(), BoxError> {
        let mut stdin = self.child.stdin.take().ok_or("a race begins once")?;
        Ok(stdin.write_all(b"go\n").await?)
    }

    /// Waits for the end, and calls `done` for each claim.
    async fn end(mut self, done: impl Fn()) -> Result<(), BoxError> {
        while self.said.next_line().await?.is_some() {
            done();
        }
        let status = self.child.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("a process ended with {status}").into())
        }
    }
}

/// The life of one process: a line when it is ready, and one after each claim.
async fn serve(url: &str, shop: &str, run: Run, claims: usize) -> Result<(), BoxError> {
    let server = Server {
        shop: Shop::shared(shop.to_owned(), url).await?,
        locks: LockRuntime::from_env().build().await?,
    };
    println!("ready");
    BufReader::new(tokio::io::stdin())
        .lines()
        .next_line()
        .await?;
    server.answer(claims, run, || println!("done")).await?;
    server.locks.shutdown().await?;
    Ok(())
}

fn progress(run: Run, claims: usize) -> Result<ProgressBar, BoxError> {
    let style = ProgressStyle::with_template("{prefix:<14}{bar:32} {pos}/{len} claims")?;
    Ok(ProgressBar::new(claims as u64)
        .with_style(style)
        .with_prefix(run.name()))
}
