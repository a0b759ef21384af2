//! What goes wrong between here and Consul, and what it means.

use lock_protocol::{BackendError, Overtaken};
use lock_store::Unanswered;

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It may have been done or not.
    #[error("Consul did not answer in time")]
    Timeout,
    /// The same, in the words of the agent or of the connection.
    #[error("Consul: {0}")]
    Unknown(String),
    /// No agent can be reached, so nothing was done.
    #[error("no agent of Consul can be reached: {0}")]
    Unreachable(String),
    /// The agent has done nothing, and will not.
    #[error("Consul refuses: {0}")]
    Refused(String),
    /// The agent has no room for another connection or question, so nothing was done.
    #[error("an agent of Consul has no room: {0}")]
    Full(String),
    /// The session is not there, so nothing was done.
    #[error("the session has ended")]
    NoSession,
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
    #[error("the backend is closed")]
    Closed,
    /// Nothing was sent: those before it took too long.
    #[error("the questions before this one took too long")]
    NotAsked,
    /// Others changed the lock again and again meanwhile; nothing was done.
    #[error("the lock changed hands again and again")]
    Busy,
    #[error("Consul answered something else than it was asked")]
    Strange,
}

impl Fault {
    /// Whether the question may have had an effect, or may still have one.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Fault::Timeout | Fault::Unknown(_) | Fault::Strange)
    }
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
            Fault::Timeout => BackendError::timed_out(fault),
            Fault::Overtaken(overtaken) => BackendError::unavailable(overtaken),
            fault => BackendError::unavailable(fault),
        }
    }
}
