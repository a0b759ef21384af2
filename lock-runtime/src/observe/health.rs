//! The health of the store.

use std::sync::Arc;
use std::time::Duration;

use lock_protocol::BackendError;

/// The health of the store, as [`LockRuntime::health`](crate::LockRuntime::health) returns it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether a lock could be acquired now: enough members are up, and they would store it.
    pub can_grant: bool,
    /// Each server that holds the locks.
    pub members: Vec<MemberHealth>,
    /// How long the check took.
    pub took: Duration,
}

/// The health of one of the servers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberHealth {
    /// Its address: a host and a port, or a path.
    pub address: Arc<str>,
    /// Why it cannot be used; `None` if it can.
    pub trouble: Option<Arc<BackendError>>,
}

impl Health {
    /// The members that are down, or refuse.
    pub fn away(&self) -> impl Iterator<Item = &MemberHealth> {
        self.members
            .iter()
            .filter(|member| member.trouble.is_some())
    }
}
