//! A store that can do less, played by one that can do all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_protocol::{
    Acquired, Claim, GraceBy, Grant, Holder, Limits, LockKey, Mode, Order, OwnerToken, Sinks,
};

use crate::clock;
use crate::settings::kept_for;
use crate::sync::lock;

/// What a store with these limits does otherwise.
pub(super) struct Lesser {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The graces of the claims that wait, or were handed the lock and have not asked since.
    graces: HashMap<OwnerToken, Duration>,
    /// Who is told that a lock may be free, where none is handed over.
    waiting: Vec<(LockKey, OwnerToken, Arc<Sinks>)>,
}

impl Lesser {
    pub(super) fn new(mut limits: Limits) -> Lesser {
        // Whoever asks first has the lock: that is no order.
        limits.hand_over &= limits.order == Order::Fifo;
        if !limits.hand_over {
            limits.order = Order::None;
        }
        limits.modes = false;
        Lesser {
            limits,
            state: Mutex::default(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the store refuses a lease of this `ttl`.
    pub(super) fn refuses(&self, ttl: Duration) -> bool {
        ttl > self.limits.max_ttl
    }

    /// For how long a lease lives in the store.
    pub(super) fn kept(&self, ttl: Duration) -> Duration {
        kept_for(&self.limits, ttl).saturating_add(self.limits.lateness)
    }

    /// The claim as the store has it.
    pub(super) fn stored(&self, claim: &Claim) -> Claim {
        let mut stored = claim.clone();
        stored.ttl = self.kept(claim.ttl);
        stored.mode = Mode::Exclusive;
        if self.limits.grace == GraceBy::Process {
            stored.grace = stored.ttl;
        }
        stored.queue &= self.limits.hand_over;
        stored
    }

    /// What the answer of the store says to who made the claim.
    pub(super) fn answered(&self, answer: Acquired, claim: &Claim, sinks: &Arc<Sinks>) -> Acquired {
        let mut state = lock(&self.state);
        state.forget(&claim.owner);
        match answer {
            Acquired::Granted(mut grant) => {
                grant.valid_for = grant.valid_for.min(claim.ttl);
                Acquired::Granted(grant)
            }
            // A claim that was withdrawn is refused, though nobody holds the lock.
            Acquired::Taken(holder)
                if claim.queue
                    && !self.limits.hand_over
                    && holder.remaining != Some(Duration::ZERO) =>
            {
                let waiter = (claim.key.clone(), claim.owner.clone(), Arc::clone(sinks));
                state.waiting.push(waiter);
                Acquired::Queued(self.told(holder))
            }
            Acquired::Queued(holder) => {
                state.graces.insert(claim.owner.clone(), claim.grace);
                Acquired::Queued(self.told(holder))
            }
            Acquired::Taken(holder) => Acquired::Taken(self.told(holder)),
            other => other,
        }
    }

    fn told(&self, holder: Holder) -> Holder {
        if holder.foreign && !self.limits.foreign_holders {
            return Holder::of_ours(holder.remaining.unwrap_or_default());
        }
        holder
    }

    /// What is told of a hand-over: it is counted on for the grace alone.
    pub(super) fn handed_over(&self, owner: &OwnerToken, mut grant: Grant) -> Grant {
        if let Some(grace) = lock(&self.state).graces.get(owner) {
            grant.valid_for = grant.valid_for.min(*grace);
        }
        grant
    }

    /// After how long the process itself gives back what it was handed, if nobody asks.
    pub(super) fn gives_back_after(&self, owner: &OwnerToken) -> Option<Duration> {
        if self.limits.grace != GraceBy::Process {
            return None;
        }
        lock(&self.state).graces.get(owner).copied()
    }

    /// Whether nobody has asked for the claim since it was handed the lock.
    pub(super) fn is_silent(&self, owner: &OwnerToken) -> bool {
        lock(&self.state).graces.contains_key(owner)
    }

    /// Somebody cares for the claim, or it has ended. Whether it waited without the store.
    pub(super) fn hears_of(&self, owner: &OwnerToken) -> bool {
        lock(&self.state).forget(owner)
    }

    /// How many claims wait that the store does not know of.
    pub(super) fn waiting(&self, key: Option<&str>) -> usize {
        let state = lock(&self.state);
        let waiting = state.waiting.iter();
        waiting
            .filter(|(of, ..)| key.is_none_or(|key| of.as_str() == key))
            .count()
    }

    /// A lock may be free: all who wait for it ask.
    pub(super) fn tell(&self, key: &LockKey) {
        let waiting: Vec<_> = lock(&self.state)
            .waiting
            .iter()
            .filter(|(of, ..)| of == key)
            .cloned()
            .collect();
        for (key, owner, sinks) in waiting {
            sinks.ask_at(&key, &owner, clock::now());
        }
    }
}

impl State {
    /// Whether it waited without the store.
    fn forget(&mut self, owner: &OwnerToken) -> bool {
        self.graces.remove(owner);
        let before = self.waiting.len();
        self.waiting.retain(|(_, waiter, _)| waiter != owner);
        self.waiting.len() < before
    }
}
