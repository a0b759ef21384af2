//! What goes wrong, and when.

use lock_protocol::{FencingToken, Mode, OwnerToken, machine};

use crate::clock::{MS, nanos};
use crate::fault::Fault;
use crate::process::{Condition, Doing, Link};
use crate::promise::Promise;
use crate::server::THIEF;
use crate::transcript::Event;
use crate::world::{Happens, World};

impl World {
    /// Comes every few milliseconds. Storms and calm take turns.
    pub(crate) fn storm(&mut self) {
        let next = self.now + self.some_ms(2, 40);
        self.plan(next, Happens::Storm);
        self.check_processes();
        if self.is_ending {
            return;
        }
        if self.plan.only.is_some() {
            self.is_stormy = true;
            return self.check_unheard();
        }
        let (storm, calm) = (40, 80);
        if self.one_in(if self.is_stormy { storm } else { calm }) {
            self.is_stormy = !self.is_stormy;
            self.trace(|world| format!("storm: {}", world.is_stormy));
        }
        if !self.is_stormy {
            return;
        }
        let process = self.chance.index(self.processes.len());
        if !self.plan.goes_on {
            if self.one_in(4) {
                self.server.copy();
            }
            if self.one_in(25) {
                self.set_back();
            }
            if self.one_in(15) {
                self.roll_back();
            }
        }
        match self.chance.small(0..20) {
            0..=3 => self.cut(process),
            4..=7 => self.pause(process),
            8..=10 => self.crash(process),
            11..=12 => self.shut_down(process),
            13..=14 => self.stall(),
            15 if !self.plan.modes.is_empty() => self.evict(),
            15..=16 => self.lose_data(),
            _ => self.steal(),
        }
    }

    /// Looks at all processes that run.
    pub(crate) fn check_processes(&mut self) {
        for process in 0..self.processes.len() {
            self.check_shutdown(process);
            if self.processes[process].condition == Condition::Runs {
                for key in 0..self.plan.keys {
                    self.check_machine(process, key);
                }
            }
        }
    }

    /// A process stands still.
    pub(crate) fn pause(&mut self, process: usize) {
        let it = &mut self.processes[process];
        if it.condition != Condition::Runs {
            return;
        }
        it.condition = Condition::StandsStill;
        self.fault(Fault::Paused);
        let until = self.now + self.some_ms(1, 700);
        self.trace(|_| format!("p{process} stands still"));
        self.plan(until, Happens::Resumes(process));
    }

    pub(crate) fn crash(&mut self, process: usize) {
        if self.processes[process].condition == Condition::IsDead {
            return;
        }
        self.fault(Fault::Crashed);
        self.trace(|_| format!("p{process} crashes"));
        self.die(process);
        let again = self.now + self.some_ms(5, 300);
        self.plan(again, Happens::Starts(process));
    }

    /// All that a process knew is gone.
    fn die(&mut self, process: usize) {
        self.cut(process);
        let it = &mut self.processes[process];
        it.life += 1;
        it.condition = Condition::IsDead;
        it.machines.clear();
        it.flights.clear();
        it.missed.clear();
        it.numbers.fill(it.first_number);
        it.closing_since = None;
        it.last_waiter = 0;
        it.link = Link {
            epoch: it.link.epoch,
            seen: it.link.seen,
            largest: std::mem::take(&mut it.link.largest),
            ..Link::default()
        };
        for caller in &mut it.callers {
            caller.doing = Doing::Nothing;
            caller.parked_until = 0;
            caller.drop_at = None;
        }
        self.onlooker.die(process, self.now);
    }

    pub(crate) fn starts(&mut self, process: usize) {
        let it = &mut self.processes[process];
        it.condition = Condition::Runs;
        it.runs_since = self.now;
        self.connects(process);
        for caller in 0..self.plan.callers {
            let at = self.now + self.chance.any(0..20 * MS);
            self.plan_turn(process, caller, at);
        }
    }

    pub(crate) fn shut_down(&mut self, process: usize) {
        let it = &mut self.processes[process];
        if it.condition != Condition::Runs || it.closing_since.is_some() {
            return;
        }
        it.closing_since = Some(self.now);
        self.fault(Fault::ShutDown);
        self.trace(|_| format!("p{process} shuts down"));
        let keys: Vec<usize> = self.processes[process].machines.keys().copied().collect();
        for key in keys {
            self.feed(process, key, machine::Event::ShutDown, None);
        }
    }

