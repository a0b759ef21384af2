//! The checker: reads what real processes logged, and says which promises were broken.
//!
//! Every process appends [`Event`]s to a file of its own through a [`Recorder`]; afterwards
//! [`check`] looks at all of them together. Fencing tokens give the order in which a key was
//! granted, which the order of the answers does not: so every check is a sort and one sweep, O(n
//! log n) for n events. What a lost answer hides is never guessed: an `unknown` outcome constrains
//! nothing.
//!
//! | | check | where |
//! |---|---|---|
//! | C1 | [`UniqueTokens`](Check::UniqueTokens) | `leases` |
//! | C2 | [`RealTimeOrder`](Check::RealTimeOrder) | `leases` |
//! | C3 | [`ReentryKeepsToken`](Check::ReentryKeepsToken) | `leases` |
//! | C4 | [`FencedResource`](Check::FencedResource) | `resource` |
//! | C5 | [`DisjointLeases`](Check::DisjointLeases) | `leases` |
//! | C6 | [`CounterSum`](Check::CounterSum) | `resource` |
//! | C7 | [`NoOkAfterLoss`](Check::NoOkAfterLoss) | `leases` |
//! | C8 | [`CleanEnd`](Check::CleanEnd) | `end` |
//! | C9 | [`QueueOrder`](Check::QueueOrder) | `waiting` |
//! | C10 | [`BoundedWait`](Check::BoundedWait) | `waiting` |
//! | C11 | [`MinimumHold`](Check::MinimumHold) | `leases` |
//!
//! C1, C2 and C5 together are exactly "a mutex with fencing tokens, linearizable":
//! `tests/checker_search.rs` compares them with a search over all orders.

mod end;
mod event;
mod faults;
mod leases;
mod recorder;
mod resource;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;

use faults::Faults;

pub use event::{Company, Event, Fault, Leftovers, Nanos, Outcome, Place, What};
pub use recorder::{Recorder, now, read_log, read_logs};

/// The bounds that the promises leave open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How much later than its own deadline an acquire may return.
    pub wait_slack: Nanos,
    /// The longest ttl that a key may be left with at the end.
    pub max_ttl_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wait_slack: 100_000_000,
            max_ttl_ms: 24 * 60 * 60 * 1000,
        }
    }
}

/// A promise, as something that a log can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// C1: no two grants of a key have the same fencing token, but for those who share it.
    UniqueTokens,
    /// C2: a claim made after another was granted gets the larger token, unless they go together.
    RealTimeOrder,
    /// C3: whoever re-enters a lock keeps its token.
    ReentryKeepsToken,
    /// C4: the tokens that a resource accepts never fall, and equal tokens belong to one claim.
    FencedResource,
    /// C5: no lease is granted before every earlier one has ended that it does not go together
    /// with, and no more permits than there are.
    DisjointLeases,
    /// C6: the counter is the sum of the increments that were accepted.
    CounterSum,
    /// C7: no body ends well after its lease.
    NoOkAfterLoss,
    /// C8: nothing is left behind.
    CleanEnd,
    /// C9: grants follow the order in which the claims were queued.
    QueueOrder,
    /// C10: whoever waits is granted or told so within its bound.
    BoundedWait,
    /// C11: a key that is to stay taken is granted to nobody else until then.
    MinimumHold,
}

impl Check {
    /// Every check.
    pub const ALL: [Check; 11] = [
        Check::UniqueTokens,
        Check::RealTimeOrder,
        Check::ReentryKeepsToken,
        Check::FencedResource,
        Check::DisjointLeases,
        Check::CounterSum,
        Check::NoOkAfterLoss,
        Check::CleanEnd,
        Check::QueueOrder,
        Check::BoundedWait,
        Check::MinimumHold,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{} {self:?}", *self as usize + 1)
    }
}

/// A broken promise, with the events that show it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which promise.
    pub check: Check,
    /// What is wrong, in words.
    pub what: String,
    /// What shows it, earliest first.
    pub events: Vec<Event>,
}

impl Violation {
    fn new(check: Check, what: impl Into<String>, events: &[&Event]) -> Violation {
        let mut events: Vec<Event> = events.iter().copied().cloned().collect();
        events.sort_by_key(|event| event.invoke);
        Violation {
            check,
            what: what.into(),
            events,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)?;
        self.events.iter().try_for_each(|e| write!(f, "\n  {e}"))
    }
}

/// What a log shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many grants the log holds, re-entries not counted.
    pub acquisitions: usize,
    /// How many grants were of claims that came when another stood in the queue, which no fault
    /// excuses from being served first.
    pub queue_orders: usize,
    /// How many keys were to stay taken for a while, and granted to somebody later.
    pub minimum_holds: usize,
    /// The promises that were broken.
    pub violations: Vec<Violation>,
    /// What would break a promise but for a fault that the promise excludes, and that fault.
    pub excused: Vec<(Violation, Fault)>,
}

impl Report {
    /// How many violations of `check` there are.
    pub fn count(&self, check: Check) -> usize {
        self.violations.iter().filter(|v| v.check == check).count()
    }

    /// The checks that found something.
    pub fn broken(&self) -> Vec<Check> {
        let mut checks: Vec<Check> = self.violations.iter().map(|v| v.check).collect();
        checks.sort();
        checks.dedup();
        checks
    }

    /// How many findings of `check` each kind of fault excuses.
    pub fn excused_by(&self, check: Check) -> BTreeMap<Fault, usize> {
        let mut by = BTreeMap::new();
        for (_, fault) in self.excused.iter().filter(|(v, _)| v.check == check) {
            *by.entry(*fault).or_default() += 1;
        }
        by
    }

    fn add(&mut self, violation: Violation, excuse: Option<Fault>) {
        match excuse {
            Some(fault) => self.excused.push((violation, fault)),
            None => self.violations.push(violation),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} acquisitions, {} violations, {} excused",
            self.acquisitions,
            self.violations.len(),
            self.excused.len()
        )?;
        self.violations.iter().try_for_each(|v| writeln!(f, "{v}"))
    }
}

/// Checks the logs of all processes of one run, in any order.
pub fn check(events: &[Event], limits: &Limits) -> Report {
    let faults = Faults::of(events);
    let mut report = Report::default();
    for (_, of_key) in by_key(events) {
        leases::check(&of_key, &faults, &mut report);
        resource::check(&of_key, &mut report);
        waiting::check_order(&of_key, &faults, &mut report);
    }
    waiting::check_bounds(events, &faults, limits, &mut report);
    end::check(events, limits, &mut report);
    report
}

/// The events of each key.
fn by_key(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut keys: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        keys.entry(&event.key).or_default().push(event);
    }
    keys
}
