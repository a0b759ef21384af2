//! What a runtime is configured with, checked once when it is built.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{
    Limits, LockKey, MAX_TTL, MIN_RENEWAL, MIN_TTL, OwnerToken, Rules, checked_ttl,
};
use uuid::Uuid;

use crate::backend::raised::MAX_FLOOR;
use crate::backoff::{Backoff, Retry};
use crate::error::LockError;
use crate::observe::{Function, Observers};

/// How long to pause before a store is asked again, if nobody says otherwise.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(1),
};

/// Each pass reserves a fencing token, and a block of tokens must not run ahead of the microseconds
/// that they are floored by.
const MAX_LOCAL_PASSES: u32 = 10_000;

/// What makes the first part of owner tokens.
pub(crate) type OwnerTokens = Arc<dyn Fn(&LockKey) -> String + Send + Sync>;

/// The settings every runtime has, whatever its backend.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) key_prefix: String,
    pub(crate) default_ttl: Duration,
    pub(crate) default_wait: Duration,
    /// The period of the watchdog; a tenth of each lease's ttl if `None`.
    pub(crate) renew_every: Option<Duration>,
    /// UUIDs if `None`.
    pub(crate) owner_tokens: Option<OwnerTokens>,
    pub(crate) retry: Arc<dyn Retry>,
    /// No single question to the backend takes longer.
    pub(crate) command_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
    /// How long a handed-over lease lives until its first renewal.
    pub(crate) grace: Duration,
    /// A waiter asks at least this often.
    pub(crate) heartbeat: Duration,
    /// How often a lease is passed on inside the process before other processes get their turn.
    pub(crate) local_passes: u32,
    /// For which share of its ttl a lease is passed on inside the process.
    pub(crate) local_share: f64,
    /// What is added to each fencing token.
    pub(crate) fence_floor: u64,
    /// Whether a ttl that the store does not keep as it is is an error.
    pub(crate) exact_ttl: bool,
    /// What the process is called on its card; the program if `None`.
    pub(crate) service: Option<String>,
    /// Whether the process leaves a card in the store.
    pub(crate) process_card: bool,
    /// What the store can do.
    pub(crate) limits: Limits,
    /// Who is told what happens.
    pub(crate) observers: Observers,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            key_prefix: "lock:".to_owned(),
            default_ttl: Duration::from_secs(30),
            default_wait: Duration::from_secs(10),
            renew_every: None,
            owner_tokens: None,
            retry: Arc::new(BACKOFF),
            command_timeout: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            heartbeat: Duration::from_secs(10),
            local_passes: 1_000,
            local_share: 0.1,
            fence_floor: 0,
            exact_ttl: false,
            service: None,
            process_card: true,
            limits: Limits::default(),
            observers: Observers::default(),
        }
    }
}

impl Settings {
    /// The settings, or what is wrong with them.
    pub(crate) fn checked(mut self) -> Result<Settings, LockError> {
        self.default_ttl = ttl("default_ttl", self.default_ttl)?;
        if let Some(every) = self.renew_every {
            renewal("renew_every", every, self.default_ttl)?;
        }
        for (name, value) in [
            ("command_timeout", self.command_timeout),
            ("grace", self.grace),
            ("heartbeat", self.heartbeat),
        ] {
            // Bounded like a ttl: stores count in milliseconds, and nobody means a month.
            ttl(name, value)?;
        }
        if !(0.0..=1.0).contains(&self.local_share) {
            return Err(LockError::Config(format!(
                "`local_share` is a share of the ttl, from 0 to 1, not {}",
                self.local_share
            )));
        }
        if self.local_passes > MAX_LOCAL_PASSES {
            return Err(LockError::Config(format!(
                "`local_passes` is {}, but must not be above {MAX_LOCAL_PASSES}",
                self.local_passes
            )));
        }
        if self.fence_floor > MAX_FLOOR {
            return Err(LockError::Config(format!(
                "`fence_floor` is {}, but must not be above {MAX_FLOOR}",
                self.fence_floor
            )));
        }
        if let Err(error) = LockKey::new(&self.key_prefix, "k") {
            return Err(LockError::Config(format!("`key_prefix`: {error}")));
        }
        Ok(self)
    }

    /// The same settings, for a store that can do this; or what it cannot do.
    pub(crate) fn on(mut self, limits: Limits) -> Result<Settings, LockError> {
        self.limits = limits;
        self.kept("default_ttl", self.default_ttl)?;
        Ok(self)
    }

    /// That the store keeps leases of `ttl`: for so long, if that is asked for, else for as long at
    /// least.
    pub(crate) fn kept(&self, name: &str, ttl: Duration) -> Result<(), LockError> {
        let shown = humantime::format_duration;
        let limits = &self.limits;
        if ttl > limits.max_ttl {
            let reason = match limits.lock_delay {
                true => {
                    ": when a lease ends before its time, it keeps others out for no longer, and its \
                     holder would still believe in it"
                }
                false => "",
            };
            return Err(LockError::Config(format!(
                "`{name}` is {}, but the store keeps leases for {} at most{reason}",
                shown(ttl),
                shown(limits.max_ttl)
            )));
        }
        if self.exact_ttl && kept_for(limits, ttl) != ttl {
            return Err(LockError::Config(format!(
                "`{name}` is {}, but the store keeps leases for {} at least, in steps of {}, and \
                 `exact_ttl` is set",
                shown(ttl),
                shown(limits.min_ttl),
                shown(limits.ttl_step)
            )));
        }
        let is_fine = limits.ttl_step <= Duration::from_millis(1);
        if (ttl < limits.min_ttl || !is_fine) && self.observers.is_on() {
            let kept_for = kept_for(limits, ttl);
            if kept_for != ttl {
                self.observers.raised(ttl, kept_for);
            }
        }
        Ok(())
    }

