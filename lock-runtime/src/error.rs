//! Errors, in terms a caller can act on.

use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{BoxError, InvalidKey, LockKey, LostReason, Process};

use crate::backend::BackendError;
use crate::observe::RenewalFailures;

/// Why a lock was not acquired, or not kept.
///
/// The predicates say what to do about it. "Held by another" and "the store is down" are never the
/// same error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another holds the lock, and the caller did not want to wait.
    #[error("the lock `{key}` is held by another{}", by(*.holder))]
    Taken {
        /// Which lock.
        key: LockKey,
        /// The rest of the holder's lease, if known.
        remaining: Option<Duration>,
        /// The process that holds it, if the store told; `None` if another library holds it.
        holder: Option<Process>,
    },

    /// The wait is over, and the store last answered that another holds the lock.
    #[error(
        "the lock `{key}` was still held by another{} after {}{}",
        by(*.holder),
        humantime::format_duration(round(*.waited)),
        while_holding(.holding.keys())
    )]
    Timeout {
        /// Which lock.
        key: LockKey,
        /// How long the caller waited.
        waited: Duration,
        /// The locks that the bodies around the call held meanwhile: the holder of this one may
        /// wait for one of them.
        holding: Holding,
        /// The process that held it when the store last answered, if the store told.
        holder: Option<Process>,
    },

    /// The lease can no longer be proven: another may hold the lock now.
    #[error("the lease of the lock `{key}` was lost after {}: {reason}", humantime::format_duration(round(*.held)))]
    Lost {
        /// Which lock.
        key: LockKey,
        /// How the loss was noticed.
        reason: LostReason,
        /// How long the lock had been held.
        held: Duration,
        /// Why a lease ran out: the renewals in a row that had failed by then.
        #[source]
        cause: Option<Arc<RenewalFailures>>,
    },

    /// A body around the call holds a share, some permits or one shard of the key, and the call
    /// wants the whole key or another kind. The call would wait for its own caller for ever.
    #[error(
        "a body around this call holds a part of the lock `{key}` only, and the call wants more: \
         it would wait for itself; take all of the lock before, or end that body first and look again"
    )]
    Upgrade {
        /// Which lock.
        key: LockKey,
    },

    /// The body ran longer than `max_hold` and was ended. The lock is being released.
    #[error("the lock `{key}` was held longer than {}", humantime::format_duration(*.limit))]
    MaxHold {
        /// Which lock.
        key: LockKey,
        /// The limit.
        limit: Duration,
    },

    /// The store did not answer in time, or could not. It is not known whether the lock is held.
    #[error("the lock store is unavailable")]
    Unavailable(#[source] BoxError),

    /// The store refuses, and will go on refusing: a wrong password, a missing permission, a key of
    /// another type.
    #[error("the lock store refuses")]
    Denied(#[source] BoxError),

    /// The key cannot name a lock.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),

    /// A setting is out of its range or contradicts another.
    #[error("{0}")]
    Config(String),

    /// The store cannot do what it was asked, such as tell who holds a lock.
    #[error("this store has no way to {what}")]
    Unsupported {
        /// What it cannot do.
        what: &'static str,
    },

    /// No runtime is installed or in scope.
    #[error(
        "no lock runtime is installed: call `LockRuntime::…().build().await?.install()?` once at startup"
    )]
    NotInstalled,

    /// A runtime is already installed.
    #[error("a lock runtime is installed already")]
    AlreadyInstalled,

    /// The runtime has been shut down, or is about to be.
    #[error("the lock runtime is shut down")]
    ShutDown,

    /// The runtime was shut down while locks were still held; they end with their ttl.
    #[error("the lock runtime was shut down while {} still held{}", were(*locks), named(keys, *locks))]
    StillHeld {
        /// Number of guards that were left.
        locks: usize,
        /// Up to ten of their keys.
        keys: Vec<LockKey>,
    },
}

impl LockError {
    /// Another holds the lock, and the caller did not want to wait.
    pub fn is_taken(&self) -> bool {
        matches!(self, LockError::Taken { .. })
    }

