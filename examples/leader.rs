//! How does a service elect a leader?
//!
//! Three processes stand for election by `lead`. The first leader is stopped, as a long pause stops
//! a process: another leads when the lease is over, and the first one, when it goes on, learns of
//! it before it does anything more, and stands again. The second is killed, and the third shut
//! down: it hands over at once, without waiting for a lease to end. The terms, which are fencing
//! tokens, grow.
//!
//! ```text
//! $ LOCK_URL=redis://127.0.0.1/ cargo run --example leader
//! process 0 leads
//! process 0 is stopped: process 2 leads after 1.8 s, in a later term
//! process 2 is killed: process 1 leads after 1.9 s, in a later term
//! process 1 is shut down: process 0 leads after 0.0 s, in a later term
//! ```

use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use lock_runtime::LockRuntime;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Three processes that elect a leader.
#[derive(Parser)]
struct Args {
    /// How long a leader that says nothing goes on to be one, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    ttl: u64,
    /// Be one of the processes, for the election of this name.
    #[arg(long, hide = true)]
    election: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    match &args.election {
        Some(election) => stand(election, args.ttl).await,
        None => watch(args.ttl).await,
    }
}

/// One process: leads when it is its turn, until SIGTERM.
async fn stand(election: &str, ttl: u64) -> Result<(), BoxError> {
    let locks = LockRuntime::from_env().build().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let leader = locks.lock(format!("leader:{election}"));
    let leads = leader.ttl(Duration::from_millis(ttl)).lead(async |lock| {
        // A real one works, and sends the term along with whatever it writes.
        println!("{}", lock.fencing_token());
        std::future::pending::<()>().await;
    });
    tokio::select! {
        outcome = leads => outcome?,
        // The future is dropped, and the lock on its way to the next.
        _ = terminate.recv() => {}
    }
    Ok(locks.shutdown().await?)
}

/// Who leads, and in which term.
type Term = (usize, u64);

/// Starts the processes, and lets leaders stop, die and shut down.
async fn watch(ttl: u64) -> Result<(), BoxError> {
    let election = uuid::Uuid::new_v4().to_string();
    let (tells, mut terms) = mpsc::unbounded_channel();
    let mut processes = Vec::new();
    for number in 0..3 {
        processes.push(process(number, &election, ttl, tells.clone())?);
    }
    let mut term = next(&mut terms).await?;
    println!("process {} leads", term.0);
    for (how, signals) in [
        ("is stopped", &["STOP", "CONT"][..]),
        ("is killed", &["KILL"]),
        ("is shut down", &["TERM"]),
    ] {
        let (leader, started) = (term.0, Instant::now());
        let pid = processes[leader].id().ok_or("it has ended")?;
        let mut signals = signals.iter();
        if let Some(first) = signals.next() {
            send(first, pid).await?;
        }
        let later = next(&mut terms).await?;
        if later.1 <= term.1 {
            return Err(format!("term {} came after term {}", later.1, term.1).into());
        }
        term = later;
        let (next, after) = (term.0, started.elapsed().as_secs_f32());
        println!(
            "process {leader} {how}: process {next} leads after {after:.1} s, in a later term"
        );
        for signal in signals {
            send(signal, pid).await?;
        }
    }
    for mut process in processes {
        process.kill().await?;
    }
    Ok(())
}

async fn next(terms: &mut mpsc::UnboundedReceiver<Term>) -> Result<Term, BoxError> {
    let term = tokio::time::timeout(Duration::from_secs(60), terms.recv());
    term.await?.ok_or_else(|| "nobody is left".into())
}

async fn send(signal: &str, pid: u32) -> Result<(), BoxError> {
    let mut kill = Command::new("kill");
    let status = kill.args([&format!("-{signal}"), &pid.to_string()]);
    let status = status.status().await?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| "no such process".into())
}

/// A process: this program, started once more, whose terms are told.
fn process(
    number: usize,
    election: &str,
    ttl: u64,
    tells: mpsc::UnboundedSender<Term>,
) -> Result<Child, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--election", election, "--ttl", &ttl.to_string()]);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().ok_or("it has no output")?;
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(term) = line.parse() {
                // The receiver lives as long as this program.
                let _ = tells.send((number, term));
            }
        }
    });
    Ok(child)
}
