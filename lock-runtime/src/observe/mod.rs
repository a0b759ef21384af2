//! What happens to locks and to their store, for logs, metrics and whoever is on call.
//!
//! The feature `tracing`, which is on by default, makes spans and log lines of it, and the feature
//! `metrics` makes metrics. An [`Observer`] of your own is told of every [`LockEvent`]. Nothing of
//! this changes how a lock behaves.
//!
//! # Spans and log lines
//!
//! Their targets are `lock_runtime`, and `lock_runtime::store` for what is about the store.
//!
//! | level | span or message | fields |
//! |---|---|---|
//! | DEBUG | span `lock.acquire` | lock, key, ttl_ms, wait_ms; at its end: outcome, waited_secs, and via and fencing_token, or the process that is the holder |
//! | INFO | span `lock.hold`, around the body of an annotated function and of [`Lock::run`](crate::Lock::run) | lock, key, fencing_token |
//! | WARN | lock lost | lock, key, fencing_token, reason, held_secs, failed_renewals, error |
//! | WARN | lock acquired slowly: after [`slow_wait`](crate::LockRuntimeBuilder::slow_wait) | lock, key, fencing_token, waited_secs, threshold_secs, waiting, and holder_process: which process had it meanwhile, if the store told |
//! | WARN, then DEBUG | renewal failed, the first of a row and those after it | lock, key, left_secs, times, error |
//! | INFO | renewal recovered | lock, key, times |
//! | WARN | release not confirmed | lock, key, fencing_token, held_secs, error |
//! | WARN | lock held too long | lock, key, fencing_token, max_hold_secs |
//! | WARN | body blocks its thread, for half of the ttl or longer; when that is over | lock, key, fencing_token, blocked_secs, ttl_secs |
//! | WARN | function panicked | function |
//! | WARN | shut down with locks held | locks, keys |
//! | WARN | two locks are taken in both orders, once for each pair | first, second, functions |
//! | INFO | connected, connection closed | address, way |
//! | WARN | connection lost, cannot connect | address, way, error |
//! | INFO | ttl raised by the store | ttl_secs, kept_for_secs |
//! | WARN | granted alone by the store, once for each lock | lock, mode |
//! | DEBUG | lock acquired, lock not acquired, lock released, queued | lock, key, … |
//! | TRACE | each question to the store | verb, took_secs, outcome |
//!
//! No URL, user or password is ever among them. Keys may hold personal data:
//! [`log_keys(false)`](crate::LockRuntimeBuilder::log_keys) replaces each by a hash.
//!
//! # Metrics
//!
//! With the feature `metrics`, which is off by default, by the facade `metrics`: install a
//! recorder, such as that of `metrics-exporter-prometheus`, before the runtime is built, and give
//! it `BUCKETS`. The label `lock` is the template of the attribute, or what `name` says, so that
//! there are as many as there are annotations; no key, owner or host is a label. All begin with
//! `distributed_lock_`; `METRICS` has their names.
//!
//! | name | kind | labels | what it tells |
//! |---|---|---|---|
//! | `acquire_duration_seconds` | histogram | lock, outcome = acquired, taken, timeout, unavailable, denied, cancelled, shut_down | waits, contention, errors |
//! | `hold_duration_seconds` | histogram | lock, outcome = released, lost, max_hold, dropped | bodies |
//! | `oldest_hold_seconds` | gauge | lock | what is stuck now |
//! | `held`, `waiting` | gauges | lock | tasks of this process |
//! | `grants_total` | counter | lock, via = free, local, handed_over, after_expiry | how locks come |
//! | `lost_total` | counter | lock, reason = expired, deleted, taken_over, not_held where a store does not say | losses |
//! | `lease_margin_seconds` | histogram | – | what is left of leases when a renewal is confirmed |
//! | `renewal_failures_total`, `release_failures_total` | counters | cause = timeout, connection, refused | what had no answer |
//! | `store_request_duration_seconds` | histogram | verb = acquire, renew, release, abandon; outcome = ok, timeout, lost, refused | the store |
//! | `store_connected`, `store_reconnects_total` | gauge, counter | way = lane, direct | connections, and those that were given up |
//! | `panics_total` | counter | function = retry, owner_tokens, observer | functions of yours that panicked |
//!
//! `ops/` of the repository has a dashboard for Grafana and alerts for Prometheus.
//!
//! A bare [`LockGuard`](crate::LockGuard) has no span: it is no scope. Enter one of your own, with
//! its fencing token.

