//! What one event asks for.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use lock_protocol::machine::{Ask, LeaseId};
use lock_protocol::{Instant, Renewal};
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::observe::LockEvent;

/// A renewal that is due.
pub(super) struct Renewing {
    pub(super) lease: LeaseId,
    pub(super) renewal: Box<Renewal>,
    pub(super) patience: Duration,
}

/// What is to be done when no mutex is held: wakers and questions run code of others.
#[must_use = "effects are performed when the mutex of the shard has been unlocked"]
#[derive(Default)]
pub(super) struct Effects {
    pub(super) questions: SmallVec<[Box<Ask>; 1]>,
    pub(super) renewals: Vec<Renewing>,
    pub(super) wakers: SmallVec<[Waker; 1]>,
    /// Only to be dropped, which may drop a task, and a guard with it.
    pub(super) spent: SmallVec<[Waker; 1]>,
    pub(super) hold_ended: Option<Arc<Notify>>,
    /// When the key wants the time, if that is new, or new to the caller.
    pub(super) due: Option<Instant>,
    /// Whether the key is held.
    pub(super) is_held: bool,
    /// What observers are told, which are functions of users.
    pub(super) seen: SmallVec<[LockEvent; 1]>,
    /// Whether there are any.
    pub(super) is_watched: bool,
}

impl Effects {
    pub(super) fn new(is_watched: bool) -> Effects {
        Effects {
            is_watched,
            ..Effects::default()
        }
    }
}
