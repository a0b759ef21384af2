//! What a log consists of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An instant of `CLOCK_MONOTONIC`, or a duration, in nanoseconds: the one clock that all processes
/// of a machine share.
pub type Nanos = u64;

/// Something a process did, or that was done to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Which process; for a fault, the one it hit.
    pub process: u32,
    /// Which key; `*` for a fault that concerns all.
    pub key: String,
    /// An instant before it.
    pub invoke: Nanos,
    /// An instant after it.
    #[serde(rename = "return")]
    pub returned: Nanos,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// What happened. A claim is named by a text unique to it: its owner token, or what the process
/// made up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A caller began to acquire and will wait for so long at most; written before the call, so
    /// that a call that never returns shows.
    Ask {
        /// Who asks.
        claim: String,
        /// How long it will wait.
        wait: Nanos,
    },
    /// The claim took its place in a queue.
    Queued {
        /// Who waits.
        claim: String,
        /// In which queue.
        place: Place,
    },
    /// The store granted the lock to the claim of a process, which may pass it on within itself.
    Served {
        /// Whose claim.
        claim: String,
        /// The first token of the grant.
        token: u64,
    },
    /// A caller acquired the lock, or did not.
    Acquire {
        /// Who.
        claim: String,
        /// What came of it.
        outcome: Outcome,
        /// The fencing token, if granted.
        token: Option<u64>,
        /// Until when the lease may be relied on, if granted.
        deadline: Option<Nanos>,
    },
    /// What the claim acquired goes together with others of its kind.
    Together {
        /// Who acquired it.
        claim: String,
        /// What it is.
        company: Company,
    },
    /// A holder acquired again what it holds.
    Reenter {
        /// The claim that holds the lock.
        claim: String,
        /// The token that the inner call was given.
        token: u64,
    },
    /// A lease was extended, or not.
    Renew {
        /// Whose.
        claim: String,
        /// What came of it.
        outcome: Outcome,
        /// The new deadline, if extended.
        deadline: Option<Nanos>,
    },
    /// A holder began to give the lock back (`invoke`) and heard of it (`return`).
    Release {
        /// Who.
        claim: String,
        /// What came of it.
        outcome: Outcome,
    },
    /// A body that ran under the lock came to its end (`invoke`), and its caller got the result
    /// (`return`).
    Body {
        /// Under whose lease.
        claim: String,
        /// Whether the caller was told that it ended well.
        ok: bool,
        /// Whether the caller was told that the lease was lost.
        lost: bool,
    },
    /// The holder of the claim is to be the last for a while, whatever becomes of it.
    Keep {
        /// Which.
        claim: String,
        /// Until then the key is given to nobody else; rather too early than too late.
        until: Nanos,
    },
    /// A write to the resource that the key protects.
    Write {
        /// Who wrote.
        claim: String,
        /// With which token.
        token: u64,
        /// Whether the resource accepted it.
        outcome: Outcome,
        /// The place of the write in the order of the resource, if known: the counter after it.
        seq: Option<u64>,
    },
    /// The counter of the resource at the end of the run; each accepted write has added one.
    Counter {
        /// Its value.
        value: u64,
    },
    /// What was left at the end of the run.
    End(Leftovers),
    /// A fault, from before it took effect until after it was over.
    Fault {
        /// Which.
        fault: Fault,
    },
}

/// What a lease is that goes together with others; else it is all of the key, alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Company {
    /// A share.
    Shared,
    /// So many permits.
    Permits {
        /// How many.
        take: u32,
        /// Of how many.
        of: u32,
    },
    /// The part with this number.
    Shard(u8),
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was refused: it had no effect.
    Fail,
    /// The answer was lost: it may have been done, or be done later.
    Unknown,
}

/// Which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// That of the store, where one claim of each process stands.
    Store,
    /// That of the caller's process.
    Process,
}

/// What was left at the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// The keys in the store and their ttl in milliseconds, if they have one.
    pub keys: Vec<(String, Option<u64>)>,
    /// How many claims are queued.
    pub queued: u64,
    /// How many tasks run that should not.
    pub tasks: u64,
    /// How many subscriptions are open.
    pub subscriptions: u64,
    /// How many file descriptors are open that were not at the beginning.
    pub fds: u64,
}

/// A fault, as far as a promise makes an exception for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The server lost what it stored: flushed, evicted, deleted by hand, restarted without
    /// persistence.
    DataLoss,
    /// The server's clock was moved.
    ClockJump,
    /// The server kept what it granted, but may have lost who waits: the queue was deleted, or
    /// connections broke by which waiters are told.
    PlaceLost,
    /// A replica took over that had not heard of everything.
    Failover,
    /// The process was killed.
    Killed,
    /// The process stood still.
    Stopped,
    /// The process lost its connection.
    Disconnected,
    /// Anything else: it excuses nothing.
    Other,
}
