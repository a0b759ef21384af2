//! What an engine does around a machine: it feeds events, performs actions and gives the time.

use std::collections::BTreeMap;

use lock_protocol::machine::{Action, Ask, Event, Key, LeaseId, Look, Verb, WaiterId};

use crate::clock::{MS, nanos};
use crate::fault::Fault;
use crate::process::{Doing, Machine, What};
use crate::promise::Promise;
use crate::rows::Step;
use crate::server::Body;
use crate::together::index;
use crate::words;
use crate::world::{ToProcess, World};

impl World {
    /// Gives an event to the machine of a key, checks what it does about it, and does that.
    ///
    /// `pump` is the caller within whose future this happens.
    pub(crate) fn feed(
        &mut self,
        process: usize,
        key: usize,
        event: Event<'_>,
        pump: Option<usize>,
    ) {
        let now = self.now;
        let it = &mut self.processes[process];
        let local = it.clock.read(now);
        if !it.machines.contains_key(&key) {
            if !matches!(event, Event::Joined(_)) {
                return;
            }
            let name = self.server.keys[key].clone();
            let mut new = Key::new(name, it.numbers[key]);
            if it.closing_since.is_some() {
                // Who comes after the shutdown is told that.
                new.on(&self.rules, local, Event::ShutDown);
            }
            it.machines.insert(
                key,
                Machine {
                    key: new,
                    timer: 0,
                    asked_at: 0,
                    asked: 0,
                    asked_of: Default::default(),
                    look_by: BTreeMap::new(),
                },
            );
        }
        loop {
            let machine = self.processes[process].machines.get(&key);
            let Some(kind) = machine.and_then(|machine| machine.key.wants_owner(&event)) else {
                break;
            };
            let owner = self.new_owner(process);
            if let Some(machine) = self.processes[process].machines.get_mut(&key) {
                machine.key.provide_owner(kind, owner);
            }
        }
        let Some(machine) = self.processes[process].machines.get_mut(&key) else {
            return;
        };
        let step = Step::before(&machine.key, &event, &self.rules, local);
        let actions = machine.key.on(&self.rules, local, event.clone());
        let after = machine.key.look();
        self.steps += 1;
        self.onlooker.is_new = None;
        if self.trace_is_on() {
            let text = words::step(&event, &actions, &after);
            self.trace(|_| format!("p{process} k{key} {text}"));
        }
        self.rows.count(&step, &event, &actions, &after);
        self.check_step(process, key, &step, &event, &actions, &after);
        for action in &actions {
            if let Action::Ask(ask) = action {
                self.note_ask(process, key, ask, &after);
            }
        }
        for action in actions {
            self.perform(process, key, action, pump);
        }
        self.check_machine(process, key);
        self.set_timer(process, key);
    }

    fn note_ask(&mut self, process: usize, key: usize, ask: &Ask, after: &Look) {
        let now = self.now;
        let Some(machine) = self.processes[process].machines.get_mut(&key) else {
            return;
        };
        machine.asked = if machine.asked_at == now {
            machine.asked + 1
        } else {
            1
        };
        machine.asked_at = now;
        machine.asked_of[index(ask.verb.kind())].at = now;
        let asked = machine.asked;
        let claim = match &ask.verb {
            Verb::Acquire(claim) => Some(claim),
            Verb::Release(release) => release.next.as_ref(),
            Verb::Abandon(_) => None,
        };
        if let Some(claim) = claim {
            machine.look_by.remove(&claim.owner);
            let waits = &mut self.onlooker.queues;
            if claim.queue {
                waits.insert(claim.owner.clone());
            } else if waits.contains(&claim.owner) {
                let text = format!("{} asks without a wish to wait, {after:?}", claim.owner);
                self.broken(Promise::InQueue, || text);
            }
        }
        if asked > 50 {
            self.broken(Promise::FewQuestions, || format!("{asked} at once"));
        }
    }

