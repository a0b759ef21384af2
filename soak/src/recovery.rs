//! How soon somebody gets the lock again: after the death of its holder, of a waiter that is being
//! handed it, and of the server.

use std::error::Error;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lock_runtime::{LockError, LockRuntime};
use lock_tests::faults::{eventually, owner, queued, remaining};
use lock_tests::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fleet::{OWN_PROGRAM, pid_of, state};
use crate::plan::GRACE;

const TTL: Duration = Duration::from_secs(1);
/// How much later than by the ttl, or by the grace, the next holder may have the lock.
const SLACK: Duration = Duration::from_millis(100);
/// By when the lock can be acquired after the server has come back.
const BACK: Duration = Duration::from_secs(1);
/// How many holders are killed at a time, each with a lock of its own.
const AT_ONCE: usize = 4;

/// What was measured.
pub(crate) struct Recovery {
    holders: Times,
    waiters: Times,
    restarts: Times,
}

impl Recovery {
    /// Kills so many holders, and a quarter as many waiters and a tenth as many servers.
    pub(crate) fn measure(kills: usize) -> Result<Recovery, Box<dyn Error>> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            Ok(Recovery {
                holders: kill_holders(kills).await?,
                waiters: kill_waiters(kills.div_ceil(4)).await?,
                restarts: restart_servers(kills.div_ceil(10)).await?,
            })
        })
    }

    /// Whether everything came in time.
    pub(crate) fn is_in_time(&self) -> bool {
        self.holders.p99() <= SLACK && self.waiters.p99() <= SLACK && self.restarts.p99() <= BACK
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "killed holders, after the end of their ttl: {}",
            self.holders
        )?;
        writeln!(
            f,
            "waiters killed with the lock in the post, after the end of the grace: {}",
            self.waiters
        )?;
        write!(
            f,
            "restarted servers, after their first answer: {}",
            self.restarts
        )
    }
}

/// How much later than was to be expected; what was early counts as zero.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        let index = (self.0.len() as f64 * share) as usize;
        self.0.get(index.min(last)).copied().unwrap_or_default()
    }

    fn p99(&self) -> Duration {
        self.at(0.99)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| self.at(share).as_millis());
        let count = self.0.len();
        write!(
            f,
            "{count} times, p50 {half} ms, p99 {most} ms, longest {all} ms"
        )
    }
}

async fn kill_holders(kills: usize) -> Result<Times, Box<dyn Error>> {
    let server = Server::start();
    let locks = connect(&server.url()).await?;
    let mut times = Vec::new();
    while times.len() < kills {
        let mut victims = Vec::new();
        for index in 0..AT_ONCE.min(kills - times.len()) {
            let key = format!("holder:{}", times.len() + index);
            let victim = Victim::start(&server.url(), &key)?;
            victims.push((victim, key));
        }
        let mut successors = JoinSet::new();
        for (mut victim, key) in victims {
            victim.hear_that_it_holds()?;
            let (locks, wanted) = (locks.clone(), key.clone());
            let waiting = tokio::spawn(async move { acquire(&locks, &wanted).await });
            queued(&server, &key, 1).await;
            victim.stop().await?;
            let expected = Instant::now() + remaining(&server, &key).unwrap_or_default();
            victim.kill()?;
            assert_eq!(
                holder(&server, &key),
                Some(victim.pid()),
                "it died without the lock"
            );
            successors.spawn(async move { Ok::<_, LockError>(late(expected, waiting.await)) });
        }
        for late in successors.join_all().await {
            times.push(late??);
        }
    }
    Ok(Times::new(times))
}

async fn kill_waiters(kills: usize) -> Result<Times, Box<dyn Error>> {
    let server = Server::start();
    let (locks, others) = (connect(&server.url()).await?, connect(&server.url()).await?);
    let mut times = Vec::new();
    for kill in 0..kills {
        let key = format!("waiter:{kill}");
        let held = locks.lock(&key).acquire().await?;
        let mut victim = Victim::start(&server.url(), &key)?;
        queued(&server, &key, 1).await;
        let (others, wanted) = (others.clone(), key.clone());
        let waiting = tokio::spawn(async move { acquire(&others, &wanted).await });
        queued(&server, &key, 2).await;
        // It cannot take in what it is sent, and nobody can tell.
        victim.stop().await?;
        held.release().await?;
        let expected = Instant::now() + GRACE;
        assert_eq!(
            holder(&server, &key),
            Some(victim.pid()),
            "it was not handed the lock"
        );
        victim.kill()?;
        times.push(late(expected, waiting.await)?);
    }
    Ok(Times::new(times))
}

async fn restart_servers(restarts: usize) -> Result<Times, Box<dyn Error>> {
    let mut server = Server::start();
    let locks = connect(&server.url()).await?;
    let mut times = Vec::new();
    for restart in 0..restarts {
        acquire(&locks, "restart").await?;
        server.kill();
        // Somebody wants the lock all the time, so that the pauses between attempts grow.
        let wanted = locks.clone();
        let waiting = tokio::spawn(async move { acquire(&wanted, "restart").await });
        sleep(Duration::from_millis(200 * (restart as u64 % 20))).await;
        server.restart();
        times.push(late(Instant::now(), waiting.await)?);
    }
    Ok(Times::new(times))
}

async fn connect(url: &str) -> Result<LockRuntime, LockError> {
    let builder = LockRuntime::redis(url).default_ttl(TTL).grace(GRACE);
    builder.default_wait(Duration::from_secs(30)).build().await
}

/// When the lock was acquired; it is released again.
async fn acquire(locks: &LockRuntime, key: &str) -> Result<Instant, LockError> {
    let guard = locks.lock(key).acquire().await?;
    let acquired = Instant::now();
    guard.release().await?;
    Ok(acquired)
}

fn late(
    expected: Instant,
    acquired: Result<Result<Instant, LockError>, tokio::task::JoinError>,
) -> Result<Duration, LockError> {
    let acquired = acquired.expect("the waiter does not panic")?;
    Ok(acquired.saturating_duration_since(expected))
}

/// The process that holds the lock, as the server has it.
fn holder(server: &Server, key: &str) -> Option<u32> {
    owner(server, key).as_deref().and_then(pid_of)
}

/// A process that takes a lock and keeps it.
struct Victim(Child);

impl Victim {
    fn start(url: &str, key: &str) -> Result<Victim, Box<dyn Error>> {
        let child = Command::new(OWN_PROGRAM)
            .args(["victim", url, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Victim(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn hear_that_it_holds(&mut self) -> Result<(), Box<dyn Error>> {
        let output = self.0.stdout.take().ok_or("it has been heard already")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            return Err("the holder does not hold".into());
        }
        Ok(())
    }

    async fn stop(&self) -> Result<(), Box<dyn Error>> {
        let pid = i32::try_from(self.pid())?;
        kill_process(Pid::from_raw(pid).ok_or("no process id")?, Signal::STOP)?;
        let pid = self.pid();
        eventually("the process stands still", || state(pid) == Some('T')).await;
        Ok(())
    }

    fn kill(&mut self) -> Result<(), Box<dyn Error>> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // One that has been killed cannot be killed again.
        let _ = self.kill();
    }
}

/// What a victim does, until the end of its input.
pub(crate) fn be_victim(url: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let locks = runtime.block_on(connect(url))?;
    let _held = runtime.block_on(locks.lock(key).acquire())?;
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
