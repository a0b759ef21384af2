//! Many held leases: what each costs in memory, and what their renewals cost.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use lock_runtime::LockGuard;
use serde_json::json;
use tokio::task::JoinSet;

use crate::HEAP;
use crate::board::{Phase, Shared};
use crate::job::{Job, Section, Tally, Timed, reached, spending};
use crate::load::{Worker, wait_until};
use crate::report::median;
use crate::server::Target;
use crate::side::{Client, Failure, Side, TTL};

/// Holds `leases` for some seconds, while one of the two threads of their process is blocked for
/// two ttls.
pub fn run(
    leases: usize,
    seconds: f64,
    rounds: usize,
    json: bool,
    target: &mut Target,
) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for round in 0..rounds {
        eprintln!("held round {} of {rounds}", round + 1);
        lines.push(measure(leases, seconds, round, target)?);
    }
    let of = |figure: fn(&Line) -> f64| median(lines.iter().map(figure));
    let lost: u64 = lines.iter().map(|line| line.lost).sum();
    let (bytes, renewals, reads, cpu) = (
        of(|l| l.bytes_per_lease),
        of(|l| l.renewals_per_s),
        of(|l| l.renewals_per_read),
        of(|l| l.cpu_us_per_renewal),
    );
    if json {
        println!(
            "{}",
            json!({
                "workload": "held", "side": "ours", "leases": leases, "bytes_per_lease": bytes, "renewals_per_s": renewals,
                "renewals_per_read": reads, "cpu_us_per_renewal": cpu, "lost": lost,
            })
        );
    } else {
        println!(
            "held: {leases} leases, ttl {TTL:?}, {seconds} s a round, medians of {rounds} rounds\n"
        );
        println!(
            "| bytes a lease | renewals/s | renewals per read of the server | client µs a renewal | lost |"
        );
        println!("|--:|--:|--:|--:|--:|");
        println!("| {bytes:.0} | {renewals:.0} | {reads:.0} | {cpu:.1} | {lost} |");
    }
    Ok(())
}

struct Line {
    bytes_per_lease: f64,
    renewals_per_s: f64,
    renewals_per_read: f64,
    cpu_us_per_renewal: f64,
    lost: u64,
}

fn measure(
    leases: usize,
    seconds: f64,
    round: usize,
    target: &mut Target,
) -> Result<Line, Failure> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("board");
    let board = Shared::map(&path)?;
    let job = Job {
        side: Side::Ours,
        url: target.url().to_owned(),
        board: path,
        process: 0,
        processes: 1,
        tasks: leases,
        tasks_before: 0,
        key: format!("held:{round}"),
        shared: false,
        section: Section::Free,
        timed: Timed::Held,
        threads: 2,
        waiters: 0,
        count_allocations: true,
        no_loop: false,
    };
    let mut worker = [Worker::start(&job)?];
    wait_until(&mut worker, || board.ready.load(Ordering::SeqCst) == 1)?;
    let before = target.counts()?;
    board.enter_phase(Phase::Measure);
    thread::sleep(Duration::from_secs_f64(seconds));
    board.enter_phase(Phase::Stop);
    let counts = target.counts()?.since(&before);
    let [worker] = worker;
    let tally = worker.finish()?;

    let renewals = counts.calls("evalsha");
    Ok(Line {
        bytes_per_lease: tally.bytes_per_lease,
        renewals_per_s: renewals as f64 / seconds,
        renewals_per_read: renewals as f64 / counts.reads as f64,
        cpu_us_per_renewal: tally.spent.cpu_s * 1e6 / renewals as f64,
        lost: tally.lost,
    })
}

/// The process that holds the leases.
pub async fn hold(job: Job) -> Result<Tally, Failure> {
    let board = Shared::map(&job.board)?;
    let client = job.side.connect(&job.url).await?;
    // What is made once is not the leases'.
    for guard in acquire(&client, &job, 1, "warm-up").await? {
        guard.release().await?;
    }
    let before = HEAP.live();
    let guards = acquire(&client, &job, job.tasks, "lease").await?;
    let bytes_per_lease = (HEAP.live() - before) as f64 / job.tasks as f64;

    board.ready.fetch_add(1, Ordering::SeqCst);
    reached(&board, Phase::Measure).await;
    let blocked = tokio::spawn(async { thread::sleep(2 * TTL) });
    let spent = spending(&board).await?;
    let lost = guards.iter().filter(|guard| !guard.is_held()).count() as u64;
    blocked.await?;
    drop(guards);
    client.close().await?;
    Ok(Tally {
        bytes_per_lease,
        lost,
        spent,
        ..Tally::default()
    })
}

async fn acquire(
    client: &Client,
    job: &Job,
    count: usize,
    kind: &str,
) -> Result<Vec<LockGuard>, Failure> {
    let Client::Ours(locks, _) = client else {
        return Err("only our locks are renewed here".into());
    };
    let mut guards = Vec::with_capacity(count);
    for hundred in 0..count.div_ceil(100) {
        let mut tasks = JoinSet::new();
        for number in hundred * 100..count.min((hundred + 1) * 100) {
            tasks.spawn(
                locks
                    .lock(format!("{}:{kind}:{number}", job.key))
                    .ttl(TTL)
                    .acquire(),
            );
        }
        while let Some(guard) = tasks.join_next().await {
            guards.push(guard??);
        }
    }
    Ok(guards)
}
