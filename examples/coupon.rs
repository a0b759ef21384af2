//! What goes wrong without a distributed lock, and what puts it right?
//!
//! A shop gives away 10 coupons, 2,000 customers claim one at the same time, and several servers
//! answer them. A server reads the stock, decides, and writes the new stock: right for one
//! customer, and wrong as soon as two are served at once. The race is run twice. Both runs take the
//! coupon by the same function; what the second adds is the attribute.
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
//! Or the locks are held by a majority of several Redis servers, and the stock is in an SQLite
//! file, which refuses what comes with an older fencing token than it has seen. `--kill` ends two
//! servers that voted, after a quarter of the claims; `scripts/redlock` starts five to try it.
//!
//! ```text
//! $ LOCK_URL='redis+redlock://127.0.0.1:7390,127.0.0.1:7391,127.0.0.1:7392,127.0.0.1:7393,127.0.0.1:7394?restart_delay=0s' \
//!     cargo run --features sqlite --example coupon -- --kill
//! 10 coupons, 2000 claims, 4 processes, locks on a majority of Redis servers
//! ```
//!
//! Or the locks are in etcd or Consul, which keep them when a member dies: `--kill 4711` ends the
//! process of this number, such as the member that leads.
//!
//! ```text
//! $ LOCK_URL=etcd://127.0.0.1:2379,127.0.0.1:2381,127.0.0.1:2383 \
//!     cargo run --features etcd --example coupon -- --kill 4711
//! 10 coupons, 2000 claims, 4 processes, locks in etcd
//! ```

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{FencingToken, LockError, LockRuntime, distributed_lock};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Takes a coupon, if there is one left. The token tells a shop that compares them who came first.
async fn take(shop: &Shop, token: Option<FencingToken>) -> Result<(), ClaimError> {
    let left = shop.stock(token).await?;
    if left > 0 {
        shop.set_stock(left - 1, token).await?;
        shop.hand_out().await?;
    }
    Ok(())
}

async fn claim_without_lock(server: Server) -> Result<(), ClaimError> {
    take(&server.shop, None).await
}

#[distributed_lock(key = "coupon:<server.shop.id>", ttl = "5s", wait = "2m", runtime = server.locks, guard = lock)]
async fn claim_with_lock(server: Server) -> Result<(), ClaimError> {
    take(&server.shop, Some(lock.fencing_token())).await
}

#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the shop did not answer")]
    Shop(#[from] ShopError),
}

impl ClaimError {
    /// Whether this is what a customer of a real shop would be told while servers fail: to try
    /// again.
    fn is_of_the_day(&self) -> bool {
        match self {
            ClaimError::Lock(error) => error.is_lost() || error.is_unavailable(),
            #[cfg(feature = "sqlite")]
            ClaimError::Shop(ShopError::Older) => true,
            ClaimError::Shop(_) => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[cfg(feature = "sqlite")]
    #[error("a later holder of the lock was here")]
    Older,
}

/// What answers the customers: in a real shop, one process on one machine.
#[derive(Clone)]
struct Server {
    shop: Shop,
    locks: LockRuntime,
}

impl Server {
    /// Answers `claims` customers at the same time, and calls `done` after each: whether the claim
    /// was answered, or has failed as lost or unavailable.
    async fn answer(&self, claims: usize, run: Run, done: impl Fn(bool)) -> Result<(), BoxError> {
        let mut customers = JoinSet::new();
        for _ in 0..claims {
            let server = self.clone();
            match run {
                Run::WithoutLock => customers.spawn(claim_without_lock(server)),
                Run::WithLock => customers.spawn(claim_with_lock(server)),
            };
        }
        while let Some(outcome) = customers.join_next().await {
            match outcome? {
                Ok(()) => done(true),
                Err(error) if error.is_of_the_day() => done(false),
                Err(error) => return Err(error.into()),
            }
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
    /// A file, for processes on one machine.
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<sqlite::Ledger>),
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
        if Locks::of(url) == Locks::Redis {
            return Shop::in_redis(id, url).await;
        }
        #[cfg(feature = "sqlite")]
        return Ok(Shop {
            store: Store::Sqlite(Arc::new(sqlite::Ledger::open(&id)?)),
            id,
        });
        #[cfg(not(feature = "sqlite"))]
        Err("where the locks are not on one Redis, the stock is in an SQLite file: --features sqlite".into())
    }

    async fn stock(&self, token: Option<FencingToken>) -> Result<usize, ShopError> {
        #[cfg(not(feature = "sqlite"))]
        let _ = token;
        match &self.store {
            Store::Memory(shelf) => {
                let stock = lock(shelf).stock;
                // Where a store over a network would let others run.
                tokio::task::yield_now().await;
                Ok(stock)
            }
            Store::Redis(connection) => Ok(connection.clone().get(self.key("stock")).await?),
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ledger) => ledger.run(move |ledger| ledger.stock(token)).await,
        }
    }

    async fn set_stock(&self, stock: usize, token: Option<FencingToken>) -> Result<(), ShopError> {
        #[cfg(not(feature = "sqlite"))]
        let _ = token;
        match &self.store {
            Store::Memory(shelf) => lock(shelf).stock = stock,
            Store::Redis(connection) => connection.clone().set(self.key("stock"), stock).await?,
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ledger) => {
                ledger
                    .run(move |ledger| ledger.set_stock(stock, token))
                    .await?;
            }
        }
        Ok(())
    }

