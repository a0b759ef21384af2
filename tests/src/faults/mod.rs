//! What goes wrong, on command: networks, processes and clocks.

pub mod clock;
pub mod contention;
pub mod grpc;
pub mod http;
pub mod line;
pub mod pipe;
pub mod process;
pub mod proxy;
pub mod resource;
mod resp;
pub mod turns;

use std::time::Duration;

use lock_runtime::{LockRuntime, LockRuntimeBuilder};
use tokio::time::{Instant, sleep};

use self::proxy::Proxy;
use crate::ms;
use crate::server::Server;

/// By when what must happen has happened, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The grace of the runtimes of [`builder`]; a busy machine may stand still for half of it.
pub const GRACE: Duration = Duration::from_secs(3);

/// What things may take longer than promised on a busy machine: what a test excludes takes longer.
pub const SLACK: Duration = Duration::from_secs(5);

/// How long the store has for an answer, where answers get lost.
pub const COMMAND: Duration = ms(500);

/// Waits until `condition` holds; `what` says in a failure what did not come true.
pub async fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_in(DEADLINE, what, condition).await;
}

/// The same, within this `time`.
pub async fn eventually_in(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        sleep(ms(2)).await;
    }
}

/// The same, where it takes a question to know.
pub async fn comes_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(ms(5)).await;
    }
}

/// The settings of a runtime whose patience suits a test: no lease and no question on Redis ends
/// because the machine is busy. On etcd and Consul, whose servers take seconds to elect a leader,
/// they end sooner than that.
pub fn builder(url: impl Into<String>) -> LockRuntimeBuilder {
    let url = url.into();
    let of_several = match url.split_once("://") {
        Some(("etcd", members)) => Some(LockRuntime::etcd(members.split(','))),
        Some(("consul", agents)) => Some(LockRuntime::consul(agents.split(','))),
        _ => None,
    };
    let locks = match of_several {
        Some(locks) => locks
            .default_ttl(Duration::from_secs(2))
            .default_wait(Duration::from_secs(5))
            .command_timeout(COMMAND),
        None => LockRuntime::redis(url)
            .default_ttl(2 * DEADLINE)
            .default_wait(DEADLINE)
            .command_timeout(SLACK),
    };
    locks
        .grace(GRACE)
        .heartbeat(GRACE)
        .shutdown_timeout(DEADLINE)
        // What a process says of itself now and then would be among the commands that are counted.
        .process_card(false)
}

/// A runtime as one process would have it.
pub async fn locks(url: impl Into<String>) -> LockRuntime {
    builder(url).build().await.unwrap()
}

/// A server, the proxy before it, and a runtime that goes through the proxy and gives answers up
/// soon.
pub async fn start() -> (Server, Proxy, LockRuntime) {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = builder(proxy.url()).command_timeout(COMMAND).build().await;
    (server, proxy, locks.unwrap())
}

/// The same, where an answer may be as late as a busy machine makes it.
pub async fn start_patient() -> (Server, Proxy, LockRuntime) {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = locks(proxy.url()).await;
    (server, proxy, locks)
}

/// Uses the lock until its commands go by the direct link.
pub async fn by_the_direct_link(proxy: &Proxy, locks: &LockRuntime) {
    // The first use opens it.
    can_be_had(locks, "warm").await;
    eventually("a direct link", || proxy.connections() == 2).await;
    let lane = proxy.log().first().map(|command| command.connection);
    let last_use = || {
        let log = proxy.log();
        let used = log.iter().rfind(|command| command.name == "release");
        used.map(|command| command.connection)
    };
    comes_true("it is used", async || {
        can_be_had(locks, "warm").await;
        last_use() != lane
    })
    .await;
}

/// By which channels those who wait for `key` are told, in their order.
pub fn channels(server: &Server, key: &str) -> Vec<String> {
    let queue = format!("{{lock:{key}}}:waiters");
    let members: Vec<String> = server.run(&["ZRANGE", &queue, "0", "-1"]);
    let channel = |member: &String| member.rsplit('/').nth(4).map(str::to_owned);
    members.iter().filter_map(channel).collect()
}

/// How many clients listen for each of those who wait for `key`, in their order.
pub fn listeners(server: &Server, key: &str) -> Vec<u64> {
    let listen = |channel: &String| {
        let (_, listen): (String, u64) = server.run(&["PUBSUB", "NUMSUB", channel]);
        listen
    };
    channels(server, key).iter().map(listen).collect()
}

/// Who holds the lock, as the server has it.
pub fn owner(server: &Server, key: &str) -> Option<String> {
    server.run(&["GET", &format!("lock:{key}")])
}

/// What is left of the lease, as the server has it; `None` if there is none.
pub fn remaining(server: &Server, key: &str) -> Option<Duration> {
    let millis: i64 = server.run(&["PTTL", &format!("lock:{key}")]);
    u64::try_from(millis).ok().map(Duration::from_millis)
}

/// How many claims wait, as the server has it.
pub fn waiters(server: &Server, key: &str) -> usize {
    server.run(&["ZCARD", &format!("{{lock:{key}}}:waiters")])
}

/// A figure about a command, such as `calls`, as the server has it; `None` if the command has not
/// been called.
pub fn statistic(server: &Server, command: &str, figure: &str) -> Option<f64> {
    let statistics: String = server.run(&["INFO", "commandstats"]);
    let command = format!("cmdstat_{command}:");
    let figures = statistics
        .lines()
        .find_map(|line| line.strip_prefix(&command))?;
    let (_, rest) = figures.split_once(&format!("{figure}="))?;
    rest.split(',').next()?.parse().ok()
}

/// Waits until the lock is free.
pub async fn free(server: &Server, key: &str) {
    eventually("the lock is free", || owner(server, key).is_none()).await;
}

/// Whether another has the lock.
pub async fn is_taken(locks: &LockRuntime, key: &str) -> bool {
    locks.lock(key).try_acquire().await.unwrap().is_none()
}

/// Takes the lock and gives it back.
pub async fn can_be_had(locks: &LockRuntime, key: &str) {
    let guard = locks.lock(key).acquire().await.unwrap();
    guard.release().await.unwrap();
}

/// Waits until so many claims wait.
pub async fn queued(server: &Server, key: &str, count: usize) {
    eventually(&format!("{count} claims wait"), || {
        waiters(server, key) == count
    })
    .await;
}

/// Whether the key tells the server of a claim that was withdrawn in doubt, which it does for half
/// a minute.
pub fn is_withdrawal(key: &str) -> bool {
    key.contains(":waiters:gone:")
}

/// Asserts that no lock and no queue is left, before any ttl could have helped.
pub async fn nothing_left(server: &Server) {
    let mut left = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        left = server.run::<Vec<String>>(&["KEYS", "*"]);
        let stays = |key: &str| key.ends_with(":counter") || key.ends_with(":holders");
        left.retain(|key| !stays(key) && !is_withdrawal(key));
        if left.is_empty() {
            return;
        }
        sleep(ms(5)).await;
    }
    panic!("left behind: {left:?}");
}
