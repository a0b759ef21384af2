//! What a process of callers believes.

use crate::store::{Block, Claim};

/// A process: some callers that want the lock, one after the other, and one claim at a time on their behalf.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// What it is doing.
    pub stage: Stage,
    /// How many callers still want the lock; the one that holds it included.
    pub callers: u8,
    /// The number of its last claim.
    pub claim: u8,
    /// The number of the claim of which a withdrawal is on its way.
    pub withdrawal: Option<u8>,
    /// A question of it that is still on its way, though it has asked again since, or given up.
    pub stray: Option<Stray>,
    /// Whether it stands still.
    pub paused: bool,
    /// Whether the server has a connection to it, so that messages count as received.
    pub connected: bool,
    /// The messages that have been sent to it and not read yet.
    pub inbox: Vec<Hint>,
}

/// A question that arrives at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stray {
    /// Which claim it asks for.
    pub number: u8,
    /// Whether the server remembers that the claim has ended.
    pub gone: bool,
}

/// What a process is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Nothing: no claim of it is open.
    Idle,
    /// It asked for the lock: it is queued, or does not know.
    Waiting,
    /// It believes that it holds the lock.
    Holding(Hold),
    /// It released the lock and has no answer yet.
    Releasing {
        /// Whether it gave a next claim along.
        next: bool,
    },
    /// It has crashed.
    Dead,
}

/// What a holder knows of its lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The fencing token of the caller whose turn it is.
    pub token: u8,
    /// The reserved tokens that are left: from this one
    pub next: u8,
    /// to this one.
    pub last: u8,
    /// Which grant: this and the next two are known to onlookers only.
    ///
    /// If the store forgot the lock and then granted it to the same claim again, a renewal finds the lease in the store, of a later grant
    /// than the tokens.
    pub grant: u8,
    /// Which grant `token` is of,
    pub token_of: u8,
    /// and which the tokens that are left.
    pub left_of: u8,
    /// Whether the lease was handed over and not renewed yet.
    pub grace: bool,
    /// Whether the lease is over by the holder's own clock, at which it may not have looked yet.
    pub spent: bool,
    /// Whether the caller has written to the resource.
    pub written: bool,
    /// How often the lease was passed on.
    pub passes: u8,
}

impl Hold {
    pub(crate) fn new(block: Block, grant: u8, grace: bool) -> Hold {
        Hold {
            token: block.first,
            next: block.first + 1,
            last: block.last,
            grant,
            token_of: grant,
            left_of: grant,
            grace,
            spent: false,
            written: false,
            passes: 0,
        }
    }
}

/// A message that a claim has been granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hint {
    /// Which claim of the process.
    pub number: u8,
    /// Its tokens.
    pub block: Block,
    /// Which grant: known to onlookers only.
    pub grant: u8,
    /// Whether the grace is over, counted from before the hand-over.
    pub spent: bool,
}

impl Process {
    pub(crate) fn new(callers: u8) -> Process {
        Process {
            stage: Stage::Idle,
            callers,
            claim: 0,
            withdrawal: None,
            stray: None,
            paused: false,
            connected: true,
            inbox: Vec::new(),
        }
    }

    /// Whether it has not crashed.
    pub fn lives(&self) -> bool {
        self.stage != Stage::Dead
    }

    /// Whether it runs and can talk to the server.
    pub(crate) fn is_up(&self) -> bool {
        self.lives() && !self.paused && self.connected
    }

    /// Whether it has nothing left to do.
    pub fn has_ended(&self) -> bool {
        !self.lives() || (self.stage == Stage::Idle && self.callers == 0)
    }

    /// The lease that it believes to hold, if it may rely on it.
    pub fn valid_hold(&self) -> Option<&Hold> {
        match &self.stage {
            Stage::Holding(hold) if !hold.spent => Some(hold),
            _ => None,
        }
    }

    pub(crate) fn holds(&self) -> Option<&Hold> {
        match &self.stage {
            Stage::Holding(hold) => Some(hold),
            _ => None,
        }
    }

    pub(crate) fn holds_mut(&mut self) -> Option<&mut Hold> {
        match &mut self.stage {
            Stage::Holding(hold) => Some(hold),
            _ => None,
        }
    }

    /// Its present claim.
    pub(crate) fn claim_of(&self, process: usize) -> Claim {
        Claim {
            process,
            number: self.claim,
        }
    }

    /// The caller whose turn it was is done with the lock.
    pub(crate) fn end_turn(&mut self) {
        self.callers -= 1;
        self.stage = Stage::Idle;
    }
}