    async fn hand_out(&self) -> Result<(), ShopError> {
        match &self.store {
            Store::Memory(shelf) => lock(shelf).given += 1,
            Store::Redis(connection) => connection.clone().incr(self.key("given"), 1).await?,
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ledger) => ledger.run(sqlite::Ledger::hand_out).await?,
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
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ledger) => ledger.run(sqlite::Ledger::given).await,
        }
    }

    async fn close_down(&self) -> Result<(), ShopError> {
        match &self.store {
            Store::Memory(_) => {}
            Store::Redis(connection) => {
                let keys = [self.key("stock"), self.key("given")];
                () = connection.clone().del(&keys).await?;
            }
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ledger) => ledger.remove(),
        }
        Ok(())
    }

    fn key(&self, what: &str) -> String {
        format!("example:coupon:{}:{what}", self.id)
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use lock_runtime::FencingToken;
    use rusqlite::{Connection, OptionalExtension};

    use super::ShopError;

    /// The stock in a file, with the largest fencing token that has come to it.
    pub(crate) struct Ledger {
        connection: Mutex<Connection>,
        path: PathBuf,
    }

    impl Ledger {
        /// The file of the shop of this name, which the first one makes.
        pub(crate) fn open(id: &str) -> Result<Ledger, ShopError> {
            let path = std::env::temp_dir().join(format!("example-coupon-{id}.db"));
            let connection = Connection::open(&path)?;
            connection.busy_timeout(Duration::from_secs(60))?;
            // The file need not survive the machine.
            connection.pragma_update(None, "synchronous", "off")?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS shop (stock INTEGER, given INTEGER, token INTEGER);
                 INSERT INTO shop SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM shop);",
            )?;
            Ok(Ledger {
                connection: Mutex::new(connection),
                path,
            })
        }

        /// Does `work` where it may block.
        pub(crate) async fn run<T: Send + 'static>(
            self: &Arc<Self>,
            work: impl FnOnce(&Ledger) -> Result<T, ShopError> + Send + 'static,
        ) -> Result<T, ShopError> {
            let ledger = Arc::clone(self);
            match tokio::task::spawn_blocking(move || work(&ledger)).await {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }

        /// The stock, which from now on is nothing for those who had the lock before.
        pub(crate) fn stock(&self, token: Option<FencingToken>) -> Result<usize, ShopError> {
            let sql = "UPDATE shop SET token = ?1 WHERE token <= ?1 RETURNING stock";
            self.with(|connection| {
                let stock = connection.query_row(sql, [number(token)], |row| row.get(0));
                stock.optional()?.ok_or(ShopError::Older)
            })
        }

        pub(crate) fn set_stock(
            &self,
            stock: usize,
            token: Option<FencingToken>,
        ) -> Result<(), ShopError> {
            let sql = "UPDATE shop SET stock = ?2, token = ?1 WHERE token <= ?1";
            self.with(
                |connection| match connection.execute(sql, (number(token), stock))? {
                    0 => Err(ShopError::Older),
                    _ => Ok(()),
                },
            )
        }

        pub(crate) fn hand_out(&self) -> Result<(), ShopError> {
            self.with(|connection| {
                connection.execute("UPDATE shop SET given = given + 1", [])?;
                Ok(())
            })
        }

        pub(crate) fn given(&self) -> Result<usize, ShopError> {
            self.with(|connection| {
                Ok(connection.query_row("SELECT given FROM shop", [], |row| row.get(0))?)
            })
        }

        pub(crate) fn remove(&self) {
            let _ = std::fs::remove_file(&self.path);
        }

        fn with<T>(
            &self,
            work: impl FnOnce(&Connection) -> Result<T, ShopError>,
        ) -> Result<T, ShopError> {
            work(
                &self
                    .connection
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            )
        }
    }

    /// Who has no lock has no token.
    fn number(token: Option<FencingToken>) -> u64 {
        token.map_or(0, FencingToken::as_u64)
    }
}

