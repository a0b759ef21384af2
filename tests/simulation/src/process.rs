//! One process: its machines, its callers, its questions under way and its connection.

use std::collections::{BTreeMap, VecDeque};

use lock_protocol::machine::{Answer, Ask, Key, LeaseId, Outcome, WaiterId};
use lock_protocol::{FencingToken, Instant, Mode, OwnerToken, Renewed, Terms};

use crate::clock::{Clock, Time};
use crate::together::KINDS;
use crate::world::{Happening, ToProcess};

/// The name of a question under way.
pub(crate) type FlightId = u64;

#[derive(Clone)]
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
    pub(crate) last_owner: u64,
    /// After which the numbers of its machines begin.
    pub(crate) first_number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) key: Key,
    pub(crate) timer: u64,
    /// When it asked last.
    pub(crate) asked_at: Time,
    /// How often it asked at this very instant.
    pub(crate) asked: u32,
    /// What it did for each kind of leases.
    pub(crate) asked_of: [Asked; KINDS.len()],
    /// Which claims were told when to look, and have not asked since.
    pub(crate) look_by: BTreeMap<OwnerToken, Instant>,
}

/// When a machine asked for leases of a kind.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Asked {
    /// When it did last.
    pub(crate) at: Time,
    /// Since when somebody waits for it to ask.
    pub(crate) waited_since: Option<Time>,
}

/// What a caller wants, where it does not want what chance has it want.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Of the key.
    pub mode: Mode,
    /// Whether the key is to stay taken for a while.
    pub keeps: bool,
}

/// A question under way, from the view of its asker.
#[derive(Clone)]
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

#[derive(Clone, Hash)]
#[expect(clippy::large_enum_variant, reason = "most are questions")]
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

#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) doing: Doing,
    pub(crate) turn: u64,
    pub(crate) parked_until: Time,
    pub(crate) drop_at: Option<Time>,
    /// How often it still wants a lock.
    pub(crate) wants: u32,
    /// What it wants each time.
    pub(crate) wish: Option<Wish>,
}

#[derive(Clone)]
pub(crate) enum Doing {
    Nothing,
    Waits {
        id: WaiterId,
        key: usize,
        terms: Terms,
        deadline: Instant,
        outcome: Option<Outcome>,
    },
    /// It is to keep the key, and its lease may be too short for that.
    Begins {
        key: usize,
        lease: LeaseId,
        token: FencingToken,
        shard: u8,
        place: u64,
        terms: Terms,
        tries: u32,
    },
    Holds {
        key: usize,
        lease: LeaseId,
        token: FencingToken,
        mode: Mode,
        shard: u8,
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
            wants: u32::MAX,
            wish: None,
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
            last_owner: 0,
            first_number: 0,
        }
    }

    /// Whether this would change nothing any more.
    pub(crate) fn is_over(&self, what: &ToProcess) -> bool {
        match what {
            ToProcess::Fails(flight, _) => !self.flights.contains_key(flight),
            ToProcess::Time(key, timer) => {
                let machine = self.machines.get(key);
                machine.is_none_or(|machine| machine.timer != *timer)
            }
            ToProcess::Turn(caller, turn) => {
                let Caller {
                    doing,
                    turn: its,
                    wants,
                    ..
                } = &self.callers[*caller];
                its != turn || *wants == 0 && matches!(doing, Doing::Nothing)
            }
            _ => false,
        }
    }

    /// Whether this is a caller that only leaves, which makes no difference to anybody else.
    pub(crate) fn is_leaving(&self, what: &ToProcess) -> bool {
        let ToProcess::Turn(caller, _) = what else {
            return false;
        };
        match &self.callers[*caller].doing {
            Doing::Releases { is_told, .. } => *is_told,
            Doing::Waits { outcome, .. } => {
                let outcome = outcome.as_ref();
                outcome.is_some_and(|it| !matches!(it, Outcome::Granted(_)))
            }
            Doing::Nothing | Doing::Begins { .. } | Doing::Holds { .. } => false,
        }
    }

    /// Whether its callers are done, and it is.
    pub(crate) fn has_ended(&self) -> bool {
        let mut callers = self.callers.iter();
        self.is_idle() && callers.all(|caller| caller.wants == 0) && self.machines.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        let mut callers = self.callers.iter();
        callers.all(|caller| matches!(caller.doing, Doing::Nothing))
    }
}
