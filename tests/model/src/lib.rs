//! The lock's protocol as a model: what can happen to one key, in every order, with a bounded number of faults.
//!
//! A [`Protocol`] is checked by stateright, which visits every reachable [`State`] and looks at every property (`properties.rs`).
//!
//! - `store`: what Redis holds, and the four scripts. A script is atomic.
//! - `process`: what a process of callers believes.
//! - `step`: what can happen next, faults included.
//! - `properties`: what must hold.
//! - `bug`: mistakes that can be put into the protocol, each of which must break a property.
//!
//! # What stands for what
//!
//! There is no time. A lease *may* end whenever nobody is entitled to rely on it: its holder is dead, stands still, has given it up, or
//! does not know yet that it is the owner. That a live holder's own clock runs out before the store's is what the lease arithmetic of the
//! lock guarantees (`lock-protocol/src/terms.rs`), and is assumed here. No script runs when a lease ends.
//!
//! A command is carried out at once or never. A withdrawal may be late, too: nobody waits for its
//! answer, and meanwhile its process goes on. So may the first question of a claim be, which its
//! process takes for lost. The server remembers for as long as that lasts that its claim has ended.
//!
//! `TIME` moves on by [`BLOCK`] from one acquire to the next and by one from a release to the hand-over in it, so that the counter does
//! run ahead of it; losing data takes longer than a block has microseconds.

mod bug;
mod process;
mod properties;
mod step;
mod store;

pub use bug::Bug;
pub use process::{Hint, Hold, Process, Stage, Stray};
pub use properties::{Expected, properties};
pub use step::{Action, Fate, Lost};
pub use store::{Answer, Block, Claim, Owner, Store};

/// How many fencing tokens a claim asks for: its own, and one to pass the lease on with.
pub const BLOCK: u8 = 2;

/// A protocol to be checked, and how far.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// For each process, how many of its callers want the lock, each once.
    pub callers: Vec<u8>,
    /// How many faults may happen.
    pub faults: u8,
    /// How often a process may pass a lease on before others get their turn.
    pub passes: u8,
    /// The mistake in it, if any.
    pub bug: Option<Bug>,
}

impl Protocol {
    /// The protocol with `clients` processes, the first of which has two callers.
    pub fn new(clients: usize, faults: u8) -> Protocol {
        let mut callers = vec![1; clients];
        if let Some(first) = callers.first_mut() {
            *first = 2;
        }
        Protocol {
            callers,
            faults,
            passes: 1,
            bug: None,
        }
    }

    /// The same with a mistake in it.
    #[must_use]
    pub fn with(mut self, bug: Bug) -> Protocol {
        self.bug = Some(bug);
        self
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

/// Everything at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the server holds.
    pub store: Store,
    /// The processes.
    pub processes: Vec<Process>,
    /// What the lock protects.
    pub resource: Resource,
    /// How many faults have happened.
    pub faults: u8,
    /// What only an onlooker knows.
    pub seen: Seen,
}

/// A resource that refuses fencing tokens smaller than one it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The highest token it has seen.
    pub token: u8,
    /// The latest grant of which it accepted a write.
    pub grant: u8,
}

/// What only an onlooker knows: for the properties, never for a decision of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The highest token that was ever given to a caller or reserved.
    pub token: u8,
    /// Whether the store forgot an owner.
    pub owner_forgotten: bool,
    /// Whether the lock is free because a lease ran out or was forgotten.
    pub lapsed: bool,
    /// Whether a write was accepted after one of a later grant.
    pub stale_write: bool,
    /// Whether a lease was granted with a token that is not larger than all before.
    pub token_fell: bool,
    /// Whether somebody took the lock away from a live owner.
    pub evicted: bool,
    /// Whether a live waiter was passed by somebody who came later.
    pub overtaken: bool,
    /// Whether a claim was still there after it was withdrawn.
    pub withdrawn_stayed: bool,
}
