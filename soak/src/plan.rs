//! What a run is asked to do, and which faults it plans: both follow from the command line alone.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How many locks there are on each server.
pub(crate) const KEYS: usize = 10;
/// How many permits a key has, and how many parts.
pub(crate) const PERMITS: u32 = 3;
pub(crate) const SHARDS: u8 = 4;
/// How long a handed-over lease lives until its first renewal.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How often a waiter asks although nothing was heard.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// The furthest that a clock is moved.
pub(crate) const LONGEST_SHIFT: Duration = Duration::from_secs(3);

/// How many servers hold the locks where a majority does.
const NODES: u8 = 5;
/// Of these, how many have a clock that is moved: a minority, since the time of most is what is to
/// be told.
const MOVED_CLOCKS: u8 = 2;
/// How much rarer a server fails that is one of several.
const RARER: u64 = 4;

/// The name of what a part of a key protects.
pub(crate) fn share(key: &str, shard: u8) -> String {
    format!("{key}#{shard}")
}

/// What holds the locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    /// Single Redis servers, of which each suffers from something else.
    // Older versions, which may take part in a run, know it by the other name.
    #[default]
    #[serde(rename = "single", alias = "redis")]
    Redis,
    /// A majority of five Redis servers.
    Redlock,
    /// A cluster of etcd, of three members.
    Etcd,
    /// Three servers of Consul.
    Consul,
}

impl Store {
    pub(crate) fn parse(text: &str) -> Option<Store> {
        serde_json::from_value(text.into()).ok()
    }

    /// What fails by itself: servers, or a cluster of them.
    pub(crate) fn places(self) -> Vec<Place> {
        match self {
            Store::Redis => vec![Place::Lossy, Place::Durable, Place::Clock, Place::Network],
            Store::Redlock => (0..NODES).map(Place::Node).collect(),
            Store::Etcd => vec![Place::Cluster],
            Store::Consul => vec![Place::Agents],
        }
    }

    /// A place for each lock runtime of a process, after which its locks are named.
    pub(crate) fn lock_places(self) -> Vec<Place> {
        let mut places = self.places();
        if self == Store::Redlock {
            places.truncate(1);
        }
        places
    }

    /// The names of all locks.
    pub(crate) fn keys(self) -> Vec<String> {
        let places = self.lock_places();
        places.into_iter().flat_map(Place::keys).collect()
    }

    /// The longest ttl that a lock is asked for with.
    pub(crate) fn longest_ttl(self) -> Duration {
        match self {
            Store::Redis | Store::Redlock => Duration::from_secs(1),
            // Longer than an election.
            Store::Etcd => Duration::from_secs(3),
            // What a dead holder had is free after twice as long.
            Store::Consul => Duration::from_secs(4),
        }
    }

    /// How long the answer to a command may take.
    pub(crate) fn command_timeout(self) -> Duration {
        match self {
            Store::Redis | Store::Redlock => Duration::from_millis(400),
            Store::Etcd | Store::Consul => Duration::from_secs(1),
        }
    }

    /// How long everything goes on after the last fault; whatever is stuck then is stuck for good.
    pub(crate) fn calm(self) -> Duration {
        match self {
            Store::Redis | Store::Redlock | Store::Etcd => Duration::from_secs(2),
            // What a dead process had costs its session and its delay, and its session once more
            // where the leader changes.
            Store::Consul => 4 * self.longest_ttl(),
        }
    }

    /// How soon a process ends that is told to.
    pub(crate) fn end(self) -> Duration {
        Duration::from_secs(18) + self.calm()
    }

    /// Whether a release can keep a key taken for a while.
    pub(crate) fn keeps(self) -> bool {
        self == Store::Redis
    }

