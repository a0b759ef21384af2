//! How do many servers keep to a limit of so many calls a second, all together?
//!
//! Four servers call an API that takes ten calls within any second, and refuses more. Each call has
//! one of ten permits, which stays taken for a second from the beginning of the call, whenever that
//! ends: so no second sees more than ten beginnings, and nobody who waits is passed by another. The
//! API counts from when a call reaches it, so the permits are kept for a fifth longer than its
//! second.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example throttle
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example throttle -- --without-limit
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::task::JoinSet;

/// How many calls the API takes within its second.
const LIMIT: u32 = 10;

/// A call that counts: of all servers together, ten begin within any second.
#[distributed_lock(
    key = "api:<api.name>",
    permits = LIMIT,
    min_hold = api.second * 6 / 5,
    runtime = locks,
)]
async fn limited(locks: &LockRuntime, api: &Api) -> Result<bool, LockError> {
    Ok(api.call())
}

/// Somebody else's service.
struct Api {
    name: String,
    second: Duration,
    calls: Mutex<VecDeque<Instant>>,
}

impl Api {
    /// Whether the call was taken.
    fn call(&self) -> bool {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        calls.retain(|call| now.duration_since(*call) < self.second);
        let is_taken = calls.len() < LIMIT as usize;
        if is_taken {
            calls.push_back(now);
        }
        is_taken
    }
}

/// Servers that call an API with a limit.
#[derive(Parser)]
struct Args {
    /// How many servers there are.
    #[arg(long, default_value_t = 4)]
    servers: u32,
    /// How many calls there are.
    #[arg(long, default_value_t = 60)]
    calls: u32,
    /// How many milliseconds the API counts as a second.
    #[arg(long, default_value_t = 1_000)]
    second: u64,
    /// Show what happens without a limit.
    #[arg(long)]
    without_limit: bool,
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let args = Args::parse();
    let api = Arc::new(Api {
        name: uuid::Uuid::new_v4().to_string(),
        second: Duration::from_millis(args.second),
        calls: Mutex::default(),
    });
    let memory = MemoryBackend::new();
    let mut servers = Vec::new();
    for _ in 0..args.servers {
        let locks = match std::env::var_os("LOCK_URL") {
            Some(_) => LockRuntime::from_env(),
            None => LockRuntime::backend(memory.clone()),
        };
        servers.push(locks.default_wait(Duration::from_secs(600)).build().await?);
    }
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for call in 0..args.calls {
        let locks = servers[(call % args.servers) as usize].clone();
        let (api, is_free) = (Arc::clone(&api), args.without_limit);
        calls.spawn(async move {
            match is_free {
                true => Ok(api.call()),
                false => limited(&locks, &api).await,
            }
        });
    }
    let mut refused = 0;
    while let Some(call) = calls.join_next().await {
        refused += u32::from(!call.unwrap_or(Ok(false))?);
    }
    println!(
        "{} calls on {} servers: {refused} refused, in {:.1} s",
        args.calls,
        args.servers,
        begun.elapsed().as_secs_f64(),
    );
    for locks in servers {
        locks.shutdown().await?;
    }
    Ok(())
}
