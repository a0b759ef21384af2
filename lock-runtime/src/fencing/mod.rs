//! Resources that refuse writers who lost their lock without noticing.
//!
//! A process can be stopped for longer than its lease, and go on afterwards as if it still held the
//! lock. Or its last write is still on its way when another gets the lock. No lock can prevent
//! that, but the resource can: every grant has a larger [`FencingToken`] than the one before. So a
//! resource that remembers the largest token it has seen, its *fence*, recognizes a writer that
//! comes too late.
//!
//! It compares a [`Writer`]: the token and the owner. All of these helpers follow these rules:
//!
//! - A larger token passes, and raises the fence. An equal one passes if the owner is the same,
//!   since a holder writes more than once. All others are [`Stale`].
//! - Comparing and writing are one step for the resource: one statement, one transaction, one
//!   script. A check before the write proves nothing about the time of the write.
//! - **Raise the fence before the first read**, if the data to be written depend on data that were
//!   read. Otherwise a stale write is accepted if it arrives after the new holder's read and before
//!   its write, and is then overwritten unnoticed.
//! - A resource has one fence, whatever the lock is called. Two locks for one resource protect
//!   nothing.
//! - The fence lives as long as the resource. It must not expire, and nobody sets it back.
//!
//! Use the helper for the place of your data:
//!
//! - [`sql`]: statements for SQLite and PostgreSQL, and the pattern for others.
//! - [`redis`]: a script that runs another one only for writers that are not stale.
//! - [`http`]: a pair of headers, so that the service that has the data decides; with the feature
//!   `axum` also an extractor.

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

    /// The owner token. It distinguishes two holders with the same fencing token: after a failover
    /// of the store to a replica, the old and the new master can each grant the same one.
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
/// Its write was not done. Do not try again under the same lock.
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