    /// Whether there is what `sabotage` removes.
    pub(crate) fn has_protection(self, sabotage: Sabotage) -> bool {
        match self {
            Store::Redis => sabotage != Sabotage::NoRestartDelay,
            // Which serves in no order, and nobody together.
            Store::Redlock => !matches!(
                sabotage,
                Sabotage::Overtake
                    | Sabotage::ShortKeep
                    | Sabotage::PermitTooMany
                    | Sabotage::ReaderBesideWriter
                    | Sabotage::ShardTwice
            ),
            Store::Etcd | Store::Consul => sabotage == Sabotage::NoFence,
        }
    }
}

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) store: Store,
    pub(crate) processes: usize,
    pub(crate) tasks: usize,
    pub(crate) sabotage: Option<Sabotage>,
    /// Another version of this program, which every second process is of.
    pub(crate) other: Option<PathBuf>,
    /// Where to keep the logs, whatever they show.
    pub(crate) logs: Option<PathBuf>,
}

/// A protection that is removed, which the run must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sabotage {
    /// Some locks are granted although another holds them.
    DoubleGrant,
    /// Some grants have a fencing token from a minute ago.
    LowFence,
    /// Some releases leave the key behind, for ever.
    LeakKey,
    /// Claims are put in front of those that wait already.
    Overtake,
    /// Some questions block the thread that asks.
    Hang,
    /// Keys that are to stay taken are given to whoever is next.
    ShortKeep,
    /// One permit more is given than there are.
    PermitTooMany,
    /// Some readers are let in though others have the lock.
    ReaderBesideWriter,
    /// Everybody is given the first shard.
    ShardTwice,
    /// The resource does not look at fencing tokens.
    NoFence,
    /// Of several servers, those that have lost their data vote at once.
    NoRestartDelay,
}

impl Sabotage {
    pub(crate) fn parse(text: &str) -> Option<Sabotage> {
        serde_json::from_value(text.into()).ok()
    }
}

/// A lock server, by what it may suffer beside what all do. Each excuses another promise at the
/// most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Loses what it stored.
    Lossy,
    /// Crashes, but writes everything down.
    Durable,
    /// Has a clock that is moved. It keeps its data: with both at once, tokens may fall (the hole
    /// H1 of the fault catalogue).
    Clock,
    /// Is reached through a network that fails.
    Network,
    /// Is one of several of which a majority holds the locks.
    Node(u8),
    /// Is etcd, of which members die, stand still and are cut off, and in which operators
    /// intervene.
    Cluster,
    /// Is Consul, of which servers die and stand still, and in which operators intervene.
    Agents,
}

impl Place {
    /// Whether its clock is moved.
    pub(crate) fn has_clock(self) -> bool {
        match self {
            Place::Clock => true,
            Place::Node(node) => node < MOVED_CLOCKS,
            _ => false,
        }
    }

    /// Whether it is reached through a proxy.
    pub(crate) fn has_proxy(self) -> bool {
        matches!(self, Place::Network | Place::Node(_))
    }

    /// The names of its locks.
    pub(crate) fn keys(self) -> Vec<String> {
        (0..KEYS).map(|number| self.key(number)).collect()
    }

    pub(crate) fn key(self, number: usize) -> String {
        match self {
            Place::Node(_) => format!("redlock:{number}"),
            _ => format!("{self:?}:{number}").to_lowercase(),
        }
    }