/// Where the locks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locks {
    Redis,
    Redlock,
    Etcd,
    Consul,
}

impl Locks {
    fn of(url: &str) -> Locks {
        match url.split_once(':').map_or("", |(scheme, _)| scheme) {
            "redis+redlock" | "rediss+redlock" | "redlock" => Locks::Redlock,
            scheme if scheme.starts_with("etcd") => Locks::Etcd,
            scheme if scheme.starts_with("consul") => Locks::Consul,
            _ => Locks::Redis,
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// End the processes with these numbers after a quarter of the claims with lock, such as a
    /// member of etcd. Without a number, where several Redis servers vote: two of those that have.
    #[arg(long, num_args = 0..)]
    kill: Option<Vec<u32>>,
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
        Some(url) => match Locks::of(url) {
            Locks::Redis => "processes, locks in Redis",
            Locks::Redlock => "processes, locks on a majority of Redis servers",
            Locks::Etcd => "processes, locks in etcd",
            Locks::Consul => "processes, locks in Consul",
        },
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
    let (mut given, mut after) = (Vec::new(), 0);
    for run in [Run::WithoutLock, Run::WithLock] {
        let started = Instant::now();
        let progress = progress(run, args.claims)?;
        let tally = Arc::new(Tally::default());
        let count = match &shared {
            Some(url) => race_of_processes(url, run, &args, &tally, &progress).await?,
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
        let failed = tally.failed.load(Ordering::Relaxed);
        if failed > 0 {
            println!("{failed} claims failed as lost or unavailable");
        }
        let killed = lock(&tally.killed).clone();
        if !killed.is_empty() {
            after = args.claims - args.claims.div_ceil(4);
            println!("ended: {}; {after} claims came after", killed.join(", "));
        }
        given.push(count);
    }
    if let ([without_lock, with_lock], true) = (given.as_slice(), args.json) {
        println!(
            r#"{{"without_lock": {without_lock}, "with_lock": {with_lock}, "after_kill": {after}}}"#
        );
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
        servers.spawn(async move { server.answer(claims, run, |_| progress.inc(1)).await });
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
    tally: &Arc<Tally>,
    progress: &ProgressBar,
) -> Result<usize, BoxError> {
    let id = uuid::Uuid::new_v4().to_string();
    let shop = Shop::shared(id, url)
        .await
        .map_err(|error| format!("the shop cannot be opened: {error}"))?;
    let victims = args.kill.clone().filter(|_| run == Run::WithLock);
    let quarter = args.claims.div_ceil(4);
    shop.set_stock(args.coupons, None).await?;

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
        let (progress, tally) = (progress.clone(), Arc::clone(tally));
        let (victims, url, shop) = (victims.clone(), url.to_owned(), shop.id.clone());
        let done = move |is_answered: bool| {
            progress.inc(1);
            tally
                .failed
                .fetch_add(usize::from(!is_answered), Ordering::Relaxed);
            let count = tally.done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(victims) = victims.as_ref().filter(|_| count == quarter) {
                let killed = end_servers(&url, &shop, victims);
                lock(&tally.killed).extend(killed);
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

/// What has become of the claims of a race.
#[derive(Default)]
struct Tally {
    done: AtomicUsize,
    /// Of these, how many failed as lost or unavailable.
    failed: AtomicUsize,
    /// Which servers were ended meanwhile.
    killed: Mutex<Vec<String>>,
}

/// Ends the processes with these numbers, or two servers that have voted for who holds the lock of
/// the shop. Returns what was ended.
fn end_servers(url: &str, shop: &str, processes: &[u32]) -> Vec<String> {
    if !processes.is_empty() {
        let killed = processes.iter().filter(|process| kill(**process));
        return killed.map(|process| format!("process {process}")).collect();
    }
    let (_, hosts) = url.split_once("://").unwrap_or_default();
    let hosts = hosts.split(['?', '/']).next().unwrap_or_default();
    let hosts = hosts.rsplit('@').next().unwrap_or_default();
    let prefix = std::env::var("LOCK_PREFIX").unwrap_or_else(|_| "lock:".to_owned());
    let lock = format!("{prefix}coupon:{shop}");
    let voters = hosts
        .split(',')
        .filter_map(|host| Voter::connect(host).ok());
    let mut voters: Vec<Voter> = voters.collect();
    let mut killed = Vec::new();
    // The lock may just be on its way from one to the next.
    let until = Instant::now() + Duration::from_secs(10);
    while killed.len() < 2 && Instant::now() < until {
        voters.retain_mut(|voter| {
            let is_left = killed.len() < 2;
            let is_ended = is_left && voter.votes(&lock).is_ok_and(|it| it) && kill(voter.process);
            if is_ended {
                killed.push(voter.host.clone());
            }
            !is_ended
        });
    }
    if killed.len() < 2 {
        eprintln!(
            "fewer than two servers of {hosts} were seen to vote; they must be on this machine"
        );
    }
    killed
}

/// A server that may vote for who holds a lock.
struct Voter {
    host: String,
    process: u32,
    connection: redis::Connection,
}

impl Voter {
    fn connect(host: &str) -> Result<Voter, BoxError> {
        let second = Duration::from_secs(1);
        let client = redis::Client::open(format!("redis://{host}"))?;
        let mut connection = client.get_connection_with_timeout(second)?;
        connection.set_read_timeout(Some(second))?;
        let about: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
        let process = about
            .lines()
            .find_map(|line| line.strip_prefix("process_id:"));
        Ok(Voter {
            host: host.to_owned(),
            process: process
                .ok_or("it does not tell its process")?
                .trim()
                .parse()?,
            connection,
        })
    }

    /// Whether it votes for somebody who holds the lock.
    fn votes(&mut self, lock: &str) -> Result<bool, redis::RedisError> {
        redis::Commands::exists(&mut self.connection, lock)
    }
}

/// Ends a process at once, without a word to it. Whether it has.
fn kill(process: u32) -> bool {
    let number = process.to_string();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &number])
        .status();
    let is_killed = killed.is_ok_and(|status| status.success());
    if !is_killed {
        eprintln!("process {number} could not be ended");
    }
    is_killed
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

    /// Waits for the end, and calls `done` for each claim: whether it was answered.
    async fn end(mut self, done: impl Fn(bool)) -> Result<(), BoxError> {
        while let Some(line) = self.said.next_line().await? {
            done(line == "done");
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
    let said = |is_answered| println!("{}", if is_answered { "done" } else { "failed" });
    server.answer(claims, run, said).await?;
    server.locks.shutdown().await?;
    Ok(())
}

fn progress(run: Run, claims: usize) -> Result<ProgressBar, BoxError> {
    let style = ProgressStyle::with_template("{prefix:<14}{bar:32} {pos}/{len} claims")?;
    Ok(ProgressBar::new(claims as u64)
        .with_style(style)
        .with_prefix(run.name()))
}
