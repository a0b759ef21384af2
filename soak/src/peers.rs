//! The same faults for other locks of the ecosystem.

use std::fmt;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use lock_peers::{Failure, Peer, Terms};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::proxy::{Fault, Proxy};
use lock_tests::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How often each fault is caused.
const ROUNDS: u32 = 10;
/// How often an acquire is dropped.
const DROPS: u32 = 300;
const TTL: Duration = Duration::from_secs(1);
/// Longer than anything that is waited for.
const LONG: Duration = Duration::from_secs(8);

use crate::fleet::OWN_PROGRAM;

type Fallible<T> = Result<T, Failure>;

/// Whose locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    LockRuntime,
    Rslock,
    Rlock,
}

impl FromStr for Library {
    type Err = String;

    fn from_str(name: &str) -> Result<Library, String> {
        let known = [Library::LockRuntime, Library::Rslock, Library::Rlock];
        let found = known
            .into_iter()
            .find(|library| library.to_string() == name);
        found.ok_or_else(|| format!("{name} is not compared"))
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Library::LockRuntime => "lock-runtime",
            Library::Rslock => "rslock",
            Library::Rlock => "rlock",
        })
    }
}

impl Library {
    async fn connect(self, url: &str) -> Fallible<Client> {
        let peer = match self {
            Library::LockRuntime => {
                return Ok(Client::Ours(LockRuntime::redis(url).build().await?));
            }
            Library::Rslock => Peer::Rslock,
            Library::Rlock => Peer::Rlock,
        };
        Ok(Client::Peer(peer.connect(url, None).await?))
    }

    /// The name of a lock in the store.
    fn stored(self, key: &str) -> String {
        match self {
            Library::LockRuntime => format!("lock:{key}"),
            Library::Rslock | Library::Rlock => key.to_owned(),
        }
    }
}

enum Client {
    Ours(LockRuntime),
    Peer(lock_peers::Client),
}

impl Client {
    async fn acquire(&self, key: &str, ttl: Duration, wait: Duration) -> Fallible<Guard> {
        Ok(match self {
            Client::Ours(locks) => {
                Guard::Ours(locks.lock(key).ttl(ttl).wait(wait).acquire().await?)
            }
            Client::Peer(client) => {
                let terms = Terms::new(ttl, Some(wait), None)?;
                Guard::Peer(client.acquire(key, &terms).await?)
            }
        })
    }

    /// Reads for as long as `section`.
    async fn read(&self, key: &str, section: Duration) -> Fallible<()> {
        match self {
            Client::Ours(locks) => {
                let guard = locks.lock(key).ttl(TTL * 10).shared().acquire().await?;
                sleep(section).await;
                Ok(guard.release().await?)
            }
            Client::Peer(client) => {
                let terms = Terms::new(TTL * 10, Some(LONG), None)?;
                client.read(key, &terms, section).await
            }
        }
    }

    /// Has the lock of a writer once.
    async fn write(&self, key: &str) -> Fallible<()> {
        match self {
            Client::Ours(locks) => {
                let lock = locks.lock(key).ttl(TTL * 10).wait(LONG);
                Ok(lock.acquire().await?.release().await?)
            }
            Client::Peer(client) => {
                let terms = Terms::new(TTL * 10, Some(LONG), None)?;
                client.write(key, &terms).await
            }
        }
    }

    /// Holds a renewed lock for a while, in the way that notices best that it is lost. Tells when
    /// it began.
    async fn hold(
        &self,
        key: &str,
        ttl: Duration,
        hold: Duration,
        began: impl FnOnce(),
    ) -> Fallible<()> {
        match self {
            Client::Ours(locks) => {
                let body = async |_| {
                    began();
                    sleep(hold).await;
                };
                Ok(locks.lock(key).ttl(ttl).wait(LONG).run(body).await?)
            }
            Client::Peer(client) => {
                let terms = Terms::new(ttl, Some(LONG), None)?;
                client.hold(key, &terms, hold, began).await
            }
        }
    }
}

enum Guard {
    Ours(LockGuard),
    Peer(lock_peers::Guard),
}