    fn kinds(self) -> &'static [Kind] {
        match self {
            Place::Lossy => &[
                Kind::RestartEmpty,
                Kind::FlushAll,
                Kind::HeldKeyDeleted,
                Kind::HeldKeyDeleted,
                Kind::FenceDeleted,
                Kind::QueueDeleted,
                Kind::ScriptFlush,
            ],
            Place::Durable => &[
                Kind::RestartPersisted,
                Kind::ServerStopped,
                Kind::ClientPause,
                Kind::OutOfMemory,
                Kind::ScriptFlush,
                Kind::ClientsKilled,
            ],
            Place::Clock => &[
                Kind::ClockForward,
                Kind::ClockForward,
                Kind::QueueDeleted,
                Kind::OneClientKilled,
                Kind::ServerStopped,
            ],
            Place::Network => &[
                Kind::ReplyLost,
                Kind::RequestLost,
                Kind::ReplyCut,
                Kind::RequestCut,
                Kind::ReplyDelayed,
                Kind::RequestRepeated,
                Kind::HandOverLost,
                Kind::Partition,
            ],
            Place::Node(_) if self.has_clock() => &[
                Kind::RestartEmpty,
                Kind::ClockForward,
                Kind::ServerStopped,
                Kind::FlushAll,
                Kind::Partition,
                Kind::ReplyLost,
                Kind::RequestLost,
                Kind::RequestRepeated,
            ],
            Place::Node(_) => &[
                Kind::RestartEmpty,
                Kind::ServerStopped,
                Kind::FlushAll,
                Kind::HeldKeyDeleted,
                Kind::Partition,
                Kind::ReplyLost,
                Kind::ReplyCut,
                Kind::ReplyDelayed,
                Kind::HandOverLost,
            ],
            Place::Cluster => &[
                Kind::LeaderKilled,
                Kind::MemberKilled,
                Kind::LeaderStopped,
                Kind::MemberStopped,
                Kind::LeaderCutOff,
                Kind::MemberCutOff,
                Kind::ClientsCut,
                Kind::ClientsHeld,
                Kind::HeldKeyDeleted,
                Kind::LeaseRevoked,
                Kind::Compacted,
            ],
            Place::Agents => &[
                Kind::LeaderKilled,
                Kind::MemberKilled,
                Kind::LeaderStopped,
                Kind::MemberStopped,
                Kind::ClientsCut,
                Kind::ClientsHeld,
                Kind::HeldKeyDeleted,
                Kind::LeaseRevoked,
            ],
        }
    }
}

/// A kind of fault. Those behind the blank line are made by the holders and waiters themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    HolderKilled,
    WaiterKilled,
    HolderStoppedShort,
    HolderStoppedLong,
    RestartEmpty,
    RestartPersisted,
    FlushAll,
    HeldKeyDeleted,
    FenceDeleted,
    QueueDeleted,
    ScriptFlush,
    ServerStopped,
    ClientPause,
    OutOfMemory,
    ClientsKilled,
    OneClientKilled,
    ClockForward,
    ClockBack,
    ReplyLost,
    RequestLost,
    ReplyCut,
    RequestCut,
    ReplyDelayed,
    RequestRepeated,
    HandOverLost,
    Partition,
    LeaderKilled,
    MemberKilled,
    LeaderStopped,
    MemberStopped,
    LeaderCutOff,
    MemberCutOff,
    ClientsCut,
    ClientsHeld,
    LeaseRevoked,
    Compacted,

    AcquireCancelled,
    BodyDropped,
    BodyPanicked,
    ExecutorBlocked,
}

impl Kind {
    /// Whether it may cost those who wait their places: connections break, or messages get lost.
    pub(crate) fn costs_places(self) -> bool {
        matches!(
            self,
            Kind::RestartPersisted
                | Kind::ServerStopped
                | Kind::ClientPause
                | Kind::ClientsKilled
                | Kind::OneClientKilled
                | Kind::ReplyLost
                | Kind::RequestLost
                | Kind::ReplyCut
                | Kind::RequestCut
                | Kind::ReplyDelayed
                | Kind::RequestRepeated
                | Kind::HandOverLost
                | Kind::Partition
                | Kind::LeaderKilled
                | Kind::MemberKilled
                | Kind::LeaderStopped
                | Kind::MemberStopped
                | Kind::LeaderCutOff
                | Kind::MemberCutOff
                | Kind::ClientsCut
                | Kind::ClientsHeld
        )
    }

    pub(crate) fn parse(text: &str) -> Option<Kind> {
        serde_json::from_value(text.into()).ok()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a schedule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Server(Place),
    Processes,
}

impl Target {
    /// Where each has its own schedule.
    fn number(self) -> u64 {
        match self {
            Target::Server(Place::Lossy) => 0,
            Target::Server(Place::Durable) => 1,
            Target::Server(Place::Clock) => 2,
            Target::Server(Place::Network) => 3,
            Target::Processes => 4,
            Target::Server(Place::Node(node)) => 5 + u64::from(node),
            Target::Server(Place::Cluster) => 5 + u64::from(NODES),
            Target::Server(Place::Agents) => 6 + u64::from(NODES),
        }
    }

