//! What this process says of itself in the store.

use std::sync::atomic::{AtomicU32, Ordering};

use lock_protocol::{Card, Instant, Process};

use super::Engine;
use crate::clock;
use crate::observe::card::{Written, host, program};

/// What tells the runtimes of a process apart.
#[derive(Debug)]
pub(super) struct Identity {
    /// How many there were in this process before.
    number: u32,
    since: Instant,
    service: String,
    host: String,
}

impl Identity {
    pub(super) fn new(service: Option<&str>) -> Identity {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Identity {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            since: clock::now(),
            service: service.map_or_else(program, str::to_owned),
            host: host(),
        }
    }

    /// The process, as its claims name it; and which of its runtimes.
    fn id(&self) -> String {
        match self.number {
            0 => Process::current().to_string(),
            number => format!("{}.{number}", Process::current()),
        }
    }
}

impl Engine {
    /// The card of this runtime, if it wants to have one.
    pub(super) fn own_card(&self) -> Option<Card> {
        self.settings.process_card.then_some(())?;
        let mut waiting = 0;
        let mut locks = Vec::new();
        self.table.each(|entry, now| {
            waiting += entry.machine.look().waiting;
            locks.extend(entry.local(now));
        });
        locks.sort_by_key(|lock| std::cmp::Reverse(lock.held));
        let written = Written {
            service: &self.identity.service,
            host: &self.identity.host,
            up: clock::now().since(self.identity.since),
            waiting,
            locks: &locks,
        };
        let prefix = self.settings.key_prefix.clone();
        Some(Card::new(prefix, self.identity.id(), written.text()))
    }
}
