//! What a store can do, for those who depend on it.

use core::time::Duration;

use crate::terms::{MAX_TTL, MIN_TTL};

/// What a store can do. The defaults are those of a store that does everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The shortest lease that the store keeps; a shorter one is rounded up *in the store*, while
    /// its holder still counts what it asked for.
    pub min_ttl: Duration,
    /// The longest lease that the store keeps; a longer one is refused.
    pub max_ttl: Duration,
    /// A lease lives in the store for a multiple of this.
    pub ttl_step: Duration,
    /// How much later than its ttl a lease may end in the store.
    pub lateness: Duration,
    /// Whether the store keeps a lock from others for the ttl of its lease once more after that has
    /// ended there without a release.
    pub lock_delay: bool,
    /// In which order waiters are served.
    pub order: Order,
    /// Whether a release makes the next waiter the owner; otherwise waiters are told and ask.
    pub hand_over: bool,
    /// Who ends a lease that was handed to a process which shows no sign of life.
    pub grace: GraceBy,
    /// Whether locks that other programs took by the store's usual commands are seen.
    pub foreign_holders: bool,
    /// Whether claims of other modes than the exclusive one are granted as what they are.
    pub modes: bool,
    /// Whether a release can keep the key taken for a while.
    pub keep: bool,
}

impl Limits {
    /// The same, of a store that grants [modes](crate::Mode) as what they are.
    #[must_use]
    pub fn with_modes(mut self) -> Limits {
        self.modes = true;
        self
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            min_ttl: MIN_TTL,
            max_ttl: MAX_TTL,
            ttl_step: Duration::from_millis(1),
            lateness: Duration::ZERO,
            lock_delay: false,
            order: Order::Fifo,
            hand_over: true,
            grace: GraceBy::Store,
            foreign_holders: true,
            modes: false,
            keep: false,
        }
    }
}

/// In which order waiters are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// In the order in which the store first heard of them.
    Fifo,
    /// In none that could be relied on.
    None,
}

/// Who ends a lease that was handed to a process which shows no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraceBy {
    /// The store, after the grace of the claim.
    Store,
    /// The process, as long as it lives; else the store, after the ttl.
    Process,
}