    /// A process that shuts down ends when its callers have, and is started again.
    fn check_shutdown(&mut self, process: usize) {
        let it = &mut self.processes[process];
        let Some(since) = it.closing_since else {
            return;
        };
        if !it.is_idle() || it.condition != Condition::Runs {
            it.closing_since = Some(self.now);
        } else if it.machines.is_empty() {
            self.trace(|_| format!("p{process} ends"));
            self.die(process);
            self.plan(self.now, Happens::Starts(process));
        } else if self.now > since.max(it.runs_since) + 4 * nanos(self.rules.command_timeout) {
            let looks: Vec<_> = it.machines.values().map(|it| it.key.look()).collect();
            self.broken(Promise::ShutDownEnds, || format!("p{process}: {looks:?}"));
        }
    }

    fn stall(&mut self) {
        self.fault(Fault::ServerStalls);
        self.stalled_until = self.now + self.some_ms(5, 400);
        self.trace(|world| format!("the server stands still until {}", world.stalled_until / MS));
    }

    pub(crate) fn lose_data(&mut self) {
        if self.server.is_set_back(self.now) {
            return;
        }
        self.fault(Fault::DataLost);
        self.trace(|_| "the server loses its data".to_string());
        let before = self.kept(0);
        self.server.lose_data();
        self.note(0, before, || Event::DataLost);
        // A counter that is new gives one token. A replay takes longer than a block has
        // microseconds.
        let shortest = if self.plan.goes_on { 40 } else { 2 };
        self.stalled_until = self.now + self.some_ms(shortest, 90);
        self.onlooker.lose_data(&self.processes);
        if self.chance.coin() {
            for process in 0..self.processes.len() {
                self.cut(process);
            }
        }
    }

    /// A lock is lost, and those who wait for it are not: the server is short of memory, or an
    /// operator deletes it.
    fn evict(&mut self) {
        let key = self.chance.index(self.plan.keys);
        let is_stolen = |owner: &OwnerToken| owner.as_str() == THIEF;
        if self.server.owner(key, self.now).is_none_or(is_stolen) {
            return;
        }
        self.fault(Fault::DataLost);
        self.trace(|_| format!("the server loses k{key}"));
        let before = self.kept(key);
        self.server.evict(key);
        self.note(key, before, || Event::Evicted);
        self.onlooker.lose_data(&self.processes);
        let left = self.server.leases(key, self.now).count();
        if left > 0 {
            self.broken(Promise::LostTogether, || format!("{left} leases of k{key}"));
        }
    }

    /// The clock of the server is set back. Until it shows what it has shown before, no data is
    /// lost: tokens need one of the two.
    fn set_back(&mut self) {
        if self.server.is_set_back(self.now) || self.server.needs_clock() {
            return;
        }
        self.fault(Fault::ClockSetBack);
        let by = self.some_ms(1, 200);
        self.trace(|_| format!("the clock of the server is set back by {} ms", by / MS));
        self.server.set_back(by, self.now);
    }

    /// A replica takes over that has not got the latest data, and the connections stay.
    fn roll_back(&mut self) {
        if self.server.is_set_back(self.now) || !self.server.roll_back() {
            return;
        }
        self.fault(Fault::RolledBack);
        self.trace(|_| "the server gets older data back".to_string());
        self.onlooker.lose_data(&self.processes);
        for key in 0..self.plan.keys {
            let leases = self.server.leases(key, self.now);
            let leased: Vec<OwnerToken> = leases.map(|lease| lease.owner.clone()).collect();
            let queue = self.server.queue(key, self.now).into_iter().cloned();
            let owners: Vec<_> = leased.into_iter().chain(queue).collect();
            if owners.iter().any(|owner| owner.as_str() == THIEF) {
                let until = self.now + self.some_ms(1, 400);
                self.plan(until, Happens::TheftEnds(key));
            }
            let leases = self.server.leases(key, self.now);
            let shared = leases.filter(|lease| lease.mode == Mode::Shared);
            let phases: Vec<FencingToken> = shared.map(|lease| lease.token).collect();
            self.onlooker.comes_back(owners, phases);
        }
        // Longer than a block has microseconds.
        self.stalled_until = self.stalled_until.max(self.now) + self.some_ms(31, 50);
    }

    pub(crate) fn steal(&mut self) {
        let key = self.chance.index(self.plan.keys);
        let before = self.kept(key);
        if self.now >= self.stalled_until && self.server.steal(key, self.now) {
            self.note(key, before, || Event::Stolen);
            self.fault(Fault::Foreign);
            self.trace(|_| format!("another program takes k{key}"));
            let until = self.now + self.some_ms(1, 400);
            self.plan(until, Happens::TheftEnds(key));
        }
    }
}