pub(crate) mod card;
mod event;
mod health;
mod inspected;
mod local;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
mod orders;
#[cfg(feature = "tracing")]
pub(crate) mod traces;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_protocol::{FencingToken, Kind, LockKey};

use crate::sync::lock;

pub use self::card::{CardLock, ProcessInfo};
pub use self::event::{Failure, LockEvent, LockRef, Refusal, RenewalFailures, Verb, Via};
pub use self::health::{Health, MemberHealth};
pub use self::inspected::{Broken, LockInfo, WaitingClaim};
pub use self::local::LocalLock;
#[cfg(feature = "metrics")]
pub use self::metrics::{BUCKETS, METRICS};
use self::orders::Orders;
pub(crate) use self::orders::Taking;

/// Who is told of what happens: see
/// [`LockRuntimeBuilder::observer`](crate::LockRuntimeBuilder::observer).
///
/// It is told on the thread on which the thing happened, when no mutex of the runtime is held, and
/// must not block. One that panics is caught. It may use the runtime that it observes, as long as
/// it does not wait for it.
///
/// Functions are observers:
///
/// ```
/// use lock_runtime::observe::LockEvent;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// let locks = lock_runtime::LockRuntime::in_memory()
///     .observer(|event: &LockEvent| {
///         if let LockEvent::Lost { lock, reason, .. } = event {
///             eprintln!("page somebody: {} lost, since {reason}", lock.name);
///         }
///     })
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn observe(&self, event: &LockEvent);
}

impl<F: Fn(&LockEvent) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &LockEvent) {
        self(event);
    }
}

/// What locks are called that were taken by hand without a name.
pub(crate) const NAMELESS: &str = "-";

/// Of more ttls it is not told that the store raises them.
const MOST_RAISED: usize = 64;

/// Of more names it is not told that the store grants such locks alone.
const MOST_ALONE: usize = 256;

/// A function of the user that may panic.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    Retry,
    OwnerTokens,
    Observer,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Retry => "retry",
            Function::OwnerTokens => "owner_tokens",
            Function::Observer => "observer",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// All who are told.
#[derive(Clone)]
#[cfg_attr(not(feature = "tracing"), derive(Default))]
pub(crate) struct Observers {
    own: Vec<Arc<dyn Observer>>,
    /// The functions of which it was told that they panicked.
    panicked: Arc<AtomicU8>,
    /// The ttls of which it was told that the store raises them.
    raised: Arc<Mutex<Vec<Duration>>>,
    /// The names of which it was told that such locks are granted alone.
    alone: Arc<Mutex<Vec<&'static str>>>,
    orders: Arc<Orders>,
    #[cfg(feature = "metrics")]
    metrics: Arc<metrics::Metrics>,
    #[cfg(feature = "tracing")]
    pub(crate) slow_wait: Duration,
    #[cfg(feature = "tracing")]
    pub(crate) log_keys: bool,
}