impl Guard {
    async fn release(self) {
        // Whether it succeeded is seen in the store.
        match self {
            Guard::Ours(guard) => drop(guard.release().await),
            Guard::Peer(guard) => drop(guard.release().await),
        }
    }
}

macro_rules! row {
    ($name:literal, $measure:ident) => {
        println!(
            concat!("| ", $name, " | {} | {} | {} |"),
            $measure(Library::LockRuntime).await?,
            $measure(Library::Rslock).await?,
            $measure(Library::Rlock).await?,
        )
    };
}

/// Prints a table: the rows of the fault catalogue, and what each library makes of them.
pub(crate) fn compare() -> Fallible<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        println!("| fault | lock-runtime | rslock | rlock |\n|---|---|---|---|");
        row!(
            "H1: holder killed; the next one has the lock this long after the end of the ttl",
            holder_killed
        );
        row!(
            "H2: holder stopped beyond its ttl, another has held the lock; its body",
            holder_stopped
        );
        row!(
            "W1: connection cut instead of an answer; acquire, and a key left behind",
            answer_cut
        );
        row!(
            "W1: answer lost silently; acquire, and a key left behind",
            answer_lost
        );
        row!(
            "W5: acquire of a free lock dropped; keys left behind",
            acquire_dropped
        );
        row!(
            "R1: server restarted empty; the holder is told after",
            server_restarted
        );
        row!("R3: key deleted; the holder is told after", key_deleted);
        row!(
            "R17: server stopped; the holder is told, counted from the end of the lease",
            server_stopped
        );
        row!(
            "R17: acquire that may take 500 ms, from a stopped server, ends after",
            server_silent
        );
        row!(
            "readers without a break, 10 tasks of 20 ms; a writer of another process waits",
            endless_readers
        );
        Ok(())
    })
}

/// How long a writer waits for readers of whom there are some at any time.
async fn endless_readers(library: Library) -> Fallible<String> {
    const READERS: u32 = 10;
    let section = Duration::from_millis(20);
    if library == Library::Rslock {
        return Ok("has no readers".to_owned());
    }
    let server = Server::start();
    let readers = Arc::new(library.connect(&server.url()).await?);
    let writer = library.connect(&server.url()).await?;
    let mut tasks = JoinSet::new();
    for number in 0..READERS {
        let readers = Arc::clone(&readers);
        tasks.spawn(async move {
            // So that they do not all end at once.
            sleep(section / READERS * number).await;
            loop {
                let read = readers.read("k", section).await;
                if let Err(error) = read.map_err(|error| error.to_string()) {
                    return error;
                }
            }
        });
    }
    let mut waits = Vec::new();
    let writing = async {
        for _ in 0..ROUNDS / 2 {
            sleep(section * 5).await;
            let since = Instant::now();
            if writer.write("k").await.is_err() {
                return Ok::<_, Failure>(());
            }
            waits.push(since.elapsed().as_millis());
        }
        Ok(())
    };
    tokio::select! {
        ended = tasks.join_next() => {
            return Err(ended.transpose()?.unwrap_or_default().into());
        }
        ended = writing => ended?,
    }
    Ok(match waits.iter().max() {
        Some(longest) if waits.len() == ROUNDS as usize / 2 => format!("{longest} ms (longest)"),
        _ => format!("in vain, for {} s", LONG.as_secs()),
    })
}

async fn holder_killed(library: Library) -> Fallible<String> {
    let server = Server::start();
    let waiter = library.connect(&server.url()).await?;
    let mut late = Vec::new();
    for round in 0..ROUNDS {
        let key = format!("k{round}");
        let mut holder = Holder::start(library, &server.url(), &key, LONG)?;
        holder.line()?;
        let waiting = async {
            let guard = waiter.acquire(&key, TTL, LONG).await?;
            Ok::<_, Failure>((Instant::now(), guard))
        };
        let killing = async {
            sleep(Duration::from_millis(100 + u64::from(round) * 20)).await;
            holder.signal(Signal::STOP)?;
            let left: u64 = server.run(&["PTTL", &library.stored(&key)]);
            let expected = Instant::now() + Duration::from_millis(left);
            holder.child.kill()?;
            Ok::<_, Failure>(expected)
        };
        let (waited, expected) = tokio::join!(waiting, killing);
        let (at, guard) = waited?;
        late.push(at.saturating_duration_since(expected?).as_millis());
        guard.release().await;
    }
    late.sort_unstable();
    Ok(format!(
        "{} ms (median), {} ms (longest)",
        late[late.len() / 2],
        late[late.len() - 1]
    ))
}

