//! How the store is.

use std::sync::Arc;
use std::time::Duration;

use lock_protocol::BackendError;

/// How the store is, as [`LockRuntime::health`](crate::LockRuntime::health) tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether a lock could be had now: enough members are there, and they would store it.
    pub can_grant: bool,
    /// Each server that the locks are on.
    pub members: Vec<MemberHealth>,
    /// How long it took to find out.
    pub took: Duration,
}

/// How one of the servers is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberHealth {
    /// Where it is: a host and a port, or a path.
    pub address: Arc<str>,
    /// Why it is of no use, if it is not.
    pub trouble: Option<Arc<BackendError>>,
}

impl Health {
    /// The members that are away, or refuse.
    pub fn away(&self) -> impl Iterator<Item = &MemberHealth> {
        self.members
            .iter()
            .filter(|member| member.trouble.is_some())
    }
}
