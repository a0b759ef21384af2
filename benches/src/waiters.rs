//! What a hand-off costs the server, and how long it takes, with few and with many claims in its queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lock_conformance::inbox::{Inbox, Told};
use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, Release, Released};
use lock_runtime::redis::RedisBackend;
use tokio::time::timeout;

use crate::job::histogram;
use crate::report::Figures;
use crate::server::Target;
use crate::side::{self, Failure, Side};

/// How many claims wait.
pub const NUMBERS: [usize; 4] = [10, 100, 1_000, 10_000];

/// One round with each number of waiters.
pub async fn measure(
    target: &mut Target,
    seconds: f64,
    round: usize,
) -> Result<Vec<Figures>, Failure> {
    let backend = side::backend(target.url()).await?;
    let mut all = Vec::new();
    for number in NUMBERS {
        eprintln!("waiters round {}: {number}", round + 1);
        let key = LockKey::new("lock:", &format!("waiters:{number}:{round}"))?;
        all.push(hand_offs(&backend, &key, number, seconds, target).await?);
    }
    backend.close().await;
    Ok(all)
}

async fn hand_offs(
    backend: &RedisBackend,
    key: &LockKey,
    number: usize,
    seconds: f64,
    target: &mut Target,
) -> Result<Figures, Failure> {
    let inbox = Inbox::of(backend);
    let mut holder = claim(key);
    let Acquired::Granted(_) = backend.acquire(&holder).await? else {
        return Err("the lock is not free at first".into());
    };
    let mut queue = VecDeque::new();
    for _ in 0..number {
        let waiter = claim(key);
        let Acquired::Queued(_) = backend.acquire(&waiter).await? else {
            return Err("a claim was not queued".into());
        };
        queue.push_back(waiter);
    }

    let (mut hand_offs, mut times) = (0_u32, histogram());
    let before = target.counts()?;
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < seconds {
        let next = claim(key);
        let release = Release::new(key.clone(), holder.owner.clone());
        let releasing = Instant::now();
        let Released::Released(Some(Acquired::Queued(_))) =
            backend.release(&release.then(Some(next.clone()))).await?
        else {
            return Err("a release did not hand over".into());
        };
        queue.push_back(next);
        holder = queue.pop_front().ok_or("nobody waits")?;
        let Told::Granted { .. } = timeout(Duration::from_secs(5), inbox.changed(&holder)).await?
        else {
            return Err("the first of the queue was not the next".into());
        };
        times.saturating_record(releasing.elapsed().as_nanos() as u64);
        hand_offs += 1;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let counts = target.counts()?.since(&before);
    for key in [
        key.stored().to_owned(),
        format!("{{{}}}:waiters", key.stored()),
    ] {
        redis::cmd("DEL").arg(key).exec(target.connection())?;
    }

    let (commands, micros) = counts.sent(Side::Ours.called_by_scripts());
    let per_s = f64::from(hand_offs) / elapsed;
    Ok(Figures {
        per_s,
        handoffs_per_s: per_s,
        p50_us: times.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: times.value_at_quantile(0.99) as f64 / 1e3,
        max_us: times.max() as f64 / 1e3,
        mean_us: times.mean() / 1e3,
        commands_per_op: commands as f64 / f64::from(hand_offs),
        server_us_per_op: micros as f64 / f64::from(hand_offs),
        server_cpu_us_per_op: counts.cpu_s * 1e6 / f64::from(hand_offs),
        jain: 1.0,
        commands_per_s: commands as f64 / elapsed,
        ..Figures::default()
    })
}

fn claim(key: &LockKey) -> Claim {
    let mut claim = side::claim(key);
    // Nobody asks again while the others are served.
    claim.heartbeat = Duration::from_secs(600);
    claim
}