    fn perform(&mut self, process: usize, key: usize, action: Action, pump: Option<usize>) {
        match action {
            Action::Ask(ask) => {
                if self.strikes(Fault::RequestOvertaken, 25) {
                    // Whoever is to send it comes to it late, with its thread blocked.
                    let longest = if self.one_in(3) { 600 } else { 20 };
                    let at = self.now + self.some_ms(1, longest);
                    self.onlooker.mention(&words::owners(&ask));
                    self.plan_for(process, at, ToProcess::Sends(key, *ask));
                } else {
                    self.send_ask(process, key, *ask, pump);
                }
            }
            Action::Renew(lease, mut renewal, patience) => {
                if renewal.tokens > 0 {
                    renewal.tokens = renewal.tokens.max(self.reserved);
                }
                let body = Body::Renew(*renewal);
                self.check_renewal(process, key, lease);
                self.send(
                    process,
                    key,
                    What::Renew(lease),
                    body,
                    None,
                    nanos(patience),
                );
            }
            Action::Tell(id, outcome) | Action::TakeBack(id, outcome) => {
                self.tell(process, key, id, outcome);
            }
            Action::Released(lease, _) => self.tell_released(process, key, lease),
            Action::Changed(_) => {}
        }
    }

    pub(crate) fn send_ask(&mut self, process: usize, key: usize, ask: Ask, pump: Option<usize>) {
        let body = match &ask.verb {
            Verb::Acquire(claim) => {
                let mut claim = claim.clone();
                claim.tokens = claim.tokens.max(self.reserved);
                Body::Acquire(claim)
            }
            Verb::Release(release) => {
                let mut release = release.clone();
                if let Some(next) = &mut release.next {
                    next.tokens = next.tokens.max(self.reserved);
                }
                Body::Release(release)
            }
            Verb::Abandon(claim) => Body::Abandon(claim.owner.clone(), claim.in_doubt),
        };
        let patience = nanos(self.rules.command_timeout);
        self.send(process, key, What::Ask(ask), body, pump, patience);
    }

    fn tell_released(&mut self, process: usize, key: usize, lease: LeaseId) {
        let now = self.now;
        let callers = &mut self.processes[process].callers;
        let waits = callers
            .iter_mut()
            .position(|caller| match &mut caller.doing {
                Doing::Releases {
                    key: its,
                    lease: of,
                    is_told,
                    ..
                } if *its == key && *of == lease && !*is_told => {
                    *is_told = true;
                    true
                }
                _ => false,
            });
        if let Some(caller) = waits {
            self.plan_turn(process, caller, now);
        }
    }

    /// Makes sure that the machine is told the time when it wants to.
    fn set_timer(&mut self, process: usize, key: usize) {
        let it = &mut self.processes[process];
        let Some(machine) = it.machines.get_mut(&key) else {
            return;
        };
        if machine.key.is_gone() {
            it.numbers[key] = machine.key.last_number();
            it.machines.remove(&key);
            return;
        }
        machine.timer += 1;
        let timer = machine.timer;
        let wanted = machine.key.wants_time_at(&self.rules);
        // Saturated instants are never.
        if let Some(at) = wanted.filter(|at| at.as_nanos() < u64::MAX) {
            // A timer of a runtime is late by up to its resolution.
            let late = self.chance.any(0..MS);
            let at = self.processes[process].clock.when(at).saturating_add(late);
            self.plan_for(process, at, ToProcess::Time(key, timer));
        }
    }

    pub(crate) fn time(&mut self, process: usize, key: usize, timer: u64) {
        let machine = self.processes[process].machines.get(&key);
        if machine.is_some_and(|machine| machine.timer == timer) {
            self.feed(process, key, Event::Time, None);
        }
    }

    /// A holder has its lease renewed ahead of time.
    pub(crate) fn renew_ahead(&mut self, process: usize, key: usize, lease: LeaseId) {
        let it = &self.processes[process];
        let local = it.clock.read(self.now);
        let machine = it.machines.get(&key);
        let renewal = machine.and_then(|it| it.key.renewal(&self.rules, lease, local));
        if let Some((renewal, patience)) = renewal {
            let body = Body::Renew(renewal);
            self.send(
                process,
                key,
                What::Renew(lease),
                body,
                None,
                nanos(patience),
            );
        }
    }

    pub(crate) fn new_waiter(&mut self, process: usize) -> WaiterId {
        let it = &mut self.processes[process];
        it.last_waiter += 1;
        WaiterId(it.last_waiter)
    }
}
