//! The words of the seam: what is asked of a store, and what it answers.

use core::time::Duration;

use crate::mode::Mode;
use crate::name::LockKey;
use crate::token::{FenceBlock, OwnerToken, Process};

/// The place of a question among those that a process asks of one key: see clause 7 of
/// [`Backend`](crate::Backend#the-contract). Zero is no number.
///
/// Those who share a backend share the count, and a key that was not asked of for long does not
/// begin anew.
pub type AskNumber = u64;

/// A request for a lock.
#[derive(Clone, Debug, Hash)]
#[non_exhaustive]
pub struct Claim {
    /// Which lock.
    pub key: LockKey,
    /// Who asks; unique to this claim.
    pub owner: OwnerToken,
    /// What the claim wants; never changes for an owner.
    pub mode: Mode,
    /// How long the lease lives unless it is renewed; whole milliseconds, never zero.
    pub ttl: Duration,
    /// Whether the claim waits in the store's queue when the lock is taken.
    pub queue: bool,
    /// How long the lease lives that a release hands over to this claim, until its first renewal;
    /// not longer than the `ttl` of its first question. Never changes for an owner, since its place
    /// in the queue may contain it.
    pub grace: Duration,
    /// How many fencing tokens to reserve with the grant; at least 1. A backend may reserve fewer.
    pub tokens: u32,
    /// While it waits, the claim asks again at least this often; a store may forget a claim that
    /// did not for twice as long.
    pub heartbeat: Duration,
    /// Whether an earlier question of the claim was not answered, and so may still be on its way:
    /// the withdrawal of such a claim is to be remembered by the store, so that a question that
    /// comes after it does nothing.
    pub in_doubt: bool,
    /// The place of this question among those of its process for the key: clause 7 of
    /// [`Backend`](crate::Backend#the-contract).
    pub number: AskNumber,
}

impl Claim {
    /// An exclusive claim that does not wait, with one fencing token.
    pub fn new(key: LockKey, owner: OwnerToken, ttl: Duration) -> Claim {
        Claim {
            key,
            owner,
            mode: Mode::Exclusive,
            ttl,
            queue: false,
            grace: ttl,
            tokens: 1,
            heartbeat: Duration::from_secs(10),
            in_doubt: false,
            number: 0,
        }
    }

    /// The same claim, ready to wait in the store's queue.
    #[must_use]
    pub fn queued(mut self) -> Claim {
        self.queue = true;
        self
    }
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acquired {
    /// The claim owns the lock.
    Granted(Grant),
    /// Another owns it; the claim waits in the store's queue.
    Queued(Holder),
    /// Another owns it; the claim does not wait. Whoever asked before without an answer withdraws
    /// it all the same, since that question may be on its way still.
    Taken(Holder),
}

/// A lease as the store gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing tokens reserved with the lease.
    pub tokens: FenceBlock,
    /// How long the lease lives from the moment the store answered.
    pub valid_for: Duration,
    /// Which part of the key it is; 0 where a key has no parts.
    pub shard: u8,
    /// Whether others wait in the store.
    pub contended: Contended,
}

impl Grant {
    /// A lease of the whole key, of which the store does not tell whether others wait.
    pub fn new(tokens: FenceBlock, valid_for: Duration) -> Grant {
        Grant {
            tokens,
            valid_for,
            shard: 0,
            contended: Contended::NotTold,
        }
    }
}

/// Whether others wait for a lock in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contended {
    /// Somebody does.
    Yes,
    /// Nobody did when the store answered.
    No,
    /// The store does not tell.
    #[default]
    NotTold,
}

/// What is known of the present owner of a taken lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Holder {
    /// What is left of its lease; `None` if it never ends.
    pub remaining: Option<Duration>,
    /// Whether the owner is no claim of this project: it hands the lock over to nobody.
    pub foreign: bool,
    /// Whether the end of its lease is told to nobody, so that waiters have to look.
    pub silent: bool,
    /// Who it is, if the store tells.
    pub owner: Option<OwnerToken>,
    /// Which process has it, if the store tells.
    pub process: Option<Process>,
}

impl Holder {
    /// A claim of this project, whose lease ends after `remaining`.
    pub fn of_ours(remaining: Duration) -> Holder {
        Holder {
            remaining: Some(remaining),
            foreign: false,
            silent: false,
            owner: None,
            process: None,
        }
    }

    /// The client of another library, which hands the lock to nobody and may free it without a
    /// word. `remaining` is `None` if its lease never ends.
    pub fn foreign(remaining: Option<Duration>) -> Holder {
        Holder {
            remaining,
            foreign: true,
            silent: true,
            owner: None,
            process: None,
        }
    }
}

