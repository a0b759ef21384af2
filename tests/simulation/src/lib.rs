//! A simulation of the lock: the shipped state machine of a key in several processes, the pure
//! store, and a network, processes and callers that go wrong by chance.
//!
//! One seed is one history: nothing else is random, and no clock is read. An onlooker who knows the
//! true time checks every [`Promise`] at every step, and the history ends at the first that is
//! broken. `cargo run -p lock-simulation -- --seed N --trace` tells it line by line.
//!
//! - `world`: what happens next; `chance`: what decides where it is open.
//! - [`explore`]: every order of events; `sum`: when two states are one.
//! - [`company`]: a smaller world of leases that go together.
//! - [`transcript`]: what happened to the store.
//! - `process`, `engine`, `caller`: a process, what its engine does around a machine, and what its
//!   callers do.
//! - `network`, `server`: connections, the client of the store, and the store.
//! - `storm`, [`Fault`]: what goes wrong, and when.
//! - `onlooker`, [`Promise`]: what must hold; `together`: which leases may be there at once.
//! - [`Rows`]: which rows of the table of the machine were taken.

mod caller;
mod chance;
mod clock;
pub mod company;
mod engine;
pub mod explore;
mod fault;
mod mistakes;
mod network;
mod onlooker;
mod process;
mod promise;
mod rows;
mod server;
mod storm;
mod sum;
mod together;
pub mod transcript;
mod words;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::Mode;

use crate::chance::Chance;
pub use crate::fault::Fault;
pub use crate::process::Wish;
pub use crate::promise::{Promise, Violation};
pub use crate::rows::Rows;
pub use crate::server::{Body, Reply, THIEF, Way};
use crate::transcript::Entry;
use crate::world::World;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What chance begins with.
    pub seed: u64,
    /// How many events the machines are given before the end begins.
    pub steps: u64,
    /// How many processes there are.
    pub processes: usize,
    /// How many callers each of them has.
    pub callers: usize,
    /// How many keys they want.
    pub keys: usize,
    /// Whether neither the data of the server nor its clock go back: a replay on a real server can
    /// do no more.
    pub goes_on: bool,
    /// Whether every holder keeps its key for a while, many callers are not polled, and the server
    /// refuses often: what only these bring about together is rare otherwise.
    pub keeps: bool,
    /// What callers want of a key, one as often as the other; all of it, if none is said.
    pub modes: &'static [Mode],
    /// The fault that happens, if no other does.
    pub only: Option<Fault>,
}

/// Modes that keep each other out and go together in every way.
const COMPANY: &[Mode] = {
    const SHARED: Mode = Mode::Shared;
    const ONE: Mode = Mode::Permits { take: 1, of: 3 };
    const TWO: Mode = Mode::Permits { take: 2, of: 3 };
    const fn shard(except: u64) -> Mode {
        Mode::Shard {
            of: 3,
            prefer: 0,
            except,
        }
    }
    &[
        Mode::Exclusive,
        Mode::Exclusive,
        SHARED,
        SHARED,
        SHARED,
        SHARED,
        SHARED,
        SHARED,
        ONE,
        ONE,
        TWO,
        shard(0),
        shard(0),
        shard(0b001),
        shard(0b110),
    ]
};

impl Plan {
    /// The history of this seed, in its usual length.
    pub fn new(seed: u64) -> Plan {
        Plan {
            seed,
            steps: 20_000,
            processes: 3,
            callers: 3,
            keys: 2,
            goes_on: false,
            keeps: false,
            modes: &[],
            only: None,
        }
    }

    /// The history of this seed, with many keys that are [kept](Plan::keeps).
    pub fn keeping(seed: u64) -> Plan {
        Plan {
            keeps: true,
            ..Plan::new(seed)
        }
    }

    /// The history of this seed, of one key that is wanted in every mode.
    pub fn company(seed: u64) -> Plan {
        Plan {
            keys: 1,
            callers: 4,
            modes: COMPANY,
            ..Plan::new(seed)
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What chance began with.
    pub seed: u64,
    /// How many events the machines were given.
    pub steps: u64,
    /// How long it took in the true time of the simulation.
    pub time: Duration,
    /// How often each row of the table was taken.
    pub rows: Rows,
    /// How often each fault happened, in the order of [`Fault::ALL`].
    pub faults: Vec<u64>,
    /// How often a caller was granted a lock.
    pub grants: u64,
    /// How many writes of holders that had lost their lock were refused.
    pub stale_writes: u64,
    /// How often a key was to be kept for a minimum hold.
    pub kept: u64,
    /// How often a process crashed, or ended, while a key was to be kept for it.
    pub kept_by_dead: u64,
    /// How often a caller was granted something of each kind.
    pub granted: BTreeMap<&'static str, u64>,
    /// How often a reader joined those of its process.
    pub joined: u64,
    /// How often the store served several at once.
    pub batches: u64,
    /// How often a claim did not hear that it was handed the lock, and got it by asking.
    pub made_up: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
}

/// Lets a history happen, and tells it line by line to `trace`.
pub fn run(plan: &Plan, trace: Option<&mut dyn FnMut(&str)>) -> Report {
    World::new(plan, Chance::seeded(plan.seed)).run(trace)
}

/// Lets a history happen in which the server only goes on, and says what happened to the store.
pub fn transcribe(plan: &Plan) -> (Report, Vec<Entry>) {
    let plan = &Plan {
        goes_on: true,
        ..plan.clone()
    };
    let mut world = World::new(plan, Chance::seeded(plan.seed));
    world.transcript = Some(Vec::new());
    let report = world.run(None);
    (report, world.transcript.unwrap_or_default())
}
