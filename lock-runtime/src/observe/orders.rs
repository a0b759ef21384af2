//! In which order locks are taken, one within the other: two that are taken in both orders may each
//! wait for the other.

use std::collections::HashMap;
use std::sync::Mutex;

use super::{LockEvent, NAMELESS};
use crate::sync::lock;

/// Of more pairs it is not remembered in which order they were taken.
const MOST: usize = 4096;

/// A lock that is taken, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taking {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The function whose lock it is, `-` if it is not known.
    pub(crate) function: &'static str,
}

/// The orders that have been seen.
#[derive(Default)]
pub(super) struct Orders(Mutex<HashMap<(&'static str, &'static str), Seen>>);

/// How a lock was first taken within another.
struct Seen {
    outer: Taking,
    inner: Taking,
    /// Whether it was told that the other order was seen, too.
    is_told: bool,
}

impl Orders {
    /// Takes in that one lock is taken within another. What is to be told of it, which is once for
    /// two locks.
    pub(super) fn note(&self, outer: Taking, inner: Taking) -> Option<LockEvent> {
        // Of those that have no name nothing can be said, and of two of one name neither.
        if outer.name == inner.name || outer.name == NAMELESS || inner.name == NAMELESS {
            return None;
        }
        let mut orders = lock(&self.0);
        if orders.contains_key(&(outer.name, inner.name)) {
            return None;
        }
        if orders.len() < MOST {
            let seen = Seen {
                outer,
                inner,
                is_told: false,
            };
            orders.insert((outer.name, inner.name), seen);
        }
        let other = orders.get_mut(&(inner.name, outer.name))?;
        if std::mem::replace(&mut other.is_told, true) {
            return None;
        }
        Some(LockEvent::BothOrders {
            first: outer.name,
            second: inner.name,
            functions: [inner.function, other.inner.function],
            outer_functions: [outer.function, other.outer.function],
        })
    }
}
