//! How is money moved between two accounts, with neither lost nor made?
//!
//! Tasks of several processes move money between a few accounts, in all directions, and from an
//! account to itself. A transfer reads two balances and writes them back, so it needs both accounts
//! for itself. Taken one within the other, two transfers in opposite directions would wait for each
//! other; `keys` takes both or none, in one order for everybody.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example transfer
//! 4000 transfers among 8 accounts by 4 processes: 8000000 before, 8000000 after
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example transfer -- --without-lock
//! 4000 transfers among 8 accounts by 4 processes: 8000000 before, 8000039 after
//! ```

use std::time::Duration;

use clap::Parser;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[distributed_lock(keys = ["account:<bank.name>:<from>", "account:<bank.name>:<to>"], ttl = "10s", wait = "5m")]
async fn transfer(bank: &Bank, from: u64, to: u64, cents: i64) -> Result<(), BankError> {
    bank.transfer(from, to, cents).await
}

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// Accounts in a Redis hash, read and written as by somebody who is alone with them.
#[derive(Clone)]
struct Bank {
    name: String,
    connection: MultiplexedConnection,
}

impl Bank {
    async fn open(name: String) -> Result<Bank, BoxError> {
        let url = std::env::var("LOCK_URL").map_err(|_| "set LOCK_URL=redis://…")?;
        let client = redis::Client::open(url)?;
        // A balance that comes late is as good, and a transfer must not end halfway.
        let patience = Some(Duration::from_secs(60));
        let config = AsyncConnectionConfig::new().set_response_timeout(patience);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connection.await?;
        Ok(Bank { name, connection })
    }

    async fn transfer(&self, from: u64, to: u64, cents: i64) -> Result<(), BankError> {
        let debited = self.balance(from).await? - cents;
        self.set_balance(from, debited).await?;
        let credited = self.balance(to).await? + cents;
        self.set_balance(to, credited).await
    }

    async fn balance(&self, account: u64) -> Result<i64, BankError> {
        Ok(self.connection.clone().hget(self.key(), account).await?)
    }

    async fn set_balance(&self, account: u64, cents: i64) -> Result<(), BankError> {
        Ok(self
            .connection
            .clone()
            .hset(self.key(), account, cents)
            .await?)
    }

    async fn sum(&self, accounts: u64) -> Result<i64, BankError> {
        let mut sum = 0;
        for account in 0..accounts {
            sum += self.balance(account).await?;
        }
        Ok(sum)
    }

    fn key(&self) -> String {
        format!("example:transfer:{}", self.name)
    }
}

/// Processes that move money.
#[derive(Clone, Parser)]
struct Args {
    /// How many processes there are.
    #[arg(long, default_value_t = 4)]
    processes: u64,
    /// How many transfers each process has under way.
    #[arg(long, default_value_t = 8)]
    tasks: u64,
    /// How many accounts there are.
    #[arg(long, default_value_t = 8)]
    accounts: u64,
    /// How many transfers there are.
    #[arg(long, default_value_t = 4_000)]
    transfers: u64,
    /// Show what happens without the locks.
    #[arg(long)]
    without_lock: bool,
    /// Be one of the processes, for the bank of this name.
    #[arg(long, hide = true)]
    bank: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    match &args.bank {
        Some(name) => work(name.clone(), &args).await,
        None => employ(&args).await,
    }
}

/// One process, with its share of the transfers.
async fn work(name: String, args: &Args) -> Result<(), BoxError> {
    let bank = Bank::open(name).await?;
    LockRuntime::from_env().build().await?.install()?;
    let mut tasks = JoinSet::new();
    for task in 0..args.tasks {
        let (bank, args) = (bank.clone(), args.clone());
        tasks.spawn(async move {
            for number in 0..args.transfers / args.processes / args.tasks {
                // All pairs in turn, in both directions, each account with itself too.
                let pair = (number + task * 7) % (args.accounts * args.accounts);
                let (from, to) = (pair / args.accounts, pair % args.accounts);
                if args.without_lock {
                    bank.transfer(from, to, 1).await?;
                } else {
                    transfer(&bank, from, to, 1).await?;
                }
            }
            Ok::<(), BankError>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(LockRuntime::global()?.shutdown().await?)
}

/// Fills the accounts, starts the processes, and counts the money afterwards.
async fn employ(args: &Args) -> Result<(), BoxError> {
    let bank = Bank::open(uuid::Uuid::new_v4().to_string()).await?;
    for account in 0..args.accounts {
        bank.set_balance(account, 1_000_000).await?;
    }
    let before = bank.sum(args.accounts).await?;
    let processes = (0..args.processes).map(|_| process(&bank.name, args));
    for mut process in processes.collect::<Result<Vec<Child>, BoxError>>()? {
        let status = process.wait().await?;
        if !status.success() {
            return Err(format!("a process ended with {status}").into());
        }
    }
    let after = bank.sum(args.accounts).await?;
    let Args {
        processes,
        accounts,
        transfers,
        ..
    } = args;
    println!(
        "{transfers} transfers among {accounts} accounts by {processes} processes: {before} before, {after} after"
    );
    let () = bank.connection.clone().del(bank.key()).await?;
    Ok(())
}

/// A process: this program, started once more.
fn process(bank: &str, args: &Args) -> Result<Child, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--bank", bank]);
    for (name, value) in [
        ("--processes", args.processes),
        ("--tasks", args.tasks),
        ("--accounts", args.accounts),
        ("--transfers", args.transfers),
    ] {
        command.args([name, &value.to_string()]);
    }
    if args.without_lock {
        command.arg("--without-lock");
    }
    Ok(command.kill_on_drop(true).spawn()?)
}