#[cfg(feature = "tracing")]
impl Default for Observers {
    fn default() -> Observers {
        Observers {
            own: Vec::new(),
            panicked: Arc::default(),
            raised: Arc::default(),
            alone: Arc::default(),
            orders: Arc::default(),
            #[cfg(feature = "metrics")]
            metrics: Arc::default(),
            slow_wait: Duration::from_secs(2),
            log_keys: true,
        }
    }
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.own.push(observer);
    }

    /// Whether anybody wants to hear anything.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        #[cfg(feature = "tracing")]
        if traces::is_on() {
            return true;
        }
        cfg!(feature = "metrics") || !self.own.is_empty()
    }

    /// Whether anybody wants to hear what no metric tells.
    #[inline]
    pub(crate) fn wants_all(&self) -> bool {
        #[cfg(feature = "tracing")]
        if traces::is_on() {
            return true;
        }
        !self.own.is_empty()
    }

    /// Tells everybody. No mutex is held: functions of users are called.
    pub(crate) fn tell(&self, event: &LockEvent) {
        #[cfg(feature = "tracing")]
        traces::tell(self, event);
        #[cfg(feature = "metrics")]
        self.metrics.tell(event);
        for observer in &self.own {
            if catch_unwind(AssertUnwindSafe(|| observer.observe(event))).is_err() {
                self.panicked(Function::Observer);
            }
        }
    }

    /// A function of the user panicked.
    pub(crate) fn panicked(&self, function: Function) {
        let bit = function.bit();
        if self.panicked.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let function = function.name();
            self.tell(&LockEvent::Panicked { function });
        }
    }

    /// For how long the oldest hold of each lock has lasted.
    #[cfg(feature = "metrics")]
    pub(crate) fn oldest(&self, ages: &std::collections::HashMap<&'static str, Duration>) {
        self.metrics.oldest(ages);
    }

    /// A lock is taken while another is held.
    pub(crate) fn taken_within(&self, outer: Taking, inner: Taking) {
        if let Some(event) = self.orders.note(outer, inner) {
            self.tell(&event);
        }
    }

    /// The store keeps leases of `ttl` for longer.
    pub(crate) fn raised(&self, ttl: Duration, kept_for: Duration) {
        {
            let mut raised = lock(&self.raised);
            // Who makes up a ttl for each call is not told of each.
            if raised.len() >= MOST_RAISED || raised.contains(&ttl) {
                return;
            }
            raised.push(ttl);
        }
        self.tell(&LockEvent::TtlRaised { ttl, kept_for });
    }

    /// The store grants alone what is called `name` and asked for in this mode.
    pub(crate) fn granted_alone(&self, name: &'static str, kind: Kind) {
        let mode = match kind {
            Kind::Shared => "shared",
            Kind::Permits => "permits",
            Kind::Shard => "shards",
            _ => return,
        };
        {
            let mut alone = lock(&self.alone);
            if alone.len() >= MOST_ALONE || alone.contains(&name) {
                return;
            }
            alone.push(name);
        }
        self.tell(&LockEvent::GrantedAlone { name, mode });
    }

    /// The key as logs show it.
    #[cfg(feature = "tracing")]
    pub(crate) fn shown<'a>(&self, key: &'a LockKey) -> Shown<'a> {
        if self.log_keys {
            Shown::Whole(key.as_str())
        } else {
            Shown::Hash(hash(key.as_str()))
        }
    }
}

/// The span of a body that holds locks, if somebody listens.
#[derive(Default)]
pub(crate) struct HoldSpan(#[cfg(feature = "tracing")] Option<tracing::Span>);

#[cfg_attr(
    not(feature = "tracing"),
    allow(clippy::unused_self, clippy::needless_pass_by_value, unused_variables)
)]
impl HoldSpan {
    /// The span of a lock within this of others that the same body holds.
    pub(crate) fn and(
        self,
        observers: &Observers,
        name: &'static str,
        key: &LockKey,
        token: FencingToken,
    ) -> HoldSpan {
        #[cfg(feature = "tracing")]
        if traces::is_on() {
            let span = traces::hold_span(observers, name, key, token, self.0.as_ref());
            return HoldSpan(Some(span));
        }
        self
    }

    /// Does `work` in the span.
    pub(crate) fn around<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.0 {
            return span.in_scope(work);
        }
        work()
    }
}

/// A key in a log line.
#[cfg(feature = "tracing")]
pub(crate) enum Shown<'a> {
    Whole(&'a str),
    Hash(u64),
}

#[cfg(feature = "tracing")]
impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Whole(key) => f.write_str(key),
            Shown::Hash(hash) => write!(f, "#{hash:016x}"),
        }
    }
}

/// The same in every process of a version, so that the lines of one lock can be found.
#[cfg(feature = "tracing")]
fn hash(key: &str) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers")
            .field("own", &self.own.len())
            .finish_non_exhaustive()
    }
}