/// A lease to extend.
#[derive(Clone, Debug, Hash)]
#[non_exhaustive]
pub struct Renewal {
    /// Which lock.
    pub key: LockKey,
    /// Whose lease.
    pub owner: OwnerToken,
    /// What the owner holds.
    pub mode: Mode,
    /// Which part of the key it is.
    pub shard: u8,
    /// How long the lease lives from now on.
    pub ttl: Duration,
    /// How many further fencing tokens to reserve; usually none.
    pub tokens: u32,
}

impl Renewal {
    /// A renewal of an exclusive lease that reserves no fencing tokens.
    pub fn new(key: LockKey, owner: OwnerToken, ttl: Duration) -> Renewal {
        Renewal {
            key,
            owner,
            mode: Mode::Exclusive,
            shard: 0,
            ttl,
            tokens: 0,
        }
    }
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Renewed {
    /// The owner holds the lock again.
    Held(Extension),
    /// The owner does not hold the lock any more.
    Lost(LostReason),
}

impl Renewed {
    /// The same answer to a renewal that asked for `ttl`: how long the lease lives is said.
    #[must_use]
    pub fn of(self, ttl: Duration) -> Renewed {
        match self {
            Renewed::Held(mut extension) => {
                extension.valid_for = extension.valid_for.or(Some(ttl));
                Renewed::Held(extension)
            }
            lost => lost,
        }
    }

    /// The owner holds the lock for the full ttl again, without further tokens.
    pub fn held() -> Renewed {
        Renewed::Held(Extension::default())
    }

    /// The store says that the owner does not hold the lock any more, and not why.
    pub fn lost() -> Renewed {
        Renewed::Lost(LostReason::NotHeld)
    }
}

/// What a renewal gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Extension {
    /// Further fencing tokens, if some were asked for.
    pub tokens: Option<FenceBlock>,
    /// How long the lease lives from the moment the store answered; its full ttl if `None`.
    pub valid_for: Option<Duration>,
    /// Whether others wait in the store.
    pub contended: Contended,
}

impl Extension {
    /// The full ttl, with these further tokens.
    pub fn with_tokens(tokens: Option<FenceBlock>) -> Extension {
        Extension {
            tokens,
            ..Extension::default()
        }
    }
}

/// How the loss of a lease was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LostReason {
    /// No renewal was confirmed before the lease ran out by the local clock.
    #[error("it ran out without a confirmed renewal")]
    Expired,
    /// The store answered that the lock belongs to nobody: its key was deleted or evicted, or its
    /// lease ended there.
    #[error("the store says that nobody holds it any more")]
    Deleted,
    /// The store answered that the lock belongs to another.
    #[error("the store says that another holds it")]
    TakenOver,
    /// The store answered that the lock is not held any more, and not why; or its holder has given
    /// it up.
    #[error("the store says that it ended")]
    NotHeld,
}

/// A lease to end.
#[derive(Clone, Debug, Hash)]
#[non_exhaustive]
pub struct Release {
    /// Which lock.
    pub key: LockKey,
    /// Whose lease.
    pub owner: OwnerToken,
    /// What the owner holds.
    pub mode: Mode,
    /// Which part of the key it is.
    pub shard: u8,
    /// For how long from now the key stays taken, by nobody: the lease ends, and nobody is handed
    /// the lock, or takes it, until then. It is no longer than what is left of the lease, but for
    /// what clocks may drift apart; what is longer may be cut. Only where
    /// [`Limits::keep`](crate::Limits) says so, and without a `next` claim, which is not looked at.
    pub keep: Option<Duration>,
    /// A claim of the releasing process for the same key, to be asked for in the same message. Only
    /// with the lease of an exclusive claim, and exclusive itself.
    pub next: Option<Claim>,
    /// The place of this question among those of its process for the key: clause 7 of
    /// [`Backend`](crate::Backend#the-contract).
    pub number: AskNumber,
}

impl Release {
    /// The release of an exclusive lease, without a next claim.
    pub fn new(key: LockKey, owner: OwnerToken) -> Release {
        Release {
            key,
            owner,
            mode: Mode::Exclusive,
            shard: 0,
            keep: None,
            next: None,
            number: 0,
        }
    }

    /// The same, with the `next` claim, if there is one.
    #[must_use]
    pub fn then(mut self, next: Option<Claim>) -> Release {
        self.next = next;
        self
    }
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Released {
    /// The lease has ended, and this became of the `next` claim, if one was given.
    Released(Option<Acquired>),
    /// The owner did not hold the lock; a `next` claim was not looked at.
    NotHeld,
}
