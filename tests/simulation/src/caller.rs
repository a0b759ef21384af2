//! What callers do: they want a lock, hold it, write to what it protects, and end it, unless they
//! are parked, or their futures are dropped.

use std::time::Duration;

use lock_protocol::machine::{Answer, Event, Granted, LeaseId, Outcome, Waiter, WaiterId};
use lock_protocol::{FencingToken, Mode, OwnerToken, Terms};

use crate::clock::{MS, Time, ms, nanos};
use crate::fault::Fault;
use crate::process::{Doing, FlightId, Heard, What, Wish};
use crate::promise::Promise;
use crate::world::{ToProcess, World};

impl World {
    pub(crate) fn plan_turn(&mut self, process: usize, caller: usize, at: Time) {
        let it = &mut self.processes[process].callers[caller];
        it.turn += 1;
        let turn = it.turn;
        let mut at = at.max(it.parked_until);
        if let Some(drop_at) = it.drop_at {
            at = at.min(drop_at);
        }
        self.plan_for(process, at, ToProcess::Turn(caller, turn));
    }

    /// A caller goes on.
    pub(crate) fn turn(&mut self, process: usize, caller: usize, turn: u64) {
        let now = self.now;
        let it = &mut self.processes[process].callers[caller];
        if it.turn != turn {
            return;
        }
        if it.drop_at.is_some_and(|at| at <= now) {
            return self.drop_future(process, caller);
        }
        if it.parked_until > 0 && it.parked_until <= now {
            it.parked_until = 0;
            if let Doing::Releases { since, .. } = &mut it.doing {
                // Its time begins anew.
                *since = now;
            }
            self.hear_all(process, caller);
        }
        match &mut self.processes[process].callers[caller].doing {
            Doing::Nothing => self.want(process, caller),
            Doing::Waits { outcome, .. } => match outcome.take() {
                Some(outcome) => self.heard_outcome(process, caller, outcome),
                None => self.wait(process, caller),
            },
            Doing::Begins { .. } => self.begin_hold(process, caller),
            Doing::Holds { until, .. } if *until <= now => self.end_hold(process, caller),
            Doing::Holds { until, .. } => {
                let until = *until;
                self.plan_turn(process, caller, until);
            }
            Doing::Releases { is_told: true, .. } => self.leave(process, caller),
            // Told later.
            Doing::Releases { since, .. } => {
                let since = *since;
                self.check_release(process, caller, since);
            }
        }
    }

    /// What was heard while the caller was parked.
    fn hear_all(&mut self, process: usize, caller: usize) {
        let flights = self.processes[process].flights.iter_mut();
        let heard = flights.filter(|(_, flight)| flight.pump == Some(caller));
        let heard: Vec<(FlightId, Heard)> = heard
            .filter_map(|(id, flight)| Some((*id, flight.heard.take()?)))
            .collect();
        for (id, heard) in heard {
            self.hears(process, id, heard);
        }
    }

