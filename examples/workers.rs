//! How do workers handle the jobs of one customer one at a time?
//!
//! Several processes take jobs from one Redis list, as fast as they can. A job adds to the balance
//! of its customer: reads it, works, and writes it back. Jobs of different customers may run side
//! by side, those of one must not, and a queue alone does not see to that. A lock on the customer
//! does. Two things would show it if it did not: the sums, and the largest number of jobs that were
//! ever at work for one customer.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example workers
//! customer  expected  balance  jobs at once
//!        1      1100     1100             1
//!        2      1100     1100             1
//!        3      1100     1100             1
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example workers -- --without-lock
//! customer  expected  balance  jobs at once
//!        1      1100      219            11
//!        2      1100      251            11
//!        3      1100      172            12
//! ```

use std::process::ExitStatus;
use std::time::Duration;

use clap::Parser;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::task::JoinSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A payment to the account of a customer.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Job {
    customer: usize,
    amount: i64,
}

#[distributed_lock(key = "customer:<job.customer>", ttl = "5s", wait = "1m")]
async fn handle(books: Books, job: Job) -> Result<(), JobError> {
    book(books, job).await
}

async fn handle_without_lock(books: Books, job: Job) -> Result<(), JobError> {
    book(books, job).await
}

async fn book(mut books: Books, job: Job) -> Result<(), JobError> {
    books.enter(job.customer).await?;
    let balance = books.balance(job.customer).await?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    books
        .set_balance(job.customer, balance + job.amount)
        .await?;
    books.leave(job.customer).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the books did not answer")]
    Books(#[from] redis::RedisError),
}

/// The list of jobs and the accounts, in Redis.
#[derive(Clone)]
struct Books {
    /// What the names of the keys start with.
    name: String,
    connection: MultiplexedConnection,
}

impl Books {
    async fn open(name: String) -> Result<Books, BoxError> {
        let url = std::env::var("LOCK_URL")
            .map_err(|_| "set LOCK_URL to that of a Redis server, as in redis://127.0.0.1/")?;
        let patient =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let connection = redis::Client::open(url)?
            .get_multiplexed_async_connection_with_config(&patient)
            .await?;
        Ok(Books { name, connection })
    }

    async fn add(&mut self, job: &Job) -> Result<(), BoxError> {
        let text = serde_json::to_string(job)?;
        Ok(self.connection.rpush(self.key("jobs"), text).await?)
    }

    async fn next(&mut self) -> Result<Option<Job>, BoxError> {
        let text: Option<String> = self.connection.lpop(self.key("jobs"), None).await?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    async fn balance(&mut self, customer: usize) -> Result<i64, redis::RedisError> {
        let balance: Option<i64> = self.connection.hget(self.key("balances"), customer).await?;
        Ok(balance.unwrap_or(0))
    }

    async fn set_balance(
        &mut self,
        customer: usize,
        balance: i64,
    ) -> Result<(), redis::RedisError> {
        self.connection
            .hset(self.key("balances"), customer, balance)
            .await
    }

    /// Counts a job at work, and keeps the largest count.
    async fn enter(&mut self, customer: usize) -> Result<(), redis::RedisError> {
        let at_work: i64 = self
            .connection
            .hincr(self.key("at-work"), customer, 1)
            .await?;
        self.connection
            .zadd_options(self.key("most"), customer, at_work, &greatest())
            .await
    }

    async fn leave(&mut self, customer: usize) -> Result<(), redis::RedisError> {
        self.connection
            .hincr(self.key("at-work"), customer, -1)
            .await
    }

    async fn most_at_once(&mut self, customer: usize) -> Result<i64, redis::RedisError> {
        self.connection.zscore(self.key("most"), customer).await
    }

    async fn burn(&mut self) -> Result<(), redis::RedisError> {
        let keys = ["jobs", "balances", "at-work", "most"].map(|what| self.key(what));
        self.connection.del(&keys).await
    }

    fn key(&self, what: &str) -> String {
        format!("example:workers:{}:{what}", self.name)
    }
}

/// Replaces a score by larger ones only.
fn greatest() -> redis::SortedSetAddOptions {
    redis::SortedSetAddOptions::add_or_update(Some(redis::UpdateCheck::GT))
}

/// Workers that share a list of jobs.
#[derive(Parser)]
struct Args {
    /// How many processes take jobs.
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// How many jobs each process handles at the same time.
    #[arg(long, default_value_t = 8)]
    tasks: usize,
    /// How many customers there are.
    #[arg(long, default_value_t = 3)]
    customers: usize,
    /// How many jobs each customer has.
    #[arg(long, default_value_t = 200)]
    jobs: usize,
    /// Show what happens without the lock.
    #[arg(long)]
    without_lock: bool,
    /// Be one of the processes, for the books of this name.
    #[arg(long, hide = true)]
    books: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    match &args.books {
        Some(name) => work(name.clone(), &args).await,
        None => employ(&args).await,
    }
}

/// One process: several tasks, each with a job at a time.
async fn work(name: String, args: &Args) -> Result<(), BoxError> {
    let books = Books::open(name).await?;
    LockRuntime::from_env().build().await?.install()?;
    let mut tasks = JoinSet::new();
    for _ in 0..args.tasks {
        let (mut books, without_lock) = (books.clone(), args.without_lock);
        tasks.spawn(async move {
            while let Some(job) = books.next().await? {
                if without_lock {
                    handle_without_lock(books.clone(), job).await?;
                } else {
                    handle(books.clone(), job).await?;
                }
            }
            Ok::<(), BoxError>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(LockRuntime::global()?.shutdown().await?)
}

/// Writes the jobs, starts the processes, and looks at the books afterwards.
async fn employ(args: &Args) -> Result<(), BoxError> {
    let mut books = Books::open(uuid::Uuid::new_v4().to_string()).await?;
    for job in 0..args.jobs {
        for customer in 1..=args.customers {
            let amount = i64::try_from(job % 10)? + 1;
            books.add(&Job { customer, amount }).await?;
        }
    }

    let mut processes = JoinSet::new();
    for _ in 0..args.processes {
        processes.spawn(process(&books.name, args)?);
    }
    while let Some(status) = processes.join_next().await {
        let status = status??;
        if !status.success() {
            return Err(format!("a worker ended with {status}").into());
        }
    }

    println!("customer  expected  balance  jobs at once");
    let expected: i64 = (0..i64::try_from(args.jobs)?).map(|job| job % 10 + 1).sum();
    for customer in 1..=args.customers {
        let (balance, most) = (
            books.balance(customer).await?,
            books.most_at_once(customer).await?,
        );
        println!("{customer:>8}{expected:>10}{balance:>9}{most:>14}");
    }
    Ok(books.burn().await?)
}

/// A worker process: this program, started once more.
fn process(
    books: &str,
    args: &Args,
) -> Result<impl Future<Output = std::io::Result<ExitStatus>> + use<>, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--books", books, "--tasks", &args.tasks.to_string()]);
    if args.without_lock {
        command.arg("--without-lock");
    }
    let mut child = command.kill_on_drop(true).spawn()?;
    Ok(async move { child.wait().await })
}
