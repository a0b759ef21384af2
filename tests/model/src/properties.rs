//! What must hold.

use std::fmt;

use stateright::Property;

use crate::{Protocol, State};

/// A promise of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expected {
    /// The resource never accepts a write of an earlier grant after one of a later.
    NoStaleWrite,
    /// Whoever may rely on a lease is the owner in the store, unless the store forgot that: so there is one at most.
    ValidLeaseIsTheStores,
    /// The lock key has a ttl.
    OwnerHasLease,
    /// Nobody but a live owner itself ends its lease.
    NoEviction,
    /// Every grant has larger tokens than all before.
    TokensGrow,
    /// A claim is the owner or stands in the queue, once.
    ClaimStandsOnce,
    /// A lock is not granted past a live waiter.
    NobodyOvertaken,
    /// A claim that was withdrawn is neither the owner nor in the queue.
    WithdrawnIsGone,
    /// Nobody waits for a lock that is free, unless a lease ran out.
    PromptHandOff,
    /// A process passes a lease on within its budget.
    PassesAreBounded,
    /// In the end every caller has had the lock, or was told that it has not, or is dead; whatever happens on the way.
    EveryoneEnds,
    /// Everyone can be served without a fault.
    ServedWithoutFault,
    /// A holder can come too late: the fence is needed.
    StaleWriteTried,
}

impl Expected {
    /// Every promise; the last two are controls.
    pub const ALL: [Expected; 13] = [
        Expected::NoStaleWrite,
        Expected::ValidLeaseIsTheStores,
        Expected::OwnerHasLease,
        Expected::NoEviction,
        Expected::TokensGrow,
        Expected::ClaimStandsOnce,
        Expected::NobodyOvertaken,
        Expected::WithdrawnIsGone,
        Expected::PromptHandOff,
        Expected::PassesAreBounded,
        Expected::EveryoneEnds,
        Expected::ServedWithoutFault,
        Expected::StaleWriteTried,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Expected::NoStaleWrite => "no stale write is accepted",
            Expected::ValidLeaseIsTheStores => "a valid lease is the one in the store",
            Expected::OwnerHasLease => "the owner key has a lease",
            Expected::NoEviction => "no live owner is evicted by another",
            Expected::TokensGrow => "fencing tokens grow",
            Expected::ClaimStandsOnce => "a claim stands once",
            Expected::NobodyOvertaken => "no waiter is overtaken",
            Expected::WithdrawnIsGone => "a withdrawn claim is gone",
            Expected::PromptHandOff => "nobody waits for a lock that was released",
            Expected::PassesAreBounded => "passing on is bounded",
            Expected::EveryoneEnds => "every client ends or is dead",
            Expected::ServedWithoutFault => "all are served without a fault",
            Expected::StaleWriteTried => "a stale write is tried",
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The promises in the form that stateright checks.
pub fn properties() -> Vec<Property<Protocol>> {
    Expected::ALL.into_iter().map(property).collect()
}

fn property(expected: Expected) -> Property<Protocol> {
    let name = expected.name();
    match expected {
        Expected::NoStaleWrite => Property::<Protocol>::always(name, |_, s| !s.seen.stale_write),
        Expected::ValidLeaseIsTheStores => {
            Property::<Protocol>::always(name, |_, s| valid_is_the_stores(s))
        }
        Expected::OwnerHasLease => Property::<Protocol>::always(name, |_, s| {
            s.store.owner.is_none_or(|owner| owner.leased)
        }),
        Expected::NoEviction => Property::<Protocol>::always(name, |_, s| !s.seen.evicted),
        Expected::TokensGrow => Property::<Protocol>::always(name, |_, s| !s.seen.token_fell),
        Expected::ClaimStandsOnce => {
            Property::<Protocol>::always(name, |_, s| claims_stand_once(s))
        }
        Expected::NobodyOvertaken => Property::<Protocol>::always(name, |_, s| !s.seen.overtaken),
        Expected::WithdrawnIsGone => {
            Property::<Protocol>::always(name, |_, s| !s.seen.withdrawn_stayed)
        }
        Expected::PromptHandOff => {
            Property::<Protocol>::always(name, |_, s| hand_off_was_prompt(s))
        }
        Expected::PassesAreBounded => Property::<Protocol>::always(name, |protocol, s| {
            let mut holds = s.processes.iter().filter_map(|process| process.holds());
            holds.all(|hold| hold.passes <= protocol.passes)
        }),
        // Exact, although stateright's search for such properties is not in general: a state in which everyone has ended stays one, and
        // every way ends, since whatever could repeat itself uses up a fault, a caller or a grant.
        Expected::EveryoneEnds => {
            Property::<Protocol>::eventually(name, |_, s| everyone_has_ended(s))
        }
        Expected::ServedWithoutFault => {
            Property::<Protocol>::sometimes(name, |_, s| s.faults == 0 && everyone_has_ended(s))
        }
        Expected::StaleWriteTried => Property::<Protocol>::sometimes(name, |_, s| {
            let mut holds = s.processes.iter().filter_map(|process| process.holds());
            holds.any(|hold| hold.spent && hold.written && hold.token < s.resource.token)
        }),
    }
}

fn valid_is_the_stores(state: &State) -> bool {
    let owner = state.store.owner.map(|owner| owner.grant);
    let mut valid = state.processes.iter().filter_map(|p| p.valid_hold());
    state.seen.owner_forgotten || valid.all(|hold| Some(hold.grant) == owner)
}

fn claims_stand_once(state: &State) -> bool {
    let owner = state.store.owner.map(|owner| owner.claim);
    let queue = &state.store.queue;
    queue
        .iter()
        .enumerate()
        .all(|(place, claim)| Some(*claim) != owner && !queue[..place].contains(claim))
}

fn hand_off_was_prompt(state: &State) -> bool {
    let waits = |process: usize| {
        let process = &state.processes[process];
        process.lives() && process.connected
    };
    state.store.owner.is_some()
        || state.seen.lapsed
        || !state.store.queue.iter().any(|claim| waits(claim.process))
}

fn everyone_has_ended(state: &State) -> bool {
    state.processes.iter().all(|process| process.has_ended())
}