    /// Begins to want a lock.
    fn want(&mut self, process: usize, caller: usize) {
        let is_over = self.is_ending || self.processes[process].closing_since.is_some();
        if is_over && !self.one_in(4) || self.is_ending {
            return;
        }
        let wants = &mut self.processes[process].callers[caller].wants;
        if *wants == 0 {
            return;
        }
        *wants -= 1;
        let key = self.chance.index(self.plan.keys);
        let wish = self.processes[process].callers[caller].wish;
        let terms = self.terms(wish);
        let once = self.one_in(5);
        let id = self.new_waiter(process);
        // Most bring none, and the machine is given one when it wants it.
        let owner = self.one_in(4).then(|| self.new_owner(process));
        let local = self.processes[process].clock.read(self.now);
        let wait = self.chance.one_of(&[20, 200, 1_000, 3_000]);
        let waiter = Waiter {
            id,
            terms,
            once,
            begins: true,
            deadline: local + ms(wait),
            owner,
        };
        let deadline = waiter.deadline;
        self.processes[process].callers[caller].doing = Doing::Waits {
            id,
            key,
            terms,
            deadline,
            outcome: None,
        };
        let seldom = if self.plan.keeps { 3 } else { 12 };
        if self.befalls(Fault::CallerParked, seldom) {
            self.fault(Fault::CallerParked);
            let until = self.now + self.some_ms(1, 2_500);
            self.processes[process].callers[caller].parked_until = until;
        }
        if self.befalls(Fault::CallerLeft, 8) {
            let at = self.now + self.some_ms(0, 400);
            self.processes[process].callers[caller].drop_at = Some(at);
        }
        // The future is polled once before it is parked, and asks then.
        self.feed(process, key, Event::Joined(waiter), Some(caller));
        let doing = &self.processes[process].callers[caller].doing;
        let is_told = matches!(
            doing,
            Doing::Waits {
                outcome: Some(_),
                ..
            }
        );
        let at = self.processes[process].clock.when(deadline);
        let at = if is_told { self.now } else { at };
        self.plan_turn(process, caller, at);
    }

    /// An owner token that no other claim has.
    pub(crate) fn new_owner(&mut self, process: usize) -> OwnerToken {
        let it = &mut self.processes[process];
        it.last_owner += 1;
        let owner = OwnerToken::new(format!("p{process}/{}", it.last_owner));
        let life = it.life;
        self.onlooker.owners.insert(owner.clone(), (process, life));
        owner
    }

    /// A few terms, so that waiters often want the same.
    fn terms(&mut self, wish: Option<Wish>) -> Terms {
        let ttl = self.chance.one_of(&[300, 600, 600, 600, 1_500]);
        let mut terms = Terms::new(ms(ttl));
        if !self.one_in(5) {
            terms.renew = Some(ms(ttl / 3));
        }
        if self.one_in(6) {
            terms.max_hold = Some(ms(100));
        }
        let modes = self.plan.modes;
        if let Some(wish) = wish {
            terms.mode = wish.mode;
        } else if !modes.is_empty() {
            terms.mode = self.chance.one_of(modes);
        }
        let keeps = match wish {
            Some(wish) => wish.keeps,
            // What is replayed of the plain lock knows nothing of it.
            None if self.plan.goes_on && modes.is_empty() => self.plan.keeps,
            None => self.plan.keeps || self.one_in(5),
        };
        // Who shares a key keeps nobody else out.
        if keeps && terms.mode != Mode::Shared {
            let least = if terms.max_hold.is_some() {
                50
            } else {
                self.chance.one_of(&[50, 300, 900])
            };
            terms.min_hold = Some(ms(least));
        }
        terms
    }

    /// The wait is used up, or it is not.
    fn wait(&mut self, process: usize, caller: usize) {
        let it = &self.processes[process];
        let Doing::Waits {
            id, key, deadline, ..
        } = it.callers[caller].doing
        else {
            return;
        };
        if it.clock.read(self.now) < deadline {
            let at = it.clock.when(deadline);
            return self.plan_turn(process, caller, at);
        }
        self.feed(process, key, Event::GaveUp(id), Some(caller));
        let doing = &self.processes[process].callers[caller].doing;
        if let Doing::Waits { outcome: None, .. } = doing {
            let text = format!("{id:?} of p{process} k{key} is told nothing");
            self.broken(Promise::EveryoneIsTold, || text);
        }
    }

    /// Tells a waiter what became of it.
    pub(crate) fn tell(&mut self, process: usize, key: usize, id: WaiterId, told: Outcome) {
        if let Outcome::Granted(granted) = &told {
            self.granted(process, key, id, granted);
        }
        let callers = &mut self.processes[process].callers;
        let waits = callers
            .iter_mut()
            .position(|caller| match &mut caller.doing {
                Doing::Waits {
                    id: its, outcome, ..
                } if *its == id => {
                    *outcome = Some(told.clone());
                    true
                }
                _ => false,
            });
        if let Some(caller) = waits {
            let at = self.now + self.chance.any(0..MS);
            self.plan_turn(process, caller, at);
        }
    }

