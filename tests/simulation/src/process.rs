//! One process: its machines, its callers, its questions under way and its connection.

use std::collections::{BTreeMap, VecDeque};

use lock_protocol::machine::{Answer, Ask, Key, LeaseId, Outcome, WaiterId};
use lock_protocol::{FencingToken, Instant, OwnerToken, Renewed, Terms};

use crate::clock::{Clock, Time};
use crate::world::Happening;

/// The name of a question under way.
pub(crate) type FlightId = u64;

pub(crate) struct Process {
    /// Which of its lives: a process that crashed is started again.
    pub(crate) life: u32,
    pub(crate) clock: Clock,
    pub(crate) condition: Condition,
    pub(crate) machines: BTreeMap<usize, Machine>,
    /// The largest number of the machines that it had for each key.
    pub(crate) numbers: Vec<u64>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) flights: BTreeMap<FlightId, Flight>,
    pub(crate) link: Link,
    /// What happened to it while it stood still.
    pub(crate) missed: VecDeque<Happening>,
    /// Since when it runs without a stop.
    pub(crate) runs_since: Time,
    /// Since when it shuts down.
    pub(crate) closing_since: Option<Time>,
    pub(crate) last_waiter: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Runs,
    StandsStill,
    IsDead,
}

/// The connection of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// The number of the present connection, or of the last.
    pub(crate) epoch: u32,
    pub(crate) is_up: bool,
    pub(crate) since: Time,
    /// The largest number that was sent of each key.
    pub(crate) largest: Vec<u64>,
    /// When the last of what is under way arrives, since nothing overtakes within a connection.
    pub(crate) up: Time,
    pub(crate) down: Time,
    /// Which connection the server takes for open.
    pub(crate) seen: Option<(u32, u32)>,
}

pub(crate) struct Machine {
    pub(crate) key: Key,
    pub(crate) timer: u64,
    /// When it asked last.
    pub(crate) asked_at: Time,
    /// How often it asked at this very instant.
    pub(crate) asked: u32,
    /// Since when somebody waits for it to ask.
    pub(crate) waited_since: Option<Time>,
    /// Which claim was told when to look, and has not asked since.
    pub(crate) look_by: Option<(OwnerToken, Instant)>,
}

/// A question under way, from the view of its asker.
pub(crate) struct Flight {
    pub(crate) key: usize,
    pub(crate) what: What,
    pub(crate) owners: Vec<OwnerToken>,
    pub(crate) sent_at: Instant,
    pub(crate) epoch: u32,
    /// The caller whose future asks; else it is asked in the background.
    pub(crate) pump: Option<usize>,
    /// What was heard while the caller was parked.
    pub(crate) heard: Option<Heard>,
}

#[derive(Clone)]
pub(crate) enum What {
    Ask(Ask),
    Renew(LeaseId),
    /// A question of the client itself.
    GiveBack,
}

#[derive(Clone)]
pub(crate) enum Heard {
    Answer(Answer),
    Renewed(Option<Renewed>),
}

pub(crate) struct Caller {
    pub(crate) doing: Doing,
    pub(crate) turn: u64,
    pub(crate) parked_until: Time,
    pub(crate) drop_at: Option<Time>,
}

pub(crate) enum Doing {
    Nothing,
    Waits {
        id: WaiterId,
        key: usize,
        terms: Terms,
        deadline: Instant,
        outcome: Option<Outcome>,
    },
    Holds {
        key: usize,
        lease: LeaseId,
        token: FencingToken,
        /// How many were granted the key before.
        place: u64,
        until: Time,
    },
    Releases {
        key: usize,
        lease: LeaseId,
        since: Time,
        is_told: bool,
    },
}

impl Process {
    pub(crate) fn new(clock: Clock, keys: usize, callers: usize) -> Process {
        let caller = |_| Caller {
            doing: Doing::Nothing,
            turn: 0,
            parked_until: 0,
            drop_at: None,
        };
        Process {
            life: 0,
            clock,
            condition: Condition::Runs,
            machines: BTreeMap::new(),
            numbers: vec![0; keys],
            callers: (0..callers).map(caller).collect(),
            flights: BTreeMap::new(),
            link: Link {
                largest: vec![0; keys],
                ..Link::default()
            },
            missed: VecDeque::new(),
            runs_since: 0,
            closing_since: None,
            last_waiter: 0,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let mut callers = self.callers.iter();
        callers.all(|caller| matches!(caller.doing, Doing::Nothing))
    }
}
