//! What the locks on several servers are configured by.

use std::time::Duration;

use deadpool_redis::Config;

use crate::backend::{Limits, MAX_TTL, Order};
use crate::error::LockError;
use crate::stores::redis::RedisSettings;

/// How many servers there may be.
const MOST: usize = 31;

/// Settings of locks that a majority of several servers holds, in addition to those of each server.
///
/// ```
/// use lock_runtime::redlock::RedlockSettings;
///
/// let mut settings = RedlockSettings::default();
/// settings.redis.key_prefix = "shop:lock:".to_owned();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedlockSettings {
    /// The settings of each of the servers.
    pub redis: RedisSettings,
    /// Time during which a server that may have lost its data votes for nobody, and the longest ttl
    /// that a lock may have. Default: 30 s.
    ///
    /// A server that restarts without data does not know for whom it voted. If it voted again at
    /// once, two could have a majority. After this time every lease that it knew has ended. A key
    /// that each server gets when it is first seen shows whether it lost its data, so the rule
    /// applies to new servers as well. All processes must have the same value, at least the longest
    /// ttl of any. Zero turns the rule off, for tests and first trials. A restart may then let two
    /// hold a lock, and only fencing tokens protect.
    pub restart_delay: Duration,
}

impl Default for RedlockSettings {
    fn default() -> RedlockSettings {
        RedlockSettings {
            redis: RedisSettings::default(),
            restart_delay: Duration::from_secs(30),
        }
    }
}

impl RedlockSettings {
    /// The defaults, with these settings of each of the servers.
    pub(crate) fn of(redis: RedisSettings) -> RedlockSettings {
        RedlockSettings {
            redis,
            ..RedlockSettings::default()
        }
    }

    /// What can be done with so configured servers.
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.order = Order::None;
        limits.hand_over = false;
        limits.max_ttl = self.longest_ttl();
        limits
    }

    /// The longest ttl that a lock may have.
    pub(crate) fn longest_ttl(&self) -> Duration {
        match self.restart_delay.is_zero() {
            true => MAX_TTL,
            false => self.restart_delay,
        }
    }

    /// Whether locks may have this `ttl`.
    pub(crate) fn allows(&self, ttl: Duration) -> Result<(), LockError> {
        let longest = self.longest_ttl();
        match ttl <= longest {
            true => Ok(()),
            false => Err(LockError::Config(too_long(ttl, longest))),
        }
    }

    /// Whether locks can be held by so many servers, by these settings.
    pub(super) fn checked(&self, servers: &[Config]) -> Result<(), LockError> {
        let count = servers.len();
        if count < 3 || count.is_multiple_of(2) || count > MOST {
            return Err(LockError::Config(format!(
                "locks by majority need 3 servers or more, up to {MOST}, and an odd number, since \
                 one more than that survives no more failures; these are {count}"
            )));
        }
        if self.restart_delay > MAX_TTL {
            return Err(LockError::Config(format!(
                "`restart_delay` is {}, but must be at most {}",
                humantime::format_duration(self.restart_delay),
                humantime::format_duration(MAX_TTL),
            )));
        }
        Ok(())
    }
}

/// Why a lock may not have this `ttl`.
pub(super) fn too_long(ttl: Duration, longest: Duration) -> String {
    format!(
        "a ttl of {} is longer than `restart_delay`, {}, after which a server that has lost its data \
         votes again; raise that, or shorten the ttl",
        humantime::format_duration(ttl),
        humantime::format_duration(longest),
    )
}