async fn holder_stopped(library: Library) -> Fallible<String> {
    let server = Server::start();
    let other = library.connect(&server.url()).await?;
    let mut well = 0;
    for round in 0..ROUNDS {
        let key = format!("k{round}");
        let mut holder = Holder::start(library, &server.url(), &key, TTL / 2)?;
        holder.line()?;
        holder.signal(Signal::STOP)?;
        let guard = other.acquire(&key, TTL, LONG).await?;
        holder.signal(Signal::CONT)?;
        well += u32::from(holder.line()?.starts_with("Ok"));
        guard.release().await;
    }
    Ok(match well {
        0 => "ends as lost".to_owned(),
        _ => format!("returns Ok in {well} of {ROUNDS} cases"),
    })
}

async fn answer_cut(library: Library) -> Fallible<String> {
    without_answer(library, Fault::CutAnswer).await
}

async fn answer_lost(library: Library) -> Fallible<String> {
    without_answer(library, Fault::LoseAnswer).await
}

async fn without_answer(library: Library, fault: Fault) -> Fallible<String> {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let (mut acquired, mut left) = (0, 0);
    for round in 0..ROUNDS {
        let client = library.connect(&proxy.url()).await?;
        client.acquire("first", TTL, LONG).await?.release().await;
        let before = proxy.faults();
        proxy.fault("*", fault);
        let key = format!("k{round}");
        let outcome = client.acquire(&key, LONG, Duration::from_secs(3)).await;
        assert!(proxy.faults() > before, "nothing was lost");
        if let Ok(guard) = outcome {
            acquired += 1;
            guard.release().await;
        }
        sleep(Duration::from_millis(500)).await;
        left += server.run::<u32>(&["EXISTS", &library.stored(&key)]);
        proxy.heal();
    }
    Ok(format!("{acquired} of {ROUNDS} succeed, {left} keys left"))
}

async fn acquire_dropped(library: Library) -> Fallible<String> {
    let server = Server::start();
    let client = library.connect(&server.url()).await?;
    let mut rng = Rng::with_seed(1);
    let started = Instant::now();
    for _ in 0..20 {
        client.acquire("first", TTL, LONG).await?.release().await;
    }
    // Within this time an acquire is under way.
    let typical = u64::try_from(started.elapsed().as_micros() / 40)?;
    let mut dropped = Vec::new();
    while dropped.len() < DROPS as usize {
        let key = format!("k{}", rng.u64(..));
        let patience = Duration::from_micros(rng.u64(..typical.max(2)));
        match timeout(patience, client.acquire(&key, LONG * 4, LONG)).await {
            Ok(guard) => guard?.release().await,
            Err(_) => dropped.push(key),
        }
    }
    sleep(Duration::from_millis(500)).await;
    let left: u32 = dropped
        .iter()
        .map(|key| server.run::<u32>(&["EXISTS", &library.stored(key)]))
        .sum();
    Ok(format!("{} %", left * 100 / DROPS))
}

async fn server_restarted(library: Library) -> Fallible<String> {
    told(library, |server, _| {
        server.kill();
        server.restart();
    })
    .await
}

async fn key_deleted(library: Library) -> Fallible<String> {
    told(library, |server, key| {
        assert_eq!(server.run::<u32>(&["DEL", key]), 1, "nothing was deleted");
    })
    .await
}

