//! The tasks of this process that wait for one key, in the order of their arrival.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::iter::once;
use core::mem::replace;

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

/// The waiters of one key. Nobody waits for most locks that are held, and who waits is most often
/// alone: then it is as small as a pointer, and one allocation.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Line(Option<Box<Queue>>);

#[derive(Clone, Debug, Hash)]
struct Queue {
    head: Waiter,
    rest: VecDeque<Waiter>,
}

impl Line {
    pub(super) fn push(&mut self, waiter: Waiter) {
        match self.0.as_deref_mut() {
            Some(Queue { head, rest }) => {
                debug_assert!(rest.back().unwrap_or(head).id < waiter.id);
                rest.push_back(waiter);
            }
            None => {
                let rest = VecDeque::new();
                self.0 = Some(Box::new(Queue { head: waiter, rest }));
            }
        }
    }

    pub(super) fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let queue = self.0.as_mut()?;
        if queue.head.id == id {
            return self.pop();
        }
        let index = queue.rest.binary_search_by_key(&id, |waiter| waiter.id);
        queue.rest.remove(index.ok()?)
    }

    pub(super) fn head(&self) -> Option<&Waiter> {
        self.0.as_ref().map(|queue| &queue.head)
    }

    pub(super) fn pop(&mut self) -> Option<Waiter> {
        let mut queue = self.0.take()?;
        let Some(next) = queue.rest.pop_front() else {
            return Some(queue.head);
        };
        let head = replace(&mut queue.head, next);
        self.0 = Some(queue);
        Some(head)
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| 1 + queue.rest.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether anybody stays when the lock is taken.
    pub(super) fn waits(&self) -> bool {
        self.iter().any(|waiter| !waiter.once)
    }

    /// Takes out those who leave at the first answer.
    pub(super) fn take_once(&mut self) -> VecDeque<Waiter> {
        if !self.iter().any(|waiter| waiter.once) {
            return VecDeque::new();
        }
        let all = self.take_all().into_iter();
        let (once, staying) = all.partition(|waiter| waiter.once);
        self.put(staying);
        once
    }

    /// Takes out those who want to keep the lease by these terms.
    pub(super) fn take_alike(&mut self, terms: &Terms) -> VecDeque<Waiter> {
        let all = self.take_all().into_iter();
        let (alike, staying) = all.partition(|waiter| waiter.terms == *terms);
        self.put(staying);
        alike
    }

    /// Takes out everybody.
    pub(super) fn take_all(&mut self) -> VecDeque<Waiter> {
        let Some(queue) = self.0.take() else {
            return VecDeque::new();
        };
        let Queue { head, mut rest } = *queue;
        rest.push_front(head);
        rest
    }

    /// Makes these the line.
    fn put(&mut self, mut waiters: VecDeque<Waiter>) {
        let head = waiters.pop_front();
        self.0 = head.map(|head| {
            Box::new(Queue {
                head,
                rest: waiters,
            })
        });
    }

    fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.0
            .iter()
            .flat_map(|queue| once(&queue.head).chain(&queue.rest))
    }
}
