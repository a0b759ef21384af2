//! What one event asks for.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use lock_protocol::machine::{Ask, LeaseId};
use lock_protocol::{Instant, Renewal};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{Engine, asking};
use crate::clock;
use crate::sync::lock;

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
    pub(super) hold_ended: Option<Arc<Notify>>,
    /// When the key wants the time, if that is new.
    pub(super) due: Option<Instant>,
    /// Whether the key is held.
    pub(super) is_held: bool,
}

impl Effects {
    /// Performs everything; questions on the executor.
    pub(super) fn perform(mut self, engine: &Arc<Engine>) {
        self.tell();
        if let Some(at) = self.due {
            engine.tickers.look_by(engine, at);
        }
        for ask in self.questions {
            asking::spawn(engine, ask);
        }
        asking::renew(engine, self.renewals);
    }

    /// Performs what can be performed within a call of the backend, and leaves questions and
    /// renewals to the ticker.
    pub(super) fn note(mut self, engine: &Engine) {
        self.tell();
        let mut due = self.due;
        if !self.questions.is_empty() {
            lock(&engine.deferred).extend(self.questions.into_iter().map(|ask| *ask));
            due = Some(clock::now());
        }
        if let Some(at) = due {
            engine.tickers.look_by(engine, at);
        }
    }

    fn tell(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        if let Some(hold_ended) = self.hold_ended.take() {
            hold_ended.notify_waiters();
        }
    }
}
