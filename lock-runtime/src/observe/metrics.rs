//! Metrics, by the facade `metrics`.
//!
//! Handles are made once for each lock and kept: to look one up by its labels costs more than to
//! take a lock that is passed on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lock_protocol::LostReason;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::{Failure, LockEvent, LockRef, Refusal, Verb, Via};
use crate::sync::lock;

/// The upper bounds, in seconds, of buckets that suit every histogram here: from half a millisecond
/// to a minute. Give them to the exporter, which else may make summaries.
pub const BUCKETS: [f64; 16] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// The names of all metrics.
pub const METRICS: [&str; 14] = [
    ACQUIRE,
    HOLD,
    OLDEST,
    HELD,
    WAITING,
    GRANTS,
    LOST,
    MARGIN,
    RENEWAL_FAILURES,
    RELEASE_FAILURES,
    STORE,
    CONNECTED,
    RECONNECTS,
    PANICS,
];

const ACQUIRE: &str = "distributed_lock_acquire_duration_seconds";
const HOLD: &str = "distributed_lock_hold_duration_seconds";
const OLDEST: &str = "distributed_lock_oldest_hold_seconds";
const HELD: &str = "distributed_lock_held";
const WAITING: &str = "distributed_lock_waiting";
const GRANTS: &str = "distributed_lock_grants_total";
const LOST: &str = "distributed_lock_lost_total";
const MARGIN: &str = "distributed_lock_lease_margin_seconds";
const RENEWAL_FAILURES: &str = "distributed_lock_renewal_failures_total";
const RELEASE_FAILURES: &str = "distributed_lock_release_failures_total";
const STORE: &str = "distributed_lock_store_request_duration_seconds";
const CONNECTED: &str = "distributed_lock_store_connected";
const RECONNECTS: &str = "distributed_lock_store_reconnects_total";
const PANICS: &str = "distributed_lock_panics_total";

/// The metrics of one runtime.
#[derive(Default)]
pub(crate) struct Metrics {
    locks: Mutex<HashMap<&'static str, Arc<OfLock>>>,
    store: OnceLock<OfStore>,
}

/// Those of the locks of one name.
struct OfLock {
    name: &'static str,
    acquired: Histogram,
    grants: [OnceLock<Counter>; 4],
    /// The holds of which the gauge tells.
    count: AtomicI64,
    held: Gauge,
    waiting: Gauge,
    oldest: Gauge,
    released: Histogram,
}

/// Those of the store.
struct OfStore {
    margin: Histogram,
    /// Of each verb, if it was answered.
    answered: [Histogram; 4],
}

impl OfLock {
    fn new(name: &'static str) -> OfLock {
        // From zero on, so that the first loss is an increase.
        for reason in ["expired", "deleted", "taken_over"] {
            counter!(LOST, "lock" => name, "reason" => reason).increment(0);
        }
        OfLock {
            name,
            acquired: histogram!(ACQUIRE, "lock" => name, "outcome" => "acquired"),
            grants: Default::default(),
            count: AtomicI64::new(0),
            held: gauge!(HELD, "lock" => name),
            waiting: gauge!(WAITING, "lock" => name),
            oldest: gauge!(OLDEST, "lock" => name),
            released: histogram!(HOLD, "lock" => name, "outcome" => "released"),
        }
    }

    fn granted(&self, via: Via) {
        let index = via as usize;
        let word = via.as_str();
        let counter = || counter!(GRANTS, "lock" => self.name, "via" => word);
        self.grants[index].get_or_init(counter).increment(1);
    }

    /// A hold began, or ended.
    fn held_by(&self, change: i64) {
        let count = self.count.fetch_add(change, Ordering::Relaxed) + change;
        self.held.increment(change as f64);
        if count == 0 {
            self.oldest.set(0.0);
        }
    }

    fn ended(&self, held: Duration, outcome: &'static str) {
        self.held_by(-1);
        histogram!(HOLD, "lock" => self.name, "outcome" => outcome).record(held.as_secs_f64());
    }
}

impl OfStore {
    fn new() -> OfStore {
        describe();
        // From zero on, so that the first is an increase.
        for cause in [Failure::Timeout, Failure::Connection, Failure::Refused] {
            for name in [RENEWAL_FAILURES, RELEASE_FAILURES] {
                counter!(name, "cause" => cause.as_str()).increment(0);
            }
        }
        for function in ["retry", "owner_tokens", "observer"] {
            counter!(PANICS, "function" => function).increment(0);
        }
        let verbs = [Verb::Acquire, Verb::Renew, Verb::Release, Verb::Abandon];
        OfStore {
            margin: histogram!(MARGIN),
            answered: verbs
                .map(|verb| histogram!(STORE, "verb" => verb.as_str(), "outcome" => "ok")),
        }
    }
}

impl Metrics {
    fn of(&self, lock_ref: &LockRef) -> Arc<OfLock> {
        self.store();
        let mut locks = lock(&self.locks);
        let of_lock = locks.entry(lock_ref.name);
        Arc::clone(of_lock.or_insert_with(|| Arc::new(OfLock::new(lock_ref.name))))
    }

