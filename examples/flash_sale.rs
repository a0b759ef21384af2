//! How does a sale give exactly its 10,000 coupons, faster than one at a time?
//!
//! Four servers give coupons of one stock. To give one takes a transaction of 2 ms: the stock is
//! read, a voucher is written, and the stock is written back; two at once would give the same
//! coupon twice. One lock for the sale gives 500 a second at the most. So the stock is divided into
//! parts, and each claim takes the lock of any part that is free, and goes on to the next if
//! nothing is left there. Who comes when all parts are empty is told so, and the server remembers
//! it.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --release --example flash_sale
//! N shards: how many a second, how many given, how many told that it is sold out, and a bar
//! ```
//!
//! With `--without-lock` more are given than there are. `--plot FILE.svg` draws how many a second
//! against the shards.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime};
use plotters::prelude::*;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long a transaction takes.
const TRANSACTION: Duration = Duration::from_millis(2);

/// A database, in which the stock of a sale is in parts.
struct Stock(Vec<Mutex<u32>>);

impl Stock {
    /// Fair parts of so many coupons.
    fn of(coupons: u32, shards: u32) -> Stock {
        let part = |shard| coupons / shards + u32::from(shard < coupons % shards);
        Stock((0..shards).map(|shard| Mutex::new(part(shard))).collect())
    }

    /// Gives a coupon of one part, if there is one left.
    async fn give(&self, shard: u32) -> ControlFlow<()> {
        let Some(part) = self.0.get(shard as usize) else {
            return ControlFlow::Continue(());
        };
        let left = *part.lock().unwrap_or_else(PoisonError::into_inner);
        if left == 0 {
            return ControlFlow::Continue(());
        }
        sleep(TRANSACTION).await;
        *part.lock().unwrap_or_else(PoisonError::into_inner) = left - 1;
        ControlFlow::Break(())
    }
}

/// One server.
struct Server {
    locks: LockRuntime,
    /// Nothing comes back: once all parts were empty, no lock has to be asked.
    is_sold_out: AtomicBool,
}

impl Server {
    async fn start(memory: &MemoryBackend) -> Result<Server, LockError> {
        let locks = match std::env::var_os("LOCK_URL") {
            Some(_) => LockRuntime::from_env(),
            None => LockRuntime::backend(memory.clone()),
        };
        Ok(Server {
            locks: locks.default_wait(Duration::from_secs(60)).build().await?,
            is_sold_out: AtomicBool::new(false),
        })
    }

    /// Whether the claim got a coupon.
    async fn claim(&self, sale: &str, stock: &Stock, locked: bool) -> Result<bool, LockError> {
        if self.is_sold_out.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let shards = u32::try_from(stock.0.len()).unwrap_or(u32::MAX);
        let given = if locked {
            let sale = self.locks.lock(sale).shards(shards);
            let visit = sale.visit(|lock| async move { stock.give(lock.shard()).await });
            visit.await?.is_some()
        } else {
            let mut given = false;
            for shard in 0..shards {
                given = given || stock.give(shard).await.is_break();
            }
            given
        };
        self.is_sold_out.fetch_or(!given, Ordering::Relaxed);
        Ok(given)
    }
}

/// A sale whose stock is in 1, 4, 16 and 64 parts.
#[derive(Parser)]
struct Args {
    /// How many coupons there are.
    #[arg(long, default_value_t = 10_000)]
    coupons: u32,
    /// How many claims come for ten coupons.
    #[arg(long, default_value_t = 12)]
    claims: u32,
    /// How many servers there are.
    #[arg(long, default_value_t = 4)]
    servers: u32,
    /// How many claims each server works on at once.
    #[arg(long, default_value_t = 64)]
    tasks: u32,
    /// Show what happens without a lock.
    #[arg(long)]
    without_lock: bool,
    /// Draw it into this file.
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let claims = args.coupons / 10 * args.claims;
    println!(
        "{} coupons, {claims} claims on {} servers",
        args.coupons, args.servers
    );
    let mut rates = Vec::new();
    for shards in [1, 4, 16, 64] {
        let (given, refused, took) = sale(&args, claims, shards).await?;
        let rate = f64::from(given) / took.as_secs_f64();
        println!(
            "{shards:2} shards: {rate:5.0} a second, {given} given, {refused} told that it is sold out  {}",
            "#".repeat((rate / 330.0).ceil() as usize),
        );
        rates.push((f64::from(shards), rate));
    }
    if let Some(file) = &args.plot {
        draw(file, &rates)?;
    }
    Ok(())
}

/// Draws coupons a second against the number of shards, both on a scale of powers.
fn draw(file: &Path, rates: &[(f64, f64)]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(file, (500, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = rates.iter().fold(100.0, |most, (_, rate)| rate.max(most));
    let mut chart = ChartBuilder::on(&area)
        .caption("coupons a second", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8..80.0).log_scale(), (50.0..1.5 * most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("shards of the stock")
        .light_line_style(WHITE)
        .draw()?;
    let points = || rates.iter().copied();
    chart.draw_series(LineSeries::new(points(), BLUE.stroke_width(2)))?;
    chart.draw_series(points().map(|point| Circle::new(point, 3, BLUE.filled())))?;
    area.present()?;
    Ok(())
}

/// How many claims got a coupon and how many were refused, and how long it took.
async fn sale(args: &Args, claims: u32, shards: u32) -> Result<(u32, u32, Duration), LockError> {
    let memory = MemoryBackend::new();
    let stock = Arc::new(Stock::of(args.coupons, shards));
    let name: Arc<str> = format!("sale:{}", uuid::Uuid::new_v4()).into();
    let mut servers = Vec::new();
    for _ in 0..args.servers {
        servers.push(Arc::new(Server::start(&memory).await?));
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let workers = args.servers * args.tasks;
    for worker in 0..workers {
        let server = Arc::clone(&servers[(worker % args.servers) as usize]);
        let (stock, name) = (Arc::clone(&stock), Arc::clone(&name));
        let own = claims / workers + u32::from(worker < claims % workers);
        let locked = !args.without_lock;
        tasks.spawn(async move {
            let mut given = 0;
            for _ in 0..own {
                given += u32::from(server.claim(&name, &stock, locked).await?);
            }
            Ok::<_, LockError>(given)
        });
    }
    let mut given = 0;
    while let Some(worker) = tasks.join_next().await {
        given += worker.unwrap_or(Ok(0))?;
    }
    let took = begun.elapsed();
    for server in &servers {
        server.locks.shutdown().await?;
    }
    Ok((given, claims - given, took))
}
