//! What a store tells of its locks to those who look after it: nothing is decided by it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::backend_error::BackendError;
use crate::token::OwnerToken;

/// What a store knows of a lock that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspected {
    /// Whose it is. Of a foreign holder it is what that wrote, as text.
    pub owner: OwnerToken,
    /// What is left of the lease; `None` if it never ends.
    pub remaining: Option<Duration>,
    /// How many claims wait in the store.
    pub waiting: usize,
    /// The first of them, in their order.
    pub waiters: Vec<Waiting>,
    /// The cards of the process that holds it, if it leaves cards.
    pub cards: Vec<Card>,
}

impl Inspected {
    /// How many waiters are named at the most.
    pub const MOST_NAMED: usize = 64;

    /// What is known of the lock of `owner`, for which nobody waits.
    pub fn new(owner: OwnerToken, remaining: Option<Duration>) -> Inspected {
        Inspected {
            owner,
            remaining,
            waiting: 0,
            waiters: Vec::new(),
            cards: Vec::new(),
        }
    }
}

/// A claim that waits in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Whose it is.
    pub owner: OwnerToken,
    /// Whether its process would hear that it was handed the lock, if the store knows.
    pub is_listening: Option<bool>,
}

impl Waiting {
    /// The claim of `owner`.
    pub fn new(owner: OwnerToken) -> Waiting {
        Waiting {
            owner,
            is_listening: None,
        }
    }
}

/// What a process says of itself in the store, for those who want to know who holds a lock. It ends
/// by itself, soon after its process has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// What the names of the locks of the process start with.
    pub prefix: String,
    /// Whose it is: it begins like the [`Process`](crate::Process) of the claims, as that is shown.
    pub id: String,
    /// What it says: a text, which is nothing to a store.
    pub text: String,
    /// How long ago it was left.
    pub age: Duration,
}

impl Card {
    /// For how long a card stays.
    pub const TTL: Duration = Duration::from_secs(30);
    /// How often a process leaves its card, if nobody says otherwise.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// A card that is left now.
    pub fn new(prefix: String, id: String, text: String) -> Card {
        Card {
            prefix,
            id,
            text,
            age: Duration::ZERO,
        }
    }
}

/// How a store is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Condition {
    /// Whether a claim could be granted now.
    pub can_grant: bool,
    /// The servers that the locks are on.
    pub members: Vec<Member>,
}

impl Condition {
    /// That of a store of these members, of which `needed` have to be there.
    pub fn of(members: Vec<Member>, needed: usize) -> Condition {
        let there = members.iter().filter(|member| member.trouble.is_none());
        Condition {
            can_grant: there.count() >= needed,
            members,
        }
    }
}

/// One of the servers that locks are on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Member {
    /// Where it is: a host and a port, or a path; never a URL, which may have a password.
    pub address: Arc<str>,
    /// Why it is of no use, if it is not.
    pub trouble: Option<Arc<BackendError>>,
}

impl Member {
    /// The member at `address`, which answered like this.
    pub fn new(address: impl Into<Arc<str>>, answer: Result<(), BackendError>) -> Member {
        Member {
            address: address.into(),
            trouble: answer.err().map(Arc::new),
        }
    }
}
