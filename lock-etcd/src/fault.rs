//! What goes wrong between here and etcd, and what it means.

use lock_protocol::{BackendError, Overtaken};
use lock_store::Unanswered;
use tonic::{Code, Status};

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It may have been done or not.
    #[error("etcd did not answer in time")]
    Timeout,
    /// The same, in the words of the server or of the connection.
    #[error("etcd: {0}")]
    Unknown(String),
    /// No member can be reached, so nothing was done.
    #[error("no member of etcd can be reached: {0}")]
    Unreachable(String),
    /// The member that was asked has no leader, or does not answer, so nothing was done.
    #[error("etcd had no leader in time")]
    NoLeader,
    /// The server has done nothing, and will not.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// The server wants a new token of its user.
    #[error("etcd wants its user to log in again")]
    LogIn,
    /// The lease is not there, so nothing was done.
    #[error("the lease has ended")]
    NoLease,
    /// The proof of a lease came from a leader that may have been replaced meanwhile.
    #[error("the leader of etcd changed in between")]
    LeaderChanged,
    /// The lease ended before it could be told.
    #[error("the lease ran out before etcd had answered")]
    TooLate,
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
    #[error("the backend is closed")]
    Closed,
    /// Nothing was sent: those before it took too long.
    #[error("the questions before this one took too long")]
    NotAsked,
    #[error("etcd answered something else than it was asked")]
    Strange,
}

impl Fault {
    /// What a status of the server, or of the connection, means.
    pub(crate) fn of(status: &Status) -> Fault {
        let message = status.message();
        match status.code() {
            // Also "revision of auth store is old": the user has changed since it logged in.
            Code::Unauthenticated => Fault::LogIn,
            Code::InvalidArgument if message.contains("auth store") => Fault::LogIn,
            Code::NotFound if message.contains("lease not found") => Fault::NoLease,
            Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
                Fault::Refused(message.to_owned())
            }
            // The server says "exhausted" of a write that it has done as well.
            _ => Fault::Unknown(described(status)),
        }
    }

    /// No connection could be made, for the reason in `status`.
    pub(crate) fn unreachable(status: &Status) -> Fault {
        Fault::Unreachable(described(status))
    }

    /// Whether the question may have had an effect, or may still have one.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self,
            Fault::Timeout | Fault::Unknown(_) | Fault::Strange | Fault::LeaderChanged
        )
    }
}

/// The status and the innermost cause: a client library hides "connection refused" behind
/// "transport error".
fn described(status: &Status) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = Some(error);
        cause = error.source();
    }
    if let Some(error) = innermost {
        let error = error.to_string();
        if !text.contains(&error) {
            text = format!("{text}: {error}");
        }
    }
    text
}

impl From<Unanswered> for Fault {
    fn from(why: Unanswered) -> Fault {
        match why {
            Unanswered::Overtaken(overtaken) => Fault::Overtaken(overtaken),
            Unanswered::TooLate => Fault::NotAsked,
            _ => Fault::Closed,
        }
    }
}

impl From<Fault> for BackendError {
    fn from(fault: Fault) -> BackendError {
        match fault {
            Fault::Refused(_) => BackendError::denied(fault),
            Fault::Overtaken(overtaken) => BackendError::unavailable(overtaken),
            Fault::Timeout | Fault::NoLeader => BackendError::timed_out(fault),
            fault => BackendError::unavailable(fault),
        }
    }
}
