//! The tasks of this process that wait for one key, in the order of their arrival.

use alloc::collections::VecDeque;

use crate::terms::Terms;
use crate::time::Instant;
use crate::token::OwnerToken;

/// The name of a waiter within its process. Later waiters of a key have larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// A task that wants the lock.
#[derive(Clone, Debug, Hash)]
pub struct Waiter {
    /// Its name.
    pub id: WaiterId,
    /// How it would keep the lease.
    pub terms: Terms,
    /// Whether it leaves at the first answer.
    pub once: bool,
    /// Whether what it does with the lock begins when it has it; else it
    /// [begins](super::Event::Began) later, when it has others as well.
    pub begins: bool,
    /// Until when it waits.
    pub deadline: Instant,
    /// The owner token of the claim, should it be this waiter for whom one is made; `None` if
    /// [`Key::wants_owner`](super::Key::wants_owner) is heeded.
    pub owner: Option<OwnerToken>,
}

/// The waiters of one key.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Line(VecDeque<Waiter>);

impl Line {
    pub(super) fn push(&mut self, waiter: Waiter) {
        debug_assert!(self.0.back().is_none_or(|last| last.id < waiter.id));
        self.0.push_back(waiter);
    }

    pub(super) fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let index = self.0.binary_search_by_key(&id, |waiter| waiter.id).ok()?;
        self.0.remove(index)
    }

    pub(super) fn head(&self) -> Option<&Waiter> {
        self.0.front()
    }

    pub(super) fn pop(&mut self) -> Option<Waiter> {
        let head = self.0.pop_front();
        if self.0.is_empty() {
            // Most held locks are never waited for.
            self.0 = VecDeque::new();
        }
        head
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anybody stays when the lock is taken.
    pub(super) fn waits(&self) -> bool {
        self.0.iter().any(|waiter| !waiter.once)
    }

    /// Takes out those who leave at the first answer.
    pub(super) fn take_once(&mut self) -> VecDeque<Waiter> {
        if !self.0.iter().any(|waiter| waiter.once) {
            return VecDeque::new();
        }
        let (once, staying) = core::mem::take(&mut self.0)
            .into_iter()
            .partition(|waiter| waiter.once);
        self.0 = staying;
        once
    }

    /// Takes out those who want to keep the lease by these terms.
    pub(super) fn take_alike(&mut self, terms: &Terms) -> VecDeque<Waiter> {
        let (alike, staying) = core::mem::take(&mut self.0)
            .into_iter()
            .partition(|waiter| waiter.terms == *terms);
        self.0 = staying;
        alike
    }

    /// Takes out everybody.
    pub(super) fn take_all(&mut self) -> VecDeque<Waiter> {
        core::mem::take(&mut self.0)
    }
}