    fn heard_outcome(&mut self, process: usize, caller: usize, outcome: Outcome) {
        let Doing::Waits { id, key, terms, .. } = self.processes[process].callers[caller].doing
        else {
            return;
        };
        let Outcome::Granted(Granted {
            lease,
            token,
            shard,
            ..
        }) = outcome
        else {
            return self.leave(process, caller);
        };
        self.processes[process].callers[caller].drop_at = None;
        self.onlooker.took(process, key, id);
        self.feed(process, key, Event::Took(id), Some(caller));
        self.let_go_of_pumps(process, caller);
        let place = self.onlooker.place_of(process, key, lease, token);
        if terms.min_hold.is_some() {
            self.processes[process].callers[caller].doing = Doing::Begins {
                key,
                lease,
                token,
                shard,
                place,
                terms,
                tries: 0,
            };
            if self.befalls(Fault::CallerLeft, 8) {
                let at = self.now + self.some_ms(0, 30);
                self.processes[process].callers[caller].drop_at = Some(at);
            }
            return self.begin_hold(process, caller);
        }
        self.hold(process, caller, key, (lease, token, shard, place), terms);
    }

    /// A holder that is to keep the key begins when its lease is long enough; if it is not, it is
    /// extended first.
    fn begin_hold(&mut self, process: usize, caller: usize) {
        let it = &mut self.processes[process];
        let local = it.clock.read(self.now);
        let Doing::Begins {
            key,
            lease,
            token,
            shard,
            place,
            terms,
            tries,
        } = &mut it.callers[caller].doing
        else {
            return;
        };
        *tries += 1;
        let (key, lease, token) = (*key, *lease, *token);
        let (shard, place) = (*shard, *place);
        let (terms, is_last) = (*terms, *tries > 4);
        let least = terms.min_hold.unwrap_or_default();
        let machine = it.machines.get(&key);
        let covers = machine.is_some_and(|it| it.key.covers(lease, token, least, local));
        let until = it.clock.when(local + least);
        let event = Event::Keep {
            lease,
            token,
            least,
            begins: true,
        };
        self.feed(process, key, event, Some(caller));
        if covers {
            self.processes[process].callers[caller].drop_at = None;
            self.keeps((process, key, lease), until);
            self.hold(process, caller, key, (lease, token, shard, place), terms);
        } else if is_last {
            self.feed(process, key, Event::Ended(lease, token), None);
            self.rest(process, caller);
        } else {
            self.renew_ahead(process, key, lease);
            let at = self.now + self.some_ms(1, 60);
            self.plan_turn(process, caller, at);
        }
    }

    fn hold(
        &mut self,
        process: usize,
        caller: usize,
        key: usize,
        (lease, token, shard, place): (LeaseId, FencingToken, u8, u64),
        terms: Terms,
    ) {
        let longest = if self.one_in(10) { 1_200 } else { 40 };
        let until = self.now + self.some_ms(0, longest);
        self.processes[process].callers[caller].doing = Doing::Holds {
            key,
            lease,
            token,
            mode: terms.mode,
            shard,
            place,
            until,
        };
        if self.one_in(10) && terms.renew.is_some() {
            self.renew_ahead(process, key, lease);
        }
        self.use_resource(key, terms.mode, shard, token.as_u64(), place);
        self.plan_turn(process, caller, until);
    }

