//! Votes that are split among the claims that ask for them, so that nobody has a majority.
//!
//! `SPLITS=10000 cargo test --release -p lock-tests --test redlock splits:: -- --nocapture`
//! resolves so many of each kind, and prints what it took.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lock_conformance::inbox::Inbox;
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_runtime::redlock::RedlockBackend;
use lock_tests::faults::{DEADLINE, eventually};
use lock_tests::ms;
use lock_tests::redlock_store::{connect, five};
use lock_tests::server::Server;
use redis::Connection;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A ttl that never runs out while a split is resolved.
const TTL: Duration = Duration::from_secs(120);
/// How many splits are watched by one listener, whose memory they take.
const WATCHED: usize = 100;
/// What a claim may send to a server until the split that it is in is resolved, in 99 of 100 cases.
const MESSAGES: usize = 10;

/// How many splits of each kind.
fn count() -> usize {
    std::env::var("SPLITS").map_or(100, |text| text.parse().unwrap())
}

/// A claim as a process of its own makes it.
struct Process {
    backend: RedlockBackend,
    inbox: Arc<Inbox>,
}

impl Process {
    async fn start(servers: &[Server]) -> Arc<Process> {
        let backend = connect(servers).await;
        let inbox = Inbox::of(&backend);
        Arc::new(Process { backend, inbox })
    }

