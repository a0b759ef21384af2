//! What is told to observers.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{BackendError, FencingToken, LockKey, LostReason, Note, Process};

/// Something that happened to a lock, or to its store.
///
/// Cloning is cheap, so an observer can send it on and work on it elsewhere.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockEvent {
    /// A caller wants the lock. What follows is one of [`Acquired`](LockEvent::Acquired) and
    /// [`Refused`](LockEvent::Refused).
    Asked {
        /// Which lock.
        lock: LockRef,
    },
    /// Another holds the lock, and the store has put the claim of this process into its queue. One
    /// claim waits there for all tasks of the process.
    Queued {
        /// Which lock.
        lock: LockRef,
        /// The rest of the holder's lease, if known.
        remaining: Option<Duration>,
    },
    /// A caller has the lock.
    Acquired {
        /// Which lock.
        lock: LockRef,
        /// How long the caller waited.
        waited: Duration,
        /// How the lock was acquired.
        via: Via,
        /// The fencing token of this holder.
        fencing_token: FencingToken,
        /// The process that had the lock while the caller waited: this one, if it was passed on
        /// within it, else the one that the store told last, if it told any.
        previous: Option<Process>,
        /// How many other tasks of this process wait for the lock.
        waiting: usize,
    },
    /// A caller did not get the lock.
    Refused {
        /// Which lock.
        lock: LockRef,
        /// How long the caller waited.
        waited: Duration,
        /// Why not.
        refusal: Refusal,
    },
    /// A holder released the lock, and the outcome is known.
    Released {
        /// Which lock.
        lock: LockRef,
        /// The fencing token of the holder.
        fencing_token: FencingToken,
        /// How long it had held the lock.
        held: Duration,
        /// Whether nobody waited for the release: the guard, or the call, was dropped.
        dropped: bool,
        /// Why the store did not confirm it, if it did not: the lock is then free after its ttl.
        unconfirmed: Option<Arc<BackendError>>,
    },
    /// The lease of a holder can no longer be proven: another may hold the lock now.
    Lost {
        /// Which lock.
        lock: LockRef,
        /// The fencing token of the holder.
        fencing_token: FencingToken,
        /// How long it had held the lock.
        held: Duration,
        /// How the loss was noticed.
        reason: LostReason,
        /// The renewals in a row that had failed by then, if any.
        cause: Option<Arc<RenewalFailures>>,
    },
    /// A holder held the lock longer than its `max_hold`.
    MaxHold {
        /// Which lock.
        lock: LockRef,
        /// The fencing token of the holder.
        fencing_token: FencingToken,
        /// The limit.
        limit: Duration,
    },
    /// A body reached no `.await` for half of its ttl or longer: nothing else ran on its thread,
    /// and a lost lock would not have ended it. It is told when it is over.
    Blocked {
        /// Which lock.
        lock: LockRef,
        /// The fencing token of the holder.
        fencing_token: FencingToken,
        /// For how long.
        blocked: Duration,
        /// The ttl of the lock.
        ttl: Duration,
    },
    /// The store confirmed that a lease goes on.
    Renewed {
        /// Which lock.
        lock: LockRef,
        /// The rest of the lease by the local clock: how close it was to being lost.
        margin: Duration,
        /// The renewals in a row that had failed before, if any.
        after: Option<Arc<RenewalFailures>>,
    },
    /// A renewal had no answer; it is tried again as long as the lease lives.
    RenewalFailed {
        /// Which lock.
        lock: LockRef,
        /// The rest of the lease.
        left: Duration,
        /// This failure and those before it in a row.
        cause: Arc<RenewalFailures>,
    },
    /// The store was asked.
    Store {
        /// What it was asked.
        verb: Verb,
        /// Time until the answer, or until nobody waited for it any more.
        took: Duration,
        /// Why there was no answer; `None` if there was one.
        failure: Option<Failure>,
    },
    /// A connection to the store was opened.
    Connected {
        /// Where to.
        address: Arc<str>,
        /// What the connection is for.
        way: &'static str,
    },
    /// A connection to the store was given up, or could not be opened.
    Disconnected {
        /// Where to.
        address: Arc<str>,
        /// What the connection was for.
        way: &'static str,
        /// Whether there had been one.
        was_connected: bool,
        /// Why; `None` if it was closed because the runtime ends.
        cause: Option<Arc<BackendError>>,
    },
    /// A function of yours panicked. Its result was replaced by the default; a panicking observer
    /// misses the event. Told once for each function.
    Panicked {
        /// The setting: `retry`, `owner_tokens`, `observer`.
        function: &'static str,
    },
    /// The store keeps leases for longer than the ttl that was asked for. That delays only the
    /// takeover after a crash. Told once for each ttl.
    TtlRaised {
        /// What was asked for.
        ttl: Duration,
        /// How long the store keeps it.
        kept_for: Duration,
    },
    /// The store knows no shares, permits or shards, so it locks the whole key for a lock of this
    /// name. Told once for each name.
    GrantedAlone {
        /// The name of the lock.
        name: &'static str,
        /// What is asked for: `shared`, `permits` or `shards`.
        mode: &'static str,
    },
    /// Two locks were taken in both orders, each while the other was held: two callers may each
    /// wait for the other. Told once for two names; `keys` in the attribute takes them together.
    BothOrders {
        /// The name of one.
        first: &'static str,
        /// The name of the other.
        second: &'static str,
        /// The functions that took the inner lock: the second within the first, and the first
        /// within the second; `-` if the lock was taken by hand.
        functions: [&'static str; 2],
        /// The functions that held the outer lock then.
        outer_functions: [&'static str; 2],
    },
    /// The runtime was shut down while locks were held.
    StillHeld {
        /// Up to ten of their keys.
        keys: Vec<LockKey>,
        /// How many there were.
        locks: usize,
    },
}

impl LockEvent {
    /// What a store noted.
    pub(crate) fn of(note: &Note) -> Option<LockEvent> {
        match note.clone() {
            Note::Connected { address, way } => Some(LockEvent::Connected { address, way }),
            Note::Disconnected {
                address,
                way,
                was_connected,
                cause,
            } => Some(LockEvent::Disconnected {
                address,
                way,
                was_connected,
                cause,
            }),
            // Of a later version of the seam.
            _ => None,
        }
    }

    /// Which lock it is about, if it is about one.
    pub fn lock(&self) -> Option<&LockRef> {
        match self {
            LockEvent::Asked { lock }
            | LockEvent::Queued { lock, .. }
            | LockEvent::Acquired { lock, .. }
            | LockEvent::Refused { lock, .. }
            | LockEvent::Released { lock, .. }
            | LockEvent::Lost { lock, .. }
            | LockEvent::MaxHold { lock, .. }
            | LockEvent::Blocked { lock, .. }
            | LockEvent::Renewed { lock, .. }
            | LockEvent::RenewalFailed { lock, .. } => Some(lock),
            _ => None,
        }
    }
}

/// A lock, by its name and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockRef {
    /// The name: the template of the attribute, such as `coupon:<id>`, or its `name`; `-` for locks
    /// that were taken by hand without a name.
    pub name: &'static str,
    /// The key. It may contain personal data.
    pub key: LockKey,
}

