//! Faults that a test arranges.

use std::collections::VecDeque;
use std::time::Duration;

use lock_protocol::BackendError;
use lock_protocol::Overtaken;
use tokio::time::sleep;

/// How a verb of the in-memory backend fails, as
/// [`fail_next`](super::MemoryBackend::fail_next) arranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is done, and the error says that the store is unavailable.
    Unavailable,
    /// Nothing is done, and the error says that the store refuses for good.
    Denied,
    /// The verb is done, but its answer is lost: the error says that the store is unavailable.
    AnswerLost,
    /// The verb is done at once, and its answer comes after this long.
    Slow(Duration),
    /// Nothing is done, and the error that the store is unavailable comes after this long.
    Hang(Duration),
}

/// Why a verb was not done, or not answered.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the in-memory backend is closed")]
    Closed,
    #[error("the test made the in-memory backend unavailable")]
    Unavailable,
    #[error("the test made the in-memory backend refuse")]
    Denied,
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> BackendError {
        match refusal {
            Refusal::Unavailable => BackendError::unavailable(refusal),
            Refusal::Overtaken(overtaken) => BackendError::unavailable(overtaken),
            Refusal::Closed | Refusal::Denied => BackendError::denied(refusal),
        }
    }
}

/// The faults that are still to come.
#[derive(Default)]
pub(super) struct Faults(VecDeque<(usize, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, verbs: usize, fault: Fault) {
        self.0.push_back((verbs, fault));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// How the next verb ends, if it is doomed.
    pub(super) fn next(&mut self) -> Option<Fault> {
        while let Some((verbs, fault)) = self.0.front_mut() {
            if let Some(left) = verbs.checked_sub(1) {
                *verbs = left;
                return Some(*fault);
            }
            self.0.pop_front();
        }
        None
    }
}

/// Runs a verb, or what `fault` makes of it.
pub(super) async fn run<T>(fault: Option<Fault>, verb: impl FnOnce() -> T) -> Result<T, Refusal> {
    match fault {
        None => Ok(verb()),
        Some(Fault::Unavailable) => Err(Refusal::Unavailable),
        Some(Fault::Denied) => Err(Refusal::Denied),
        Some(Fault::AnswerLost) => {
            verb();
            Err(Refusal::Unavailable)
        }
        Some(Fault::Slow(delay)) => {
            let answer = verb();
            sleep(delay).await;
            Ok(answer)
        }
        Some(Fault::Hang(delay)) => {
            sleep(delay).await;
            Err(Refusal::Unavailable)
        }
    }
}
