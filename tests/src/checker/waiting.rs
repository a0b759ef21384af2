//! C9 and C10: queues and waits.

use std::collections::{BTreeMap, HashMap};

use super::{Check, Event, Fault, Faults, Limits, Outcome, Place, Report, Violation, What};

/// C9: of two claims in one queue the one that certainly came first is granted first.
pub(super) fn check_order(events: &[&Event], faults: &Faults<'_>, report: &mut Report) {
    for waiters in Waiter::by_queue(events).into_values() {
        sweep(waiters, faults, report);
    }
}

/// A claim that was granted, in the queue it was granted from.
#[derive(Clone, Copy)]
struct Waiter<'a> {
    /// When it took its place: the claim itself, if it was granted without waiting.
    queued: &'a Event,
    granted: &'a Event,
    token: u64,
}

impl<'a> Waiter<'a> {
    /// The waiters of the store's queue, and of those of each process.
    fn by_queue(events: &[&'a Event]) -> BTreeMap<(Place, Option<u32>), Vec<Waiter<'a>>> {
        let mut queued: HashMap<(Place, &str), &Event> = HashMap::new();
        for &event in events {
            if let What::Queued { claim, place } = &event.what {
                // Who asks again keeps its place: the first time counts.
                let first = queued.entry((*place, claim)).or_insert(event);
                if event.invoke < first.invoke {
                    *first = event;
                }
            }
        }
        let mut waiters: BTreeMap<_, Vec<Waiter<'_>>> = BTreeMap::new();
        for &event in events {
            let (place, claim, token) = match &event.what {
                What::Served { claim, token } => (Place::Store, claim, *token),
                What::Acquire {
                    claim,
                    outcome: Outcome::Ok,
                    token: Some(token),
                    ..
                } => (Place::Process, claim, *token),
                _ => continue,
            };
            let process = (place == Place::Process).then_some(event.process);
            let waiter = Waiter {
                queued: queued.get(&(place, claim)).copied().unwrap_or(event),
                granted: event,
                token,
            };
            waiters.entry((place, process)).or_default().push(waiter);
        }
        waiters
    }
}

/// Goes through the waiters in the order in which they came, beside the highest token of those who
/// certainly came before.
fn sweep(waiters: Vec<Waiter<'_>>, faults: &Faults<'_>, report: &mut Report) {
    let (mut came, mut stood) = (waiters.clone(), waiters);
    came.sort_by_key(|waiter| waiter.queued.invoke);
    // Who was granted at once never stood in the queue and cannot have been overtaken.
    stood.retain(|waiter| matches!(waiter.queued.what, What::Queued { .. }));
    stood.sort_by_key(|waiter| waiter.queued.returned);

    let mut stood = stood.into_iter().peekable();
    // Separately, those who may have lost their place by a fault: they excuse nobody else's being
    // overtaken.
    let mut highest: [Option<Waiter<'_>>; 2] = [None, None];
    // When the last of those without an excuse was granted.
    let mut in_order_until = 0;
    for waiter in came {
        while let Some(before) = stood.next_if(|w| w.queued.returned < waiter.queued.invoke) {
            let excused = excuse(&before, faults).is_some();
            if !excused {
                in_order_until = before.granted.returned.max(in_order_until);
            }
            let slot = &mut highest[usize::from(excused)];
            if slot.is_none_or(|high| before.token > high.token) {
                *slot = Some(before);
            }
        }
        report.queue_orders += usize::from(in_order_until > waiter.queued.invoke);
        for high in highest.iter().flatten() {
            if high.token > waiter.token {
                let events = [high.queued, high.granted, waiter.queued, waiter.granted];
                report.add(
                    Violation::new(Check::QueueOrder, "a waiter was overtaken", &events),
                    excuse(high, faults),
                );
            }
        }
    }
}

/// A fault that may have cost `waiter` its place.
fn excuse(waiter: &Waiter<'_>, faults: &Faults<'_>) -> Option<Fault> {
    let (from, to) = (waiter.queued.invoke, waiter.granted.returned);
    faults
        .of_queue(&waiter.granted.key, from, to)
        .or_else(|| faults.of_process(waiter.granted.process, from, to))
}

/// C10: every acquire returns within its bound; time in which its process stood still is not
/// counted.
pub(super) fn check_bounds(
    events: &[Event],
    faults: &Faults<'_>,
    limits: &Limits,
    report: &mut Report,
) {
    let end = events.iter().map(|event| event.returned).max().unwrap_or(0);
    let answered: HashMap<&str, &Event> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Acquire { claim, .. } => Some((claim.as_str(), event)),
            _ => None,
        })
        .collect();

    for event in events {
        let What::Ask { claim, wait } = &event.what else {
            continue;
        };
        let answer = answered.get(claim.as_str()).copied();
        if answer.is_none() && faults.killed(event.process) {
            continue;
        }
        let until = answer.map_or(end, |answer| answer.returned);
        let stopped = faults.stopped(event.process, event.invoke, until);
        let waited = (until - event.invoke).saturating_sub(stopped);
        if waited > wait.saturating_add(limits.wait_slack) {
            let what = match answer {
                Some(_) => "an acquire returned late",
                None => "an acquire never returned",
            };
            let mut shown = vec![event];
            shown.extend(answer);
            report.add(Violation::new(Check::BoundedWait, what, &shown), None);
        }
    }
}