/// How a caller got its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Via {
    /// Nobody had it.
    Free,
    /// Another task of this process had it, and nobody else was served in between.
    Local,
    /// The release of another process made this one the owner.
    HandedOver,
    /// It was asked for after the previous lease had ended, or without a message that it was free.
    AfterExpiry,
}

impl Via {
    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Free => "free",
            Via::Local => "local",
            Via::HandedOver => "handed_over",
            Via::AfterExpiry => "after_expiry",
        }
    }
}

/// Why a caller did not get a lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// Another holds it, and the caller did not want to wait.
    Taken,
    /// Another still held it at the end of the wait.
    Timeout,
    /// The store did not answer, for this reason if it is known.
    Unavailable(Option<Arc<BackendError>>),
    /// The store refuses.
    Denied(Arc<BackendError>),
    /// The caller dropped the future.
    Cancelled,
    /// The runtime is shut down.
    ShutDown,
}

impl Refusal {
    /// The word for it in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::Taken => "taken",
            Refusal::Timeout => "timeout",
            Refusal::Unavailable(_) => "unavailable",
            Refusal::Denied(_) => "denied",
            Refusal::Cancelled => "cancelled",
            Refusal::ShutDown => "shut_down",
        }
    }

    /// What the store said, or why it said nothing.
    pub fn cause(&self) -> Option<&Arc<BackendError>> {
        match self {
            Refusal::Unavailable(cause) => cause.as_ref(),
            Refusal::Denied(cause) => Some(cause),
            _ => None,
        }
    }
}

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verb {
    /// For a lock.
    Acquire,
    /// To extend leases, which are asked for together.
    Renew,
    /// To end a lease.
    Release,
    /// To withdraw a claim.
    Abandon,
}

impl Verb {
    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Acquire => "acquire",
            Verb::Renew => "renew",
            Verb::Release => "release",
            Verb::Abandon => "abandon",
        }
    }
}

/// Why a store gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The time was up.
    Timeout,
    /// There was no connection, or it broke.
    Connection,
    /// The store refused, and will go on refusing.
    Refused,
}

impl Failure {
    /// The kind of this error.
    pub fn of(error: &BackendError) -> Failure {
        match error {
            error if error.is_denied() => Failure::Refused,
            error if error.is_timeout() => Failure::Timeout,
            _ => Failure::Connection,
        }
    }

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Connection => "connection",
            Failure::Refused => "refused",
        }
    }
}

/// Renewals of one lease that failed one after the other.
#[derive(Clone, Debug)]
pub struct RenewalFailures {
    pub(crate) times: u32,
    pub(crate) last: Arc<BackendError>,
}

impl RenewalFailures {
    /// How many there were.
    pub fn times(&self) -> u32 {
        self.times
    }

    /// Why the last one failed.
    pub fn last(&self) -> &BackendError {
        &self.last
    }
}

impl fmt::Display for RenewalFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.times {
            1 => f.write_str("the last renewal failed"),
            times => write!(f, "the last {times} renewals failed"),
        }
    }
}

/// The cause is that of the last one.
impl Error for RenewalFailures {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.last)
    }
}