    fn kinds(self) -> &'static [Kind] {
        match self {
            Target::Server(place) => place.kinds(),
            Target::Processes => &[
                Kind::HolderKilled,
                Kind::WaiterKilled,
                Kind::HolderStoppedShort,
                Kind::HolderStoppedLong,
            ],
        }
    }
}

/// The faults of one target, without an end. All kinds come equally often, in an order of chance.
pub(crate) struct Schedule {
    rng: Rng,
    kinds: &'static [Kind],
    deck: Vec<Kind>,
    /// How much longer the pauses are.
    slower: u64,
}

/// A fault to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// How long to wait before it.
    pub(crate) pause: Duration,
    pub(crate) kind: Kind,
    /// How long it lasts, if it is one that lasts.
    pub(crate) length: Duration,
    /// What decides among several that it could hit.
    pub(crate) choice: u64,
}

impl Schedule {
    pub(crate) fn new(seed: u64, target: Target) -> Schedule {
        Schedule {
            rng: Rng::with_seed(
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .wrapping_add(target.number()),
            ),
            kinds: target.kinds(),
            deck: Vec::new(),
            slower: match target {
                // Its elections take seconds.
                Target::Server(Place::Node(_) | Place::Agents) => RARER,
                _ => 1,
            },
        }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.deck.is_empty() {
            self.deck = self.kinds.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        Some(Step {
            pause: Duration::from_millis(self.slower * self.rng.u64(200..2_000)),
            kind: self.deck.pop()?,
            length: Duration::from_millis(self.rng.u64(50..900)),
            choice: self.rng.u64(..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Target> {
        let places = [Store::Redis, Store::Redlock, Store::Etcd, Store::Consul].map(Store::places);
        let servers = places.concat().into_iter().map(Target::Server);
        servers.chain([Target::Processes])
    }

    fn schedule(seed: u64, target: Target) -> Vec<Step> {
        Schedule::new(seed, target).take(500).collect()
    }

    #[test]
    fn the_seed_reproduces_the_schedule() {
        for target in all() {
            assert_eq!(schedule(7, target), schedule(7, target));
            assert_ne!(schedule(7, target), schedule(8, target));
        }
    }

    #[test]
    fn every_kind_of_fault_comes_soon() {
        for target in all() {
            let steps = schedule(7, target);
            for kind in target.kinds() {
                let soon = &steps[..target.kinds().len()];
                assert!(soon.iter().any(|step| step.kind == *kind), "{kind}");
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(
            Kind::parse(&Kind::OutOfMemory.to_string()),
            Some(Kind::OutOfMemory)
        );
        assert_eq!(Sabotage::parse("double-grant"), Some(Sabotage::DoubleGrant));
        assert_eq!(Place::Lossy.key(3), "lossy:3");
        assert_eq!(Store::parse("redis"), Some(Store::Redis));
        assert_eq!(Store::parse("single"), Some(Store::Redis));
        assert_eq!(Store::parse("redlock"), Some(Store::Redlock));
        assert_eq!(Store::parse("etcd"), Some(Store::Etcd));
        assert_eq!(Store::parse("consul"), Some(Store::Consul));
        assert_eq!(Store::Redlock.keys().len(), KEYS);
        assert_eq!(Store::Etcd.keys()[3], "cluster:3");
    }

    #[test]
    fn an_older_version_is_told_the_store_by_the_name_that_it_knows() {
        let names = [Store::Redis, Store::Redlock].map(serde_json::to_value);
        assert_eq!(names.map(Result::unwrap), ["single", "redlock"]);
    }

    #[test]
    fn each_store_has_the_fence() {
        for store in [Store::Redis, Store::Redlock, Store::Etcd, Store::Consul] {
            assert!(store.has_protection(Sabotage::NoFence), "{store:?}");
        }
        assert!(!Store::Redis.has_protection(Sabotage::NoRestartDelay));
        assert!(!Store::Redlock.has_protection(Sabotage::Overtake));
        assert!(!Store::Etcd.has_protection(Sabotage::DoubleGrant));
    }
}
