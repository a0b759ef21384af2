//! What a run is asked to do, and which faults it plans: both follow from the command line alone.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How many locks there are on each server.
pub(crate) const KEYS: usize = 10;
/// How long a handed-over lease lives until its first renewal.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How often a waiter asks although nothing was heard.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// The furthest that a clock is moved.
pub(crate) const LONGEST_SHIFT: Duration = Duration::from_secs(3);

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) store: Store,
    pub(crate) processes: usize,
    pub(crate) tasks: usize,
    pub(crate) sabotage: Option<Sabotage>,
    /// Where to keep the logs, whatever they show.
    pub(crate) logs: Option<PathBuf>,
}

/// Which store the locks are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    /// Four Redis servers, each with troubles of its own.
    #[default]
    Redis,
    /// One cluster of etcd, of three members.
    Etcd,
}

impl Store {
    pub(crate) fn parse(text: &str) -> Option<Store> {
        serde_json::from_value(text.into()).ok()
    }

    pub(crate) fn places(self) -> &'static [Place] {
        match self {
            Store::Redis => &[Place::Lossy, Place::Durable, Place::Clock, Place::Network],
            Store::Etcd => &[Place::Cluster],
        }
    }

    /// The names of all locks.
    pub(crate) fn keys(self) -> impl Iterator<Item = String> {
        self.places().iter().copied().flat_map(Place::keys)
    }

    /// The longest ttl that a lock is asked for with.
    pub(crate) fn longest_ttl(self) -> Duration {
        match self {
            Store::Redis => Duration::from_secs(1),
            // Longer than an election.
            Store::Etcd => Duration::from_secs(3),
        }
    }

    /// How long a question may take.
    pub(crate) fn command_timeout(self) -> Duration {
        match self {
            Store::Redis => Duration::from_millis(400),
            Store::Etcd => Duration::from_secs(1),
        }
    }
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
    /// The resource does not look at fencing tokens.
    NoFence,
}

impl Sabotage {
    pub(crate) fn parse(text: &str) -> Option<Sabotage> {
        serde_json::from_value(text.into()).ok()
    }
}

/// A lock server, by what it may suffer beside what all do. Each excuses another promise at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Loses what it stored.
    Lossy,
    /// Crashes, but writes everything down.
    Durable,
    /// Has a clock that is moved. It keeps its data: with both at once, tokens may fall (the hole H1 of the fault catalogue).
    Clock,
    /// Is reached through a network that fails.
    Network,
    /// Is etcd, of which members die, stand still and are cut off, and in which operators intervene.
    Cluster,
}

impl Place {
    /// The names of its locks.
    pub(crate) fn keys(self) -> Vec<String> {
        (0..KEYS).map(|number| self.key(number)).collect()
    }

    pub(crate) fn key(self, number: usize) -> String {
        format!("{self:?}:{number}").to_lowercase()
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
    pub(crate) fn all() -> impl Iterator<Item = Target> {
        let redis = Store::Redis.places().iter().copied().map(Target::Server);
        let etcd = Store::Etcd.places().iter().copied().map(Target::Server);
        redis.chain([Target::Processes]).chain(etcd)
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
        let number = Target::all().position(|other| other == target);
        let number = u64::try_from(number.unwrap_or_default()).unwrap_or_default();
        Schedule {
            rng: Rng::with_seed(
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .wrapping_add(number),
            ),
            kinds: target.kinds(),
            deck: Vec::new(),
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
            pause: Duration::from_millis(self.rng.u64(200..2_000)),
            kind: self.deck.pop()?,
            length: Duration::from_millis(self.rng.u64(50..900)),
            choice: self.rng.u64(..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64, target: Target) -> Vec<Step> {
        Schedule::new(seed, target).take(500).collect()
    }

    #[test]
    fn the_seed_reproduces_the_schedule() {
        for target in Target::all() {
            assert_eq!(schedule(7, target), schedule(7, target));
            assert_ne!(schedule(7, target), schedule(8, target));
        }
    }

    #[test]
    fn every_kind_of_fault_comes_soon() {
        for target in Target::all() {
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
    }
}