    /// Asks until the lock is granted, as often as it is told to.
    async fn wait_for(&self, claim: &Claim) {
        loop {
            match self.backend.acquire(claim).await.unwrap() {
                Acquired::Granted(_) => return,
                Acquired::Queued(holder) => {
                    let left = holder.remaining.unwrap().min(claim.heartbeat);
                    let _ = timeout(left, self.inbox.changed(claim)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Who is asked behind the back of the claims.
fn clients(servers: &[Server]) -> Vec<Connection> {
    servers.iter().map(Server::client).collect()
}

/// For whom each server has voted.
fn holders(clients: &mut [Connection], key: &LockKey) -> Vec<Option<String>> {
    let get = redis::cmd("GET").arg(key.stored()).to_owned();
    let holder = |client: &mut Connection| get.query(client).unwrap();
    clients.iter_mut().map(holder).collect()
}

/// A split of the votes is what its owners were given.
fn split(clients: &mut [Connection], key: &LockKey, owners: &[&OwnerToken], ttl: Duration) {
    for (client, owner) in clients.iter_mut().zip(owners) {
        let mut set = redis::cmd("SET");
        set.arg(key.stored()).arg(owner.as_str());
        set.arg("PX").arg(u64::try_from(ttl.as_millis()).unwrap());
        set.exec(client).unwrap();
    }
    let split = holders(clients, key);
    let wanted = owners.iter().map(|owner| Some(owner.to_string()));
    assert!(split.iter().cloned().eq(wanted), "{split:?}");
}

/// What has become of a split.
struct Resolved {
    owners: Vec<OwnerToken>,
    /// When the first of them was granted the lock, by the wall clock, which the servers tell, too.
    at: Duration,
    within: Duration,
    /// After how long all had had their turn.
    all_within: Duration,
}

/// The votes of `servers` are split as `votes` says, by the number of a claim for each, and the
/// claims ask.
async fn resolve(
    processes: &[Arc<Process>],
    clients: &mut [Connection],
    votes: &[usize],
    number: usize,
) -> Resolved {
    let key = LockKey::new("lock:", &format!("split {number}")).unwrap();
    let claims: Vec<_> = (0..=*votes.iter().max().unwrap())
        .map(|_| Claim::new(key.clone(), OwnerToken::unique("split"), TTL).queued())
        .collect();
    let owners: Vec<_> = votes.iter().map(|claim| &claims[*claim].owner).collect();
    split(clients, &key, &owners, TTL);
    let most = |owner: &OwnerToken| owners.iter().filter(|other| **other == owner).count();
    assert!(claims.iter().all(|claim| most(&claim.owner) < 3));

    let started = Instant::now();
    let inside = Arc::new(AtomicBool::new(false));
    let mut turns = JoinSet::new();
    for (claim, process) in claims.iter().cloned().zip(processes) {
        let (process, inside) = (Arc::clone(process), Arc::clone(&inside));
        turns.spawn(async move {
            process.wait_for(&claim).await;
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            assert!(!inside.swap(true, Ordering::SeqCst), "two have the lock");
            tokio::task::yield_now().await;
            inside.store(false, Ordering::SeqCst);
            let release = Release::new(claim.key.clone(), claim.owner.clone());
            // Where answers are lost and it is asked again, it finds that it has released.
            process.backend.release(&release).await.unwrap();
            at
        });
    }
    let first = turns.join_next().await.unwrap().unwrap();
    let within = started.elapsed();
    let rest = timeout(DEADLINE, turns.join_all()).await;
    let rest = rest.expect("a claim waited for a ttl");
    assert!(started.elapsed() < TTL / 2, "a claim waited for a ttl");
    Resolved {
        at: rest.into_iter().chain([first]).min().unwrap(),
        owners: claims.into_iter().map(|claim| claim.owner).collect(),
        within,
        all_within: started.elapsed(),
    }
}

/// How many messages of the claim had come to the server by then.
fn messages(commands: &[String], owner: &OwnerToken, by: Duration) -> usize {
    let is_its = |command: &&String| {
        let (at, words) = command.split_once(' ').unwrap();
        words.contains(owner.as_str()) && at.parse::<f64>().unwrap() <= by.as_secs_f64()
    };
    commands.iter().filter(is_its).count()
}

fn percentile<T: Ord + Copy>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

/// `votes` of servers that answer; those that it leaves out are down.
async fn splits(votes: &[usize]) {
    let mut servers = five();
    let mut processes = Vec::new();
    for _ in 0..5 {
        processes.push(Process::start(&servers).await);
    }
    for server in &mut servers[votes.len()..] {
        server.kill();
    }
    let mut clients = clients(&servers[..votes.len()]);
    let (mut sent, mut times, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let numbers: Vec<_> = (0..count()).collect();
    for numbers in numbers.chunks(WATCHED) {
        let monitor = servers[0].monitor();
        let mut resolved = Vec::new();
        for number in numbers {
            // In turns, so that no claim has always the votes of the same servers.
            let mut votes = votes.to_vec();
            let turned = number % votes.len();
            votes.rotate_left(turned);
            resolved.push(resolve(&processes, &mut clients, &votes, *number).await);
        }
        let commands = monitor.commands(&servers[0]);
        for split in resolved {
            let of_one = |owner| messages(&commands, owner, split.at);
            sent.push(split.owners.iter().map(of_one).max().unwrap());
            times.push(split.within);
            all.push(split.all_within);
        }
    }
    let most = percentile(&mut sent, 99);
    println!(
        "{votes:?}: {} splits, messages to a server p50 {} p99 {most} most {}; until the first \
         grant p50 {:?} p99 {:?}, the last p50 {:?} p99 {:?}",
        sent.len(),
        percentile(&mut sent, 50),
        percentile(&mut sent, 100),
        percentile(&mut times, 50),
        percentile(&mut times, 99),
        percentile(&mut all, 50),
        percentile(&mut all, 99),
    );
    assert!(sent[0] > 0, "no claim was seen to ask");
    assert!(most <= MESSAGES, "{most} messages of a claim to one server");
}

#[tokio::test]
async fn votes_that_are_split_among_three_are_resolved_by_few_messages() {
    splits(&[0, 0, 1, 1, 2]).await;
}

#[tokio::test]
async fn votes_that_are_split_evenly_where_one_server_is_down_are_resolved_by_few_messages() {
    splits(&[0, 0, 1, 1]).await;
}

#[tokio::test]
async fn votes_that_are_split_among_five_are_resolved_by_few_messages() {
    splits(&[0, 1, 2, 3, 4]).await;
}

/// What makes it so is that the claims give votes back: those of claims that ask for nothing stay
/// for their ttl.
#[tokio::test]
async fn votes_of_claims_that_do_not_ask_stay_split_for_their_ttl() {
    let servers = five();
    let process = Process::start(&servers).await;
    let mut clients = clients(&servers);
    let key = LockKey::new("lock:", "split").unwrap();
    let dead: Vec<_> = (0..3).map(|_| OwnerToken::unique("dead")).collect();
    let owners: Vec<_> = [0, 0, 1, 1, 2].iter().map(|claim| &dead[*claim]).collect();
    let ttl = ms(1500);
    let set_at = Instant::now();
    split(&mut clients, &key, &owners, ttl);
    let claim = Claim::new(key.clone(), OwnerToken::unique("split"), TTL).queued();
    process.wait_for(&claim).await;
    assert!(set_at.elapsed() >= ttl, "{:?}", set_at.elapsed());
    let release = Release::new(key.clone(), claim.owner.clone());
    process.backend.release(&release).await.unwrap();
    eventually("no vote stays", || {
        holders(&mut clients, &key).iter().all(Option::is_none)
    })
    .await;
    let others: HashSet<_> = dead.iter().collect();
    assert_eq!(others.len(), 3);
}
