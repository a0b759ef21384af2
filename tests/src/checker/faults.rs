//! The faults of a run, for the promises that make an exception for some.

use std::collections::HashMap;

use super::{Event, Fault, Nanos, What};

pub(super) struct Faults<'a> {
    /// Those that void what a server granted, by key.
    store: HashMap<&'a str, Spans>,
    /// Those that void places in a queue and nothing else, by key.
    queue: HashMap<&'a str, Spans>,
    /// Those that hit a process, by process.
    process: HashMap<u32, Spans>,
}

impl<'a> Faults<'a> {
    pub(super) fn of(events: &'a [Event]) -> Faults<'a> {
        let mut faults = Faults {
            store: HashMap::new(),
            queue: HashMap::new(),
            process: HashMap::new(),
        };
        let mut sorted: Vec<&Event> = events.iter().collect();
        sorted.retain(|event| matches!(event.what, What::Fault { .. }));
        sorted.sort_by_key(|event| event.invoke);
        for event in sorted {
            let What::Fault { fault } = event.what else {
                continue;
            };
            match fault {
                Fault::DataLoss | Fault::ClockJump | Fault::Failover => {
                    faults
                        .store
                        .entry(&event.key)
                        .or_default()
                        .push(event, fault);
                }
                Fault::PlaceLost => faults
                    .queue
                    .entry(&event.key)
                    .or_default()
                    .push(event, fault),
                Fault::Killed | Fault::Stopped | Fault::Disconnected => {
                    let spans = faults.process.entry(event.process).or_default();
                    spans.push(event, fault);
                }
                Fault::Other => {}
            }
        }
        faults
    }

    /// A fault by which the server of `key` may have forgotten, within `from..=to`, what it granted
    /// and who waits.
    pub(super) fn of_store(&self, key: &str, from: Nanos, to: Nanos) -> Option<Fault> {
        any_of(&self.store, key, from, to)
    }

    /// A fault by which the claims in the queue of `key` may have lost their places within
    /// `from..=to`.
    pub(super) fn of_queue(&self, key: &str, from: Nanos, to: Nanos) -> Option<Fault> {
        any_of(&self.queue, key, from, to).or_else(|| self.of_store(key, from, to))
    }

    /// A fault by which `process` may have lost its places in queues within `from..=to`.
    pub(super) fn of_process(&self, process: u32, from: Nanos, to: Nanos) -> Option<Fault> {
        self.process.get(&process)?.any(from, to)
    }

    /// Whether `process` was killed.
    pub(super) fn killed(&self, process: u32) -> bool {
        let of = self.process.get(&process);
        of.is_some_and(|spans| spans.all.iter().any(|span| span.fault == Fault::Killed))
    }

    /// For how long of `from..=to` `process` stood still.
    pub(super) fn stopped(&self, process: u32, from: Nanos, to: Nanos) -> Nanos {
        let of = self
            .process
            .get(&process)
            .map_or(&[][..], |spans| &spans.all);
        of.iter()
            .filter(|span| span.fault == Fault::Stopped)
            .map(|span| span.end.min(to).saturating_sub(span.begin.max(from)))
            .sum()
    }
}

/// A fault of `key`, or of all keys, that was active at some time within `from..=to`.
fn any_of(spans: &HashMap<&str, Spans>, key: &str, from: Nanos, to: Nanos) -> Option<Fault> {
    [key, "*"]
        .iter()
        .find_map(|key| spans.get(key)?.any(from, to))
}

/// Faults in the order of their beginnings.
#[derive(Default)]
struct Spans {
    all: Vec<Span>,
    /// For each of them, which of it and those before it ends last.
    longest: Vec<usize>,
}

struct Span {
    fault: Fault,
    begin: Nanos,
    end: Nanos,
}

impl Spans {
    fn push(&mut self, event: &Event, fault: Fault) {
        let (begin, end) = (event.invoke, event.returned);
        let before = self.longest.last().copied();
        let longest = before.filter(|i| self.all[*i].end >= end);
        self.longest.push(longest.unwrap_or(self.all.len()));
        self.all.push(Span { fault, begin, end });
    }

    /// A fault that was active at some time within `from..=to`.
    fn any(&self, from: Nanos, to: Nanos) -> Option<Fault> {
        let begun = self.all.partition_point(|span| span.begin <= to);
        let longest = &self.all[*self.longest[..begun].last()?];
        (longest.end >= from).then_some(longest.fault)
    }
}