/// After how long a holder is told that its lock with a ttl of 2 s is gone.
async fn told(library: Library, lose: fn(&mut Server, &str)) -> Fallible<String> {
    let mut times = Vec::new();
    let mut server = Server::start();
    for round in 0..ROUNDS / 2 {
        let client = library.connect(&server.url()).await?;
        let (began, begun) = oneshot::channel();
        let key = format!("k{round}");
        let hold = client.hold(&key, TTL * 2, LONG, || began.send(()).unwrap_or(()));
        let losing = async {
            begun.await?;
            sleep(Duration::from_millis(u64::from(round) * 130)).await;
            lose(&mut server, &library.stored(&key));
            Ok::<_, Failure>(Instant::now())
        };
        let held = async { (hold.await.is_err(), Instant::now()) };
        let ((told, at), lost) = tokio::join!(held, losing);
        if !told {
            return Ok("never: the body returns Ok".to_owned());
        }
        times.push(at.saturating_duration_since(lost?).as_millis());
    }
    times.sort_unstable();
    Ok(format!("{}–{} ms", times[0], times[times.len() - 1]))
}

async fn server_stopped(library: Library) -> Fallible<String> {
    let mut server = Server::start();
    let mut times = Vec::new();
    for round in 0..ROUNDS / 2 {
        let client = library.connect(&server.url()).await?;
        let (began, begun) = oneshot::channel();
        let key = format!("k{round}");
        let hold = client.hold(&key, TTL, LONG, || began.send(()).unwrap_or(()));
        let stopping = async {
            begun.await?;
            sleep(Duration::from_millis(u64::from(round) * 130)).await;
            let left: u64 = server.run(&["PTTL", &library.stored(&key)]);
            let end = Instant::now() + Duration::from_millis(left);
            server.pause();
            sleep(TTL * 5 / 2).await;
            server.resume();
            Ok::<_, Failure>(end)
        };
        let held = async { (hold.await.is_err(), Instant::now()) };
        let ((told, at), end) = tokio::join!(held, stopping);
        let end = end?;
        if !told {
            return Ok("never: the body returns Ok".to_owned());
        }
        let late = at.saturating_duration_since(end).as_millis() as i128;
        times.push(late - end.saturating_duration_since(at).as_millis() as i128);
    }
    times.sort_unstable();
    Ok(format!("{:+}–{:+} ms", times[0], times[times.len() - 1]))
}

async fn server_silent(library: Library) -> Fallible<String> {
    let mut server = Server::start();
    let client = library.connect(&server.url()).await?;
    client.acquire("first", TTL, LONG).await?.release().await;
    server.pause();
    let started = Instant::now();
    let wait = Duration::from_millis(500);
    // rslock takes no deadline; its call is given the time of the others.
    let wait = if library == Library::Rslock {
        LONG
    } else {
        wait
    };
    drop(client.acquire("k", TTL, wait).await);
    let took = started.elapsed();
    server.resume();
    Ok(if took >= LONG {
        "no deadline of its own".to_owned()
    } else {
        format!("{} ms", took.as_millis())
    })
}

/// A process that holds a lock of a library.
struct Holder {
    child: Child,
}

impl Holder {
    fn start(library: Library, url: &str, key: &str, hold: Duration) -> Fallible<Holder> {
        let child = Command::new(OWN_PROGRAM)
            .args(["peer", &library.to_string(), url, key])
            .arg(hold.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Holder { child })
    }

    /// The next thing that it says.
    fn line(&mut self) -> Fallible<String> {
        use std::io::Read;
        let output = self.child.stdout.as_mut().ok_or("it has no output")?;
        let mut line = String::new();
        let mut byte = [0];
        while output.read(&mut byte)? == 1 && byte != *b"\n" {
            line.push(char::from(byte[0]));
        }
        Ok(line)
    }

    fn signal(&self, signal: Signal) -> Fallible<()> {
        let pid = i32::try_from(self.child.id())?;
        Ok(kill_process(
            Pid::from_raw(pid).ok_or("no process id")?,
            signal,
        )?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What such a process does.
pub(crate) fn be_holder(library: &str, url: &str, key: &str, millis: &str) -> Fallible<()> {
    let library: Library = library.parse()?;
    let hold = Duration::from_millis(millis.parse()?);
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = library.connect(url).await?;
        let outcome = client.hold(key, TTL, hold, || println!("began")).await;
        println!("{outcome:?}");
        Ok(())
    })
}