    /// The wait is over, and the store last answered that another holds the lock.
    pub fn is_timeout(&self) -> bool {
        matches!(self, LockError::Timeout { .. })
    }

    /// The lease can no longer be proven.
    pub fn is_lost(&self) -> bool {
        matches!(self, LockError::Lost { .. })
    }

    /// The body was ended because it held the lock longer than `max_hold`.
    pub fn is_max_hold(&self) -> bool {
        matches!(self, LockError::MaxHold { .. })
    }

    /// A body around the call holds only a part of the key, and the call wants more.
    pub fn is_upgrade(&self) -> bool {
        matches!(self, LockError::Upgrade { .. })
    }

    /// The store did not answer.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, LockError::Unavailable(_))
    }

    /// The store refuses for good.
    pub fn is_denied(&self) -> bool {
        matches!(self, LockError::Denied(_))
    }

    /// No runtime is installed.
    pub fn is_not_installed(&self) -> bool {
        matches!(self, LockError::NotInstalled)
    }

    /// The store cannot do what it was asked.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, LockError::Unsupported { .. })
    }

    /// The runtime has been shut down.
    pub fn is_shut_down(&self) -> bool {
        matches!(self, LockError::ShutDown)
    }

    /// The same call may succeed later, without a change of the program or its configuration.
    pub fn is_retryable(&self) -> bool {
        self.is_taken() || self.is_timeout() || self.is_unavailable() || self.is_lost()
    }

    /// HTTP status code for a request that ended with this error.
    ///
    /// `409 Conflict` if another holds the lock, `503 Service Unavailable` if the same request may
    /// succeed later or at another server, and `500 Internal Server Error` if the program or its
    /// configuration must be fixed first.
    pub fn http_status(&self) -> u16 {
        if self.is_taken() || self.is_timeout() {
            409
        } else if self.is_retryable() || self.is_shut_down() {
            503
        } else {
            500
        }
    }

    /// The word for it in traces.
    #[cfg(feature = "tracing")]
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            LockError::Taken { .. } => "taken",
            LockError::Timeout { .. } => "timeout",
            LockError::Unavailable(_) => "unavailable",
            LockError::Denied(_) => "denied",
            LockError::ShutDown => "shut_down",
            _ => "error",
        }
    }

    /// Upper bound of the time until a retry makes sense, if known: the rest of the holder's lease.
    ///
    /// A living holder renews its lease, and releases the lock before its end when it is done.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            LockError::Taken { remaining, .. } => *remaining,
            _ => None,
        }
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for LockError {
    /// The [status](LockError::http_status), a short text without the key, and the header
    /// `retry-after` in whole seconds if [`retry_after`](LockError::retry_after) is known.
    fn into_response(self) -> axum_core::response::Response {
        let status = self.http_status();
        let words = match status {
            409 => "another holds the lock",
            503 => "the lock is unavailable",
            _ => "the lock failed",
        };
        let status =
            http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let after = self.retry_after().map(|after| {
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            [(http::header::RETRY_AFTER, seconds.to_string())]
        });
        (status, after, words).into_response()
    }
}

/// The locks that were held while another was waited for.
#[derive(Clone, Debug, Default)]
pub struct Holding(
    /// One pointer, since every function that can fail returns it.
    Option<Box<Keys>>,
);

#[derive(Clone, Debug)]
struct Keys(Vec<LockKey>);

impl Holding {
    pub(crate) fn new(keys: Vec<LockKey>) -> Holding {
        Holding((!keys.is_empty()).then(|| Box::new(Keys(keys))))
    }

    /// Their keys, the innermost first.
    pub fn keys(&self) -> &[LockKey] {
        self.0.as_ref().map_or(&[], |keys| &keys.0)
    }
}

/// An error that several callers get.
impl From<Arc<BackendError>> for LockError {
    fn from(error: Arc<BackendError>) -> LockError {
        if error.is_denied() {
            LockError::Denied(Box::new(error))
        } else {
            LockError::Unavailable(Box::new(error))
        }
    }
}

