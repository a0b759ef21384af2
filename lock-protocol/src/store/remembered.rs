//! Claims of which a store remembers something for as long as a question of them may be late.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::time::Duration;

use super::{FEW, Map};
use crate::time::Instant;
use crate::token::OwnerToken;

/// For how long such a claim is remembered.
const REMEMBERED: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    /// Until when each is remembered.
    until: Map<OwnerToken, Instant>,
    /// How many there may be before those that are not remembered any more are looked for.
    sweep_at: usize,
}

impl Remembered {
    pub(super) fn has(&self, owner: &OwnerToken, now: Instant) -> bool {
        self.until.get(owner).is_some_and(|until| now < *until)
    }

    pub(super) fn add(&mut self, owner: &OwnerToken, now: Instant) {
        self.until.insert(owner.clone(), now + REMEMBERED);
        if self.until.len() > self.sweep_at.max(FEW) {
            self.until.retain(|_, until| now < *until);
            self.sweep_at = self.until.len() * 2;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }
}

impl Hash for Remembered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut until: Vec<_> = self.until.iter().collect();
        until.sort_unstable();
        until.hash(state);
    }
}