    fn end_hold(&mut self, process: usize, caller: usize) {
        let Doing::Holds {
            key,
            lease,
            token,
            mode,
            shard,
            place,
            ..
        } = self.processes[process].callers[caller].doing
        else {
            return;
        };
        // Even if it has lost the lock and has not noticed.
        self.use_resource(key, mode, shard, token.as_u64(), place);
        let since = self.now;
        self.processes[process].callers[caller].doing = Doing::Releases {
            key,
            lease,
            since,
            is_told: false,
        };
        if self.befalls(Fault::CallerParked, 20) {
            self.fault(Fault::CallerParked);
            let until = self.now + self.some_ms(1, 1_500);
            self.processes[process].callers[caller].parked_until = until;
        }
        if self.befalls(Fault::ReleaseLeft, 10) {
            let at = self.now + self.some_ms(0, 5);
            self.processes[process].callers[caller].drop_at = Some(at);
        }
        let bound = since + 2 * nanos(self.rules.command_timeout) + 320 * MS;
        self.plan_turn(process, caller, bound);
        self.feed(process, key, Event::Ended(lease, token), Some(caller));
        if mode != Mode::Shared && self.one_in(20) {
            // It gives it up, and is dropped.
            self.feed(process, key, Event::Ended(lease, token), Some(caller));
        }
    }

    fn check_release(&mut self, process: usize, caller: usize, since: Time) {
        let it = &self.processes[process];
        let bound = 2 * nanos(self.rules.command_timeout) + 300 * MS;
        let since = since.max(it.runs_since);
        // Whoever was parked itself has only just heard.
        if self.now >= since + bound && it.callers[caller].parked_until == 0 {
            let text = format!("caller {caller} of p{process} is not told");
            return self.broken(Promise::ReleaseIsTold, || text);
        }
        self.plan_turn(process, caller, since + bound);
    }

    /// A future is dropped.
    fn drop_future(&mut self, process: usize, caller: usize) {
        self.processes[process].callers[caller].drop_at = None;
        match self.processes[process].callers[caller].doing {
            Doing::Waits { id, key, .. } => {
                self.fault(Fault::CallerLeft);
                self.feed(process, key, Event::Left(id), None);
            }
            Doing::Begins {
                key, lease, token, ..
            } => {
                self.fault(Fault::CallerLeft);
                self.feed(process, key, Event::Ended(lease, token), None);
            }
            Doing::Releases { .. } => self.fault(Fault::ReleaseLeft),
            Doing::Nothing | Doing::Holds { .. } => return,
        }
        self.cut_off(process, caller);
        self.rest(process, caller);
    }

    /// The questions that a future asked are cut off with it.
    fn cut_off(&mut self, process: usize, caller: usize) {
        let flights = self.processes[process].flights.iter();
        let of_it = flights.filter(|(_, flight)| flight.pump == Some(caller));
        let ids: Vec<FlightId> = of_it.map(|(id, _)| *id).collect();
        for id in ids {
            let flight = self.processes[process].flights.get(&id);
            if let Some(What::Ask(_)) = flight.map(|flight| &flight.what) {
                self.fault(Fault::CutOff);
                self.hears(process, id, Heard::Answer(Answer::CutOff));
            }
        }
    }

    /// What a future asked goes on without it, or is cut off.
    fn let_go_of_pumps(&mut self, process: usize, caller: usize) {
        if self.chance.coin() {
            return self.cut_off(process, caller);
        }
        let mut flights = self.processes[process].flights.values_mut();
        while let Some(flight) = flights.find(|flight| flight.pump == Some(caller)) {
            flight.pump = None;
        }
    }

    fn leave(&mut self, process: usize, caller: usize) {
        self.let_go_of_pumps(process, caller);
        self.rest(process, caller);
    }

    fn rest(&mut self, process: usize, caller: usize) {
        let it = &mut self.processes[process].callers[caller];
        it.doing = Doing::Nothing;
        it.parked_until = 0;
        it.drop_at = None;
        let pause = Duration::from_micros(self.chance.any(0..40_000));
        let at = self.now + nanos(pause);
        self.plan_turn(process, caller, at);
    }
}
