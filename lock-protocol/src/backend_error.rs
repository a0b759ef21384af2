//! Why a backend does not know.

use alloc::boxed::Box;

/// The cause of an error, whatever client it came from.
pub type BoxError = Box<dyn core::error::Error + Send + Sync + 'static>;

/// Why a backend does not know.
#[derive(Debug, thiserror::Error)]
#[error("{}", if *.denied { "the store refuses" } else { "the store did not answer" })]
pub struct BackendError {
    /// Whether asking again is useless.
    denied: bool,
    /// Whether the time was up; else something went wrong before.
    timed_out: bool,
    source: BoxError,
}

impl BackendError {
    /// The store did not answer, or cannot at the moment: asking again may help.
    pub fn unavailable(source: impl Into<BoxError>) -> BackendError {
        BackendError {
            denied: false,
            timed_out: false,
            source: source.into(),
        }
    }

    /// The same, since the time for an answer was up.
    pub fn timed_out(source: impl Into<BoxError>) -> BackendError {
        BackendError {
            timed_out: true,
            ..BackendError::unavailable(source)
        }
    }

    /// The store answered and will not do it, however often it is asked: a wrong password, a
    /// missing permission, a key that holds something else.
    pub fn denied(source: impl Into<BoxError>) -> BackendError {
        BackendError {
            denied: true,
            timed_out: false,
            source: source.into(),
        }
    }

    /// The store has no way to `do_this`, such as "tell who holds a lock".
    pub fn unsupported(do_this: &'static str) -> BackendError {
        BackendError::denied(Box::new(Unsupported(do_this)) as BoxError)
    }

    /// What the store has no way to do, if it is that.
    pub fn is_unsupported(&self) -> Option<&'static str> {
        let unsupported = self.source.downcast_ref::<Unsupported>();
        unsupported.map(|Unsupported(do_this)| *do_this)
    }

    /// Whether asking again is useless.
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// Whether it is known only that the time for an answer was up.
    pub fn is_timeout(&self) -> bool {
        self.timed_out
    }

    /// The cause.
    pub fn into_source(self) -> BoxError {
        self.source
    }
}

/// What a store has no way to do.
#[derive(Debug, thiserror::Error)]
#[error("this store has no way to {0}")]
struct Unsupported(&'static str);
