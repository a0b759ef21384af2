//! Spans and log lines.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use lock_protocol::{FencingToken, LockKey};
use tracing::level_filters::LevelFilter;
use tracing::{
    Level, Metadata, Span, debug, debug_span, event, field, info, info_span, trace, warn,
};

use super::{LockEvent, LockRef, Observers, Via};
use crate::error::LockError;

/// The target of what is about the store.
const STORE: &str = "lock_runtime::store";
/// The target of the rest.
const LOCKS: &str = "lock_runtime";
/// The span of a caller that wants a lock.
const ACQUIRE: &str = "lock.acquire";

/// Whether anybody listens.
#[inline]
pub(crate) fn is_on() -> bool {
    LevelFilter::current() != LevelFilter::OFF
}

/// The span of a caller that wants a lock, if somebody listens.
pub(crate) fn acquire_span(
    observers: &Observers,
    name: &'static str,
    key: &LockKey,
    ttl: Duration,
    wait: Duration,
) -> Option<Span> {
    if LevelFilter::current() < LevelFilter::DEBUG {
        return None;
    }
    Some(debug_span!(
        target: LOCKS,
        ACQUIRE,
        lock = name,
        key = %observers.shown(key),
        ttl_ms = millis(ttl),
        wait_ms = millis(wait),
        outcome = field::Empty,
        waited_secs = field::Empty,
        via = field::Empty,
        fencing_token = field::Empty,
        holder = field::Empty,
    ))
}

/// Takes in the end of such a span: the number of the holder, or why there is none.
pub(crate) fn acquired(span: &Span, waited: Duration, outcome: Result<FencingToken, &LockError>) {
    span.record("waited_secs", waited.as_secs_f64());
    match outcome {
        Ok(token) => {
            span.record("outcome", "acquired");
            span.record("fencing_token", token.as_u64());
        }
        Err(error) => {
            span.record("outcome", error.outcome());
            if let LockError::Taken { holder, .. } | LockError::Timeout { holder, .. } = error
                && let Some(holder) = holder
            {
                span.record("holder", field::display(holder));
            }
        }
    }
}