    fn store(&self) -> &OfStore {
        self.store.get_or_init(OfStore::new)
    }

    /// For how long the oldest hold of each lock has lasted; of those that are not there, there is
    /// none.
    pub(crate) fn oldest(&self, ages: &HashMap<&'static str, Duration>) {
        for (name, of_lock) in lock(&self.locks).iter() {
            let age = ages.get(name).copied().unwrap_or_default();
            of_lock.oldest.set(age.as_secs_f64());
        }
    }

    pub(super) fn tell(&self, event: &LockEvent) {
        match event {
            LockEvent::Asked { lock } => self.of(lock).waiting.increment(1.0),
            LockEvent::Acquired {
                lock, waited, via, ..
            } => {
                let of_lock = self.of(lock);
                of_lock.waiting.decrement(1.0);
                of_lock.acquired.record(waited.as_secs_f64());
                of_lock.granted(*via);
                of_lock.held_by(1);
            }
            LockEvent::Refused {
                lock,
                waited,
                refusal,
            } => {
                self.of(lock).waiting.decrement(1.0);
                refused(lock, *waited, refusal);
            }
            LockEvent::Released {
                lock,
                held,
                dropped,
                unconfirmed,
                ..
            } => {
                let of_lock = self.of(lock);
                if *dropped {
                    of_lock.ended(*held, "dropped");
                } else {
                    of_lock.held_by(-1);
                    of_lock.released.record(held.as_secs_f64());
                }
                if let Some(error) = unconfirmed {
                    failed(RELEASE_FAILURES, Failure::of(error));
                }
            }
            LockEvent::Lost {
                lock, held, reason, ..
            } => {
                self.of(lock).ended(*held, "lost");
                counter!(LOST, "lock" => lock.name, "reason" => word_of(*reason)).increment(1);
            }
            LockEvent::MaxHold { lock, limit, .. } => self.of(lock).ended(*limit, "max_hold"),
            LockEvent::Renewed { margin, .. } => self.store().margin.record(margin.as_secs_f64()),
            LockEvent::RenewalFailed { cause, .. } => {
                failed(RENEWAL_FAILURES, Failure::of(cause.last()));
            }
            LockEvent::Store {
                verb,
                took,
                failure,
            } => {
                let took = took.as_secs_f64();
                let outcome = match failure {
                    None => return self.store().answered[*verb as usize].record(took),
                    Some(Failure::Timeout) => "timeout",
                    Some(Failure::Connection) => "lost",
                    Some(Failure::Refused) => "refused",
                };
                histogram!(STORE, "verb" => verb.as_str(), "outcome" => outcome).record(took);
            }
            LockEvent::Connected { way, .. } => {
                self.store();
                gauge!(CONNECTED, "way" => *way).increment(1.0);
                counter!(RECONNECTS, "way" => *way).increment(0);
            }
            LockEvent::Disconnected {
                way,
                was_connected: true,
                cause,
                ..
            } => {
                gauge!(CONNECTED, "way" => *way).decrement(1.0);
                let given_up = u64::from(cause.is_some());
                counter!(RECONNECTS, "way" => *way).increment(given_up);
            }
            LockEvent::Panicked { function } => {
                counter!(PANICS, "function" => *function).increment(1);
            }
            _ => {}
        }
    }
}

fn refused(lock: &LockRef, waited: Duration, refusal: &Refusal) {
    let outcome = refusal.as_str();
    histogram!(ACQUIRE, "lock" => lock.name, "outcome" => outcome).record(waited.as_secs_f64());
}

fn failed(name: &'static str, cause: Failure) {
    counter!(name, "cause" => cause.as_str()).increment(1);
}

fn word_of(reason: LostReason) -> &'static str {
    match reason {
        LostReason::Expired => "expired",
        LostReason::TakenOver => "taken_over",
        LostReason::Deleted => "deleted",
        _ => "not_held",
    }
}

fn describe() {
    let seconds = |name, text| describe_histogram!(name, Unit::Seconds, text);
    seconds(
        ACQUIRE,
        "How long callers waited for a lock, by what came of it",
    );
    seconds(HOLD, "How long locks were held, by how that ended");
    seconds(
        MARGIN,
        "What was left of a lease when a renewal was confirmed",
    );
    seconds(STORE, "How long the store took to answer");
    let oldest = "How long the lock that is held longest has been held";
    describe_gauge!(OLDEST, Unit::Seconds, oldest);
    describe_gauge!(HELD, Unit::Count, "How many locks this process holds");
    describe_gauge!(
        WAITING,
        Unit::Count,
        "How many tasks of this process wait for a lock"
    );
    describe_gauge!(
        CONNECTED,
        Unit::Count,
        "How many connections to the store there are"
    );
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    count(
        GRANTS,
        "How often a lock came to a caller, by the way it came",
    );
    count(LOST, "How many leases were lost, by how that was noticed");
    count(RENEWAL_FAILURES, "How many renewals had no answer");
    count(
        RELEASE_FAILURES,
        "How many releases the store did not confirm",
    );
    count(
        RECONNECTS,
        "How many connections to the store were given up",
    );
    count(
        PANICS,
        "Which functions of this program panicked that the lock calls",
    );
}
