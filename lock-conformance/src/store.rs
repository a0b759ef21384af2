//! What the suite needs to know of a store.

use std::future::Future;
use std::time::Duration;

use lock_protocol::{Backend, LockKey};

/// A store under test, for one promise alone.
///
/// What it can do is read from the [limits](Backend::limits) of its backends where these say it,
/// and from the constants here where they do not. No promise is left out where a store can do less:
/// it asks for what is promised then.
///
/// A lease lives for a minute in most promises, so no store may refuse that.
pub trait Store: Send + Sync + 'static {
    /// What reaches it.
    type Backend: Backend;

    /// How well others are told what is left of a lease.
    const REMAINING: Remaining = Remaining::Exact(Duration::from_millis(20));

    /// Whether a renewal may give a lease another ttl than it had. A runtime never asks for that,
    /// so a store may keep the ttl of the first question.
    const TTL_CHANGES: bool = true;

    /// By when a verb is answered, also that of a store which does not answer, and news have come;
    /// well below a minute.
    const DEADLINE: Duration = Duration::from_secs(10);

    /// A backend as a further process would have it.
    fn connect(&self) -> impl Future<Output = Self::Backend> + Send;

    /// Ends the lease of `key` as if its ttl had run out: no verb takes part.
    fn expire(&self, key: &LockKey) -> impl Future<Output = ()> + Send;

    /// Makes a foreign owner hold `key` without a ttl, as another language's library would, whoever
    /// holds it now. Only asked of a store with [foreign holders](lock_protocol::Limits).
    fn seize(&self, key: &LockKey) -> impl Future<Output = ()> + Send {
        let key = key.clone();
        async move { panic!("this store has foreign holders, so `seize` must make one hold {key}") }
    }

    /// Stops answering for good.
    fn go_dark(&self) -> impl Future<Output = ()> + Send;

    /// What is stored at the moment, fencing counters and withdrawals apart; for the message of a
    /// failed test.
    fn leftovers(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// How well a store tells what is left of a lease to those who do not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// As it is, but for this much: by rounding, and by what the clocks of two machines make of a
    /// minute.
    Exact(Duration),
    /// Not less than there is, and not more than a whole lease.
    AtMost,
}