/// The span of a body that holds a lock, within that of another, if it holds several.
pub(crate) fn hold_span(
    observers: &Observers,
    name: &'static str,
    key: &LockKey,
    token: FencingToken,
    outer: Option<&Span>,
) -> Span {
    let outer = outer.cloned().unwrap_or_else(Span::current);
    info_span!(
        target: LOCKS,
        parent: &outer,
        "lock.hold",
        lock = name,
        key = %observers.shown(key),
        fencing_token = token.as_u64(),
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn tell(observers: &Observers, event: &LockEvent) {
    let key = |lock: &LockRef| observers.shown(&lock.key).to_string();
    match event {
        LockEvent::Asked { .. } => {}
        LockEvent::Queued { lock, remaining } => debug!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            remaining_secs = remaining.map(|left| left.as_secs_f64()),
            "queued"
        ),
        LockEvent::Acquired {
            lock,
            waited,
            via,
            fencing_token,
            previous,
            waiting,
        } => {
            came(*via);
            if *waited >= observers.slow_wait {
                warn!(
                    target: LOCKS,
                    lock = lock.name,
                    key = key(lock),
                    fencing_token = fencing_token.as_u64(),
                    waited_secs = waited.as_secs_f64(),
                    threshold_secs = observers.slow_wait.as_secs_f64(),
                    holder_process = previous.map(field::display),
                    waiting,
                    "lock acquired slowly"
                );
            } else {
                debug!(
                    target: LOCKS,
                    lock = lock.name,
                    key = key(lock),
                    fencing_token = fencing_token.as_u64(),
                    waited_secs = waited.as_secs_f64(),
                    via = via.as_str(),
                    "lock acquired"
                );
            }
        }
        LockEvent::Refused {
            lock,
            waited,
            refusal,
        } => debug!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            waited_secs = waited.as_secs_f64(),
            outcome = refusal.as_str(),
            error = chain(refusal.cause().map(|cause| &**cause)),
            "lock not acquired"
        ),
        LockEvent::Released {
            lock,
            fencing_token,
            held,
            unconfirmed: Some(error),
            ..
        } => warn!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            fencing_token = fencing_token.as_u64(),
            held_secs = held.as_secs_f64(),
            error = %Chain(&**error),
            "release not confirmed: the lock is free after its ttl"
        ),
        LockEvent::Released {
            lock,
            fencing_token,
            held,
            dropped,
            ..
        } => debug!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            fencing_token = fencing_token.as_u64(),
            held_secs = held.as_secs_f64(),
            dropped,
            "lock released"
        ),
        LockEvent::Lost {
            lock,
            fencing_token,
            held,
            reason,
            cause,
        } => warn!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            fencing_token = fencing_token.as_u64(),
            reason = %reason,
            held_secs = held.as_secs_f64(),
            failed_renewals = cause.as_ref().map_or(0, |cause| cause.times),
            error = chain(cause.as_ref().map(|cause| &*cause.last)),
            "lock lost"
        ),
        LockEvent::MaxHold {
            lock,
            fencing_token,
            limit,
        } => warn!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            fencing_token = fencing_token.as_u64(),
            max_hold_secs = limit.as_secs_f64(),
            "lock held too long"
        ),
        LockEvent::Blocked {
            lock,
            fencing_token,
            blocked,
            ttl,
        } => warn!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            fencing_token = fencing_token.as_u64(),
            blocked_secs = blocked.as_secs_f64(),
            ttl_secs = ttl.as_secs_f64(),
            "body blocks its thread"
        ),
        LockEvent::Renewed {
            lock,
            after: Some(failures),
            ..
        } => info!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            times = failures.times,
            "renewal recovered"
        ),
        LockEvent::Renewed { lock, margin, .. } => trace!(
            target: LOCKS,
            lock = lock.name,
            key = key(lock),
            margin_secs = margin.as_secs_f64(),
            "renewed"
        ),
        LockEvent::RenewalFailed { lock, left, cause } => {
            // A store that is away is told once for each lock.
            macro_rules! failed {
                ($level:expr) => {
                    event!(
                        target: LOCKS,
                        $level,
                        lock = lock.name,
                        key = key(lock),
                        left_secs = left.as_secs_f64(),
                        times = cause.times,
                        error = %Chain(&*cause.last),
                        "renewal failed"
                    )
                };
            }
            if cause.times == 1 {
                failed!(Level::WARN);
            } else {
                failed!(Level::DEBUG);
            }
        }
        LockEvent::Store {
            verb,
            took,
            failure,
        } => trace!(
            target: STORE,
            verb = verb.as_str(),
            took_secs = took.as_secs_f64(),
            outcome = failure.map_or("ok", super::Failure::as_str),
            "asked"
        ),
        LockEvent::Connected { address, way } => {
            info!(target: STORE, address = &**address, way, "connected");
        }
        LockEvent::Disconnected {
            address,
            way,
            was_connected,
            cause,
        } => {
            let error = chain(cause.as_ref().map(|cause| &**cause));
            let address = &**address;
            if cause.is_none() {
                info!(target: STORE, address, way, "connection closed");
            } else if *was_connected {
                warn!(target: STORE, address, way, error, "connection lost");
            } else {
                warn!(target: STORE, address, way, error, "cannot connect");
            }
        }
        LockEvent::Panicked { function } => warn!(
            target: LOCKS,
            function, "a function of this program panicked, and the default took its place"
        ),
        LockEvent::TtlRaised { ttl, kept_for } => info!(
            target: STORE,
            ttl_secs = ttl.as_secs_f64(),
            kept_for_secs = kept_for.as_secs_f64(),
            "the store keeps leases for longer than they were asked for"
        ),
        LockEvent::GrantedAlone { name, mode } => warn!(
            target: LOCKS,
            lock = name,
            mode,
            "the store grants each of these alone, as if it were the plain lock"
        ),
        LockEvent::BothOrders {
            first,
            second,
            functions: [one, other],
            ..
        } => warn!(
            target: LOCKS,
            first,
            second,
            functions = format!("{one}, {other}"),
            "two locks are taken in both orders, so that two callers may wait for each other"
        ),
        LockEvent::StillHeld { keys, locks } => {
            let keys: Vec<_> = keys
                .iter()
                .map(|key| observers.shown(key).to_string())
                .collect();
            warn!(
                target: LOCKS,
                locks,
                keys = keys.join(" "),
                "shut down with locks held, which end with their ttl"
            );
        }
    }
}

/// An error and its causes in one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn chain<E: Error + 'static>(error: Option<&E>) -> Option<field::DisplayValue<Chain<'_>>> {
    error.map(|error| field::display(Chain(error)))
}

/// Takes in how a lock came. It is told while the caller is polled, in its span, if it has one.
fn came(via: Via) {
    let span = Span::current();
    let is_of_caller = |of: &Metadata<'_>| of.name() == ACQUIRE && of.target() == LOCKS;
    if span.metadata().is_some_and(is_of_caller) {
        span.record("via", via.as_str());
    }
}
