//! Resources that refuse writers who lost their lock without noticing.
//!
//! A process can be stopped for longer than its lease lives, and go on afterwards as if it still
//! held the lock; or its last write is on its way while the lock passes to another. No lock can
//! prevent that. The resource can: every grant has a larger [`FencingToken`] than the one before,
//! so a resource that remembers the largest token it has seen, its *fence*, knows who comes too
//! late.
//!
//! A [`Writer`] is what it compares: the token and the owner. The rules, which all of these helpers
//! keep:
//!
//! - A larger token passes, and raises the fence. An equal one passes if the owner is the same,
//!   since a holder writes more than once. All others are [`Stale`].
//! - Comparing and writing are one step for the resource: one statement, one transaction, one
//!   script. A check before the write proves nothing about the time of the write.
//! - **Raise the fence before the first read**, if what is written depends on what was read. Else a
//!   stale holder whose write lands after the new holder's read, but before its write, is accepted,
//!   and then overwritten unseen.
//! - A resource has one fence, whatever the lock is called. Two locks for one resource protect
//!   nothing.
//! - The fence lives as long as the resource. It must not expire, and nobody sets it back.
//!
//! Take the helper for where your data is:
//!
//! - [`sql`]: statements for SQLite and PostgreSQL, and the pattern for others.
//! - [`redis`]: a script that runs another only for writers who are not stale.
//! - [`http`]: a pair of headers, to let the service decide that has the data; with the feature
//!   `axum` also its extractor.

use std::fmt;

use lock_protocol::{FencingToken, Mode};

use crate::api::guard::{LockGuard, LockHandle};

pub mod http;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sql;

/// The holder of a lock, as the resource knows it.
///
/// # Examples
///
/// ```
/// use lock_runtime::LockRuntime;
/// use lock_runtime::fencing::Writer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// # let locks = LockRuntime::in_memory().build().await?;
/// let guard = locks.lock("account:7").acquire().await?;
/// let writer = Writer::from(&guard);
/// assert_eq!(writer.token(), guard.fencing_token());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    token: FencingToken,
    owner: String,
}

impl Writer {
    /// The holder with this token and this owner token, wherever they come from.
    pub fn new(token: FencingToken, owner: impl Into<String>) -> Writer {
        Writer {
            token,
            owner: owner.into(),
        }
    }

    /// The fencing token.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// The owner token, by which two holders are told apart that have an equal fencing token: after
    /// a failover of the store to a replica, an old and a new master can each grant the same one.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

impl From<&LockGuard> for Writer {
    fn from(guard: &LockGuard) -> Writer {
        Writer::from(&guard.handle())
    }
}

impl From<&LockHandle> for Writer {
    fn from(handle: &LockHandle) -> Writer {
        let owner = match handle.mode() {
            // All who share have one token, and are one to the resource.
            Mode::Shared => "shared",
            _ => handle.owner_token().as_str(),
        };
        Writer::new(handle.fencing_token(), owner)
    }
}

/// The writer comes too late: the resource has seen a later holder of the lock.
///
/// What it wanted to do was not done. There is no use in trying again under the same lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The fence of the resource, if it is known.
    pub fence: Option<FencingToken>,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a later holder of the lock has been here")?;
        match self.fence {
            Some(fence) => write!(f, ", with fencing token {fence}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Stale {}