    /// The pause after so many failures. It is a function of the user: one that panics must not
    /// leave a lock behind.
    pub(crate) fn pause(&self, failures: u32) -> Option<Duration> {
        catch_unwind(AssertUnwindSafe(|| self.retry.pause(failures))).unwrap_or_else(|_| {
            self.observers.panicked(Function::Retry);
            BACKOFF.pause(failures)
        })
    }

    /// The owner token that the user's function makes for `key`; `None` where there is none, or it
    /// panics.
    pub(crate) fn own_owner(&self, key: &LockKey) -> Option<OwnerToken> {
        let tokens = self.owner_tokens.as_ref()?;
        match catch_unwind(AssertUnwindSafe(|| tokens(key))) {
            Ok(text) => Some(OwnerToken::unique(&text)),
            Err(_) => {
                self.observers.panicked(Function::OwnerTokens);
                None
            }
        }
    }

    /// What the state machines of the keys go by.
    pub(crate) fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        rules.command_timeout = self.command_timeout;
        rules.grace = self.grace;
        rules.heartbeat = self.heartbeat;
        rules.local_passes = self.local_passes;
        rules.local_share = self.local_share;
        rules.modes = self.limits.modes;
        rules
    }

    /// The period of the watchdog for a lease of this ttl that did not ask for one.
    pub(crate) fn renewal_period(&self, ttl: Duration) -> Duration {
        match self.renew_every {
            // A period that suits the default ttl may be too long for a shorter one.
            Some(every) if every <= ttl / 2 => every,
            _ => ttl / 10,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("key_prefix", &self.key_prefix)
            .field("default_ttl", &self.default_ttl)
            .field("default_wait", &self.default_wait)
            .finish_non_exhaustive()
    }
}

/// How long a store with these limits keeps a lease of `ttl`.
pub(crate) fn kept_for(limits: &Limits, ttl: Duration) -> Duration {
    let step = limits.ttl_step.as_nanos().max(1);
    let kept = ttl.max(limits.min_ttl).as_nanos().div_ceil(step) * step;
    u64::try_from(kept).map_or(Duration::MAX, Duration::from_nanos)
}

/// `value` as a ttl, or an error that names the setting.
pub(crate) fn ttl(name: &str, value: Duration) -> Result<Duration, LockError> {
    bounded(value).map_err(|fault| {
        let shown = humantime::format_duration(value);
        LockError::Config(format!("`{name}` is {shown}, but {fault}"))
    })
}

/// `value` as a ttl, or what is wrong with it.
pub(crate) fn bounded(value: Duration) -> Result<Duration, String> {
    checked_ttl(value).ok_or_else(|| {
        format!(
            "must be from {} to {}",
            humantime::format_duration(MIN_TTL),
            humantime::format_duration(MAX_TTL),
        )
    })
}

/// `every` as a watchdog period for leases of `ttl`, or an error that names the setting.
pub(crate) fn renewal(name: &str, every: Duration, ttl: Duration) -> Result<Duration, LockError> {
    // At least one more try before the lease ends.
    if every < MIN_RENEWAL || every > ttl / 2 {
        return Err(LockError::Config(format!(
            "`{name}` is {}, but must be from {} to half of the ttl, {}",
            humantime::format_duration(every),
            humantime::format_duration(MIN_RENEWAL),
            humantime::format_duration(ttl / 2),
        )));
    }
    Ok(every)
}

/// An owner token that nobody chose: a UUID v4, and the suffix of its claim.
pub(crate) fn unique_owner() -> OwnerToken {
    let mut buffer = Uuid::encode_buffer();
    OwnerToken::unique(Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
}

/// Checks a minimum hold.
pub(crate) fn min_hold(least: Duration, max_hold: Option<Duration>) -> Result<(), LockError> {
    let shown = humantime::format_duration;
    to_be_kept("min_hold", least)?;
    match max_hold {
        Some(limit) if least > limit => Err(LockError::Config(format!(
            "`min_hold` ({}) is longer than `max_hold` ({})",
            shown(least),
            shown(limit)
        ))),
        _ => Ok(()),
    }
}

/// Checks the time for which a body that ended well is not run again.
pub(crate) fn once_per(period: Duration, min_hold: Option<Duration>) -> Result<(), LockError> {
    let shown = humantime::format_duration;
    to_be_kept("once_per", period)?;
    match min_hold {
        Some(least) if least >= period => Err(LockError::Config(format!(
            "`once_per` ({}) is over before `min_hold` ({}) is",
            shown(period),
            shown(least)
        ))),
        _ => Ok(()),
    }
}

/// `value` as a time for which a key is kept, or an error that names the setting.
fn to_be_kept(name: &str, value: Duration) -> Result<(), LockError> {
    if value.is_zero() {
        return Err(LockError::Config(format!(
            "`{name}` is zero; leave it out for none"
        )));
    }
    if value > MAX_TTL {
        return Err(LockError::Config(format!(
            "`{name}` is {}, but must not be above {}",
            humantime::format_duration(value),
            humantime::format_duration(MAX_TTL)
        )));
    }
    Ok(())
}