impl From<BackendError> for LockError {
    fn from(error: BackendError) -> LockError {
        if let Some(what) = error.is_unsupported() {
            LockError::Unsupported { what }
        } else if error.is_denied() {
            LockError::Denied(error.into_source())
        } else {
            LockError::Unavailable(error.into_source())
        }
    }
}

/// What to do about locks that are taken one within the other.
fn while_holding(keys: &[LockKey]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    match keys.as_slice() {
        [] => String::new(),
        keys => format!(
            ", while this call held {}; if others take them in another order, take them together, by `keys`",
            keys.join(", ")
        ),
    }
}

/// The process that holds a lock, as the message has it.
fn by(holder: Option<Process>) -> String {
    match holder {
        Some(holder) if holder == Process::current() => ", in this process".to_owned(),
        Some(holder) => format!(", process {holder}"),
        None => String::new(),
    }
}

/// The keys of locks, as many as are named.
fn named(keys: &[LockKey], locks: usize) -> String {
    let shown: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let more = if keys.len() < locks { ", …" } else { "" };
    match shown.as_slice() {
        [] => String::new(),
        shown => format!(": {}{more}", shown.join(", ")),
    }
}

fn were(locks: usize) -> String {
    match locks {
        1 => "1 lock was".to_owned(),
        _ => format!("{locks} locks were"),
    }
}

/// Milliseconds are what a reader of a message wants.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LockKey {
        LockKey::new("lock:", "customer:42").expect("a key")
    }

    fn taken(remaining: Option<Duration>) -> LockError {
        let key = key();
        LockError::Taken {
            key,
            remaining,
            holder: None,
        }
    }

    fn timeout() -> LockError {
        LockError::Timeout {
            key: key(),
            waited: Duration::from_secs(2),
            holding: Holding::default(),
            holder: None,
        }
    }

    fn of_the_store(error: BackendError) -> LockError {
        LockError::from(error)
    }

    /// Every status, with the errors that have it.
    fn by_status() -> [(u16, Vec<LockError>); 3] {
        let lost = LockError::Lost {
            key: key(),
            reason: LostReason::Expired,
            held: Duration::from_secs(1),
            cause: None,
        };
        let max_hold = LockError::MaxHold {
            key: key(),
            limit: Duration::from_secs(1),
        };
        [
            (409, vec![taken(None), timeout()]),
            (
                503,
                vec![
                    lost,
                    of_the_store(BackendError::unavailable("away")),
                    LockError::ShutDown,
                ],
            ),
            (
                500,
                vec![
                    max_hold,
                    LockError::Upgrade { key: key() },
                    of_the_store(BackendError::denied("no")),
                    of_the_store(BackendError::unsupported("do it")),
                    LockError::Config("no".to_owned()),
                    LockError::NotInstalled,
                    LockError::AlreadyInstalled,
                    LockError::StillHeld {
                        locks: 1,
                        keys: vec![key()],
                    },
                ],
            ),
        ]
    }

    #[test]
    fn held_by_another_is_never_the_status_of_a_store_that_is_down() {
        for (status, errors) in by_status() {
            for error in errors {
                assert_eq!(error.http_status(), status, "{error}");
            }
        }
    }

    #[test]
    fn another_try_makes_sense_when_the_lease_of_the_holder_is_over() {
        let left = Duration::from_millis(1_200);
        assert_eq!(taken(Some(left)).retry_after(), Some(left));
        assert_eq!(taken(None).retry_after(), None);
        assert_eq!(timeout().retry_after(), None);
    }

    #[cfg(feature = "axum")]
    #[test]
    fn a_response_has_the_status_and_no_key() {
        use axum_core::response::IntoResponse;

        for (status, errors) in by_status() {
            for error in errors {
                let response = error.into_response();
                assert_eq!(response.status().as_u16(), status);
                assert!(!format!("{response:?}").contains("customer"));
                assert_eq!(response.headers().get("retry-after"), None);
            }
        }
        let response = taken(Some(Duration::from_millis(1_200))).into_response();
        assert_eq!(response.headers()["retry-after"], "2");
        let response = taken(Some(Duration::ZERO)).into_response();
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
