//! The network between processes and the server, and the client of the store in each process.
//!
//! Nothing overtakes within a connection. A connection that ends may deliver what is in it late, or
//! never, while the next one is in use already.

use lock_protocol::machine::{Answer, Event};
use lock_protocol::store::{Messages, Word};
use lock_protocol::{BackendError, Mode, OwnerToken};

use crate::clock::{MS, Time};
use crate::fault::Fault;
use crate::process::{Condition, Flight, FlightId, Heard, What};
use crate::server::{Body, Reply, Way, instant};
use crate::transcript;
use crate::world::{Failure, Happens, Request, ToProcess, World};

impl World {
    /// Sends a question of `process`. Its answer, or failure, comes later.
    pub(crate) fn send(
        &mut self,
        process: usize,
        key: usize,
        what: What,
        body: Body,
        pump: Option<usize>,
        patience: Time,
    ) {
        self.last_flight += 1;
        let id = self.last_flight;
        let it = &mut self.processes[process];
        let owners: Vec<OwnerToken> = body.owners().cloned().collect();
        let now = self.now;
        let (number, is_numbered) = match &what {
            What::Ask(ask) => (ask.number, true),
            _ => (0, false),
        };
        let epoch = it.link.epoch;
        let flight = Flight {
            key,
            what,
            owners: owners.clone(),
            sent_at: it.clock.read(now),
            epoch,
            pump,
            heard: None,
        };
        it.flights.insert(id, flight);
        let failure = if !it.link.is_up {
            Some(Failure::Connection)
        } else if is_numbered && number < it.link.largest[key] {
            Some(Failure::Behind)
        } else {
            None
        };
        if let Some(failure) = failure {
            if failure == Failure::Behind {
                self.fault(Fault::RequestOvertaken);
            }
            return self.plan_for(process, now, ToProcess::Fails(id, failure));
        }
        if is_numbered {
            self.processes[process].link.largest[key] = number;
        }
        self.onlooker.mention(&owners);
        let timeout = now + patience;
        self.plan_for(process, timeout, ToProcess::Fails(id, Failure::Timeout));

        let seldom = if self.plan.keeps { 8 } else { 100 };
        if is_numbered && self.strikes(Fault::Refused, seldom) {
            self.fault(Fault::Refused);
            self.onlooker.forget(&owners);
            let at = now + self.some_ms(1, 5);
            return self.plan_for(process, at, ToProcess::Fails(id, Failure::Refused));
        }
        let request = Request {
            from: process,
            life: self.processes[process].life,
            epoch,
            flight: id,
            key,
            body,
            is_late: false,
        };
        if self.strikes(Fault::RequestLost, 100) {
            self.fault(Fault::RequestLost);
            self.onlooker.forget(&owners);
            return;
        }
        // A claim that does not wait has nothing that would tell the store that it is over.
        let leaves_traces = !matches!(&request.body, Body::Acquire(claim) if !claim.queue);
        if leaves_traces && self.strikes(Fault::RequestTwice, 40) {
            self.fault(Fault::RequestTwice);
            self.onlooker.mention(&owners);
            let at = self.arrival_up(process);
            self.plan(at, Happens::Arrives(request.clone()));
            // Nothing comes in between.
            return self.plan(at, Happens::Arrives(request));
        }
        let at = self.arrival_up(process);
        self.plan(at, Happens::Arrives(request));
    }

    fn latency(&mut self) -> Time {
        if self.strikes(Fault::Slow, 50) {
            self.fault(Fault::Slow);
            return self.some_ms(5, 300);
        }
        self.chance.latency()
    }

    fn arrival_up(&mut self, process: usize) -> Time {
        let (at, gap) = (self.now + self.latency(), self.chance.gap());
        let link = &mut self.processes[process].link;
        link.up = at.max(link.up + gap);
        link.up
    }

    fn arrival_down(&mut self, process: usize) -> Time {
        let (at, gap) = (self.now + self.latency(), self.chance.gap());
        let link = &mut self.processes[process].link;
        link.down = at.max(link.down + gap);
        link.down
    }

    /// A request is at the server.
    pub(crate) fn arrives(&mut self, mut request: Request) {
        let Request {
            from,
            life,
            epoch,
            key,
            ..
        } = request;
        let owners: Vec<OwnerToken> = request.body.owners().cloned().collect();
        if let Some(fate) = self.fates.get(&(from, life, epoch)).copied()
            && !request.is_late
        {
            let Some(late) = fate else {
                self.fault(Fault::RequestLost);
                return self.onlooker.forget(&owners);
            };
            request.is_late = true;
            return self.plan(self.now + late, Happens::Arrives(request));
        }
        if self.now < self.stalled_until {
            return self.plan(self.stalled_until, Happens::Arrives(request));
        }
        if request.is_late {
            self.fault(Fault::RequestLate);
        }
        let reply = self.execute(key, &request.body, (from, life));
        let link = &self.processes[from].link;
        let is_open = self.processes[from].life == life
            && self.processes[from].condition != Condition::IsDead
            && link.is_up
            && link.epoch == epoch;
        if !is_open {
            return self.onlooker.forget(&owners);
        }
        if self.strikes(Fault::AnswerLost, 100) {
            self.fault(Fault::AnswerLost);
            return self.onlooker.forget(&owners);
        }
        let at = self.arrival_down(from);
        let answer = ToProcess::Answer(epoch, request.flight, reply, owners);
        self.plan_for(from, at, answer);
    }

    /// The server does what is asked.
    fn execute(&mut self, key: usize, body: &Body, way: Way) -> Reply {
        let before = self.kept(key);
        let (reply, messages, violation) = self.server.execute(key, body, way, self.now);
        self.note(key, before, || {
            transcript::asked(way, body, &reply, &messages)
        });
        self.trace(|world| {
            let leases = world.server.leases(key, world.now);
            let owners: Vec<_> = leases.map(|lease| lease.owner).collect();
            let queue = world.server.queue(key, world.now);
            let reply = crate::words::reply(&reply);
            let body = crate::words::body(body);
            format!("   store k{key}: {body} -> {reply}; {owners:?}, {queue:?}")
        });
        if let Some(violation) = violation {
            self.break_off(violation);
        }
        self.look_at_grants(key, body, &reply, &messages);
        if let Body::Abandon(owner, _) = body
            && !self.onlooker.is_flushed(owner)
        {
            self.server.withdrawn(key, owner);
        }
        self.check_holds(key);
        self.push(key, messages);
        reply
    }

    /// Notes what was granted to whom.
    fn look_at_grants(&mut self, key: usize, body: &Body, reply: &Reply, messages: &Messages<Way>) {
        let now = self.now;
        let mut served = 0;
        if let Some(claim) = body.claim() {
            let grant = reply.grant();
            self.onlooker.asks(&claim.owner, grant.is_some());
            if let Some(grant) = grant {
                served += 1;
                self.onlooker.granted(&claim.owner, claim.mode, grant, now);
            }
        }
        if let Body::Abandon(owner, _) | Body::GiveBack(owner) | Body::Skip(owner) = body {
            self.onlooker.asks(owner, false);
        }
        for message in messages {
            if let Word::Granted(grant, _) = message.word {
                served += 1;
                let mut leases = self.server.leases(key, now);
                let mode = leases.find(|lease| *lease.owner == message.owner);
                let mode = mode.map_or(Mode::Exclusive, |lease| lease.mode);
                self.onlooker.granted(&message.owner, mode, &grant, now);
            }
        }
        self.onlooker.batches += u64::from(served > 1);
    }

    /// The server tells what a verb made it tell.
    fn push(&mut self, key: usize, messages: Messages<Way>) {
        for message in messages {
            let (process, life) = message.way;
            let seen = self.processes[process].link.seen;
            let Some((_, epoch)) = seen.filter(|(seen, _)| *seen == life) else {
                if let Word::Granted(..) = message.word {
                    self.fault(Fault::Unreachable);
                    self.execute(key, &Body::Skip(message.owner), message.way);
                }
                continue;
            };
            let link = &self.processes[process].link;
            let is_open = self.processes[process].life == life
                && self.processes[process].condition != Condition::IsDead
                && link.is_up
                && link.epoch == epoch;
            let seldom = if self.plan.only.is_some() { 4 } else { 30 };
            if !is_open || self.strikes(Fault::NewsLost, seldom) {
                self.fault(Fault::NewsLost);
                if let Word::Granted(..) = message.word {
                    self.onlooker.is_unheard(&message.owner, self.now);
                }
                continue;
            }
            // By when the client last heard from the server.
            let since = self.now - self.some_ms(0, 150);
            let since = since.max(self.processes[process].link.since);
            let at = self.arrival_down(process);
            let owner = message.owner;
            let news = |owner| ToProcess::News(epoch, key, owner, message.word, since);
            self.onlooker.mention([&owner]);
            self.plan_for(process, at, news(owner.clone()));
            if self.strikes(Fault::NewsTwice, 4) {
                self.fault(Fault::NewsTwice);
                let at = at + self.some_ms(0, 400);
                self.onlooker.mention([&owner]);
                self.plan_for(process, at, news(owner));
            }
        }
    }

    /// An answer is at its process.
    pub(crate) fn answer(
        &mut self,
        process: usize,
        epoch: u32,
        flight: FlightId,
        reply: Reply,
        owners: &[OwnerToken],
    ) {
        let it = &mut self.processes[process];
        let is_expected =
            it.link.is_up && it.link.epoch == epoch && it.flights.contains_key(&flight);
        if !is_expected {
            self.fault(Fault::AnswerLate);
            return self.onlooker.forget(owners);
        }
        let Some(found) = it.flights.get_mut(&flight) else {
            return;
        };
        let heard = match reply {
            Reply::Acquired(acquired) => Heard::Answer(Answer::Acquired(acquired)),
            Reply::Released(released) => Heard::Answer(Answer::Released(released)),
            Reply::Abandoned => Heard::Answer(Answer::Abandoned),
            Reply::Renewed(renewed) => Heard::Renewed(Some(renewed)),
        };
        let is_parked = found
            .pump
            .is_some_and(|pump| it.callers[pump].parked_until > self.now);
        if found.heard.is_some() {
            // It came twice.
            return self.onlooker.forget(owners);
        }
        if is_parked {
            found.heard = Some(heard);
        } else {
            self.hears(process, flight, heard);
        }
        self.onlooker.forget(owners);
    }

    /// A question failed.
    pub(crate) fn fails(&mut self, process: usize, flight: FlightId, failure: Failure) {
        let it = &mut self.processes[process];
        let Some(found) = it.flights.get_mut(&flight) else {
            return;
        };
        let is_parked = found
            .pump
            .is_some_and(|pump| it.callers[pump].parked_until > self.now);
        let is_renewal = matches!(found.what, What::Renew(_));
        let failures = match &found.what {
            What::Ask(ask) => ask.failures,
            _ => 0,
        };
        let heard = if is_renewal {
            Heard::Renewed(None)
        } else if failure == Failure::Refused {
            self.refusals.insert(flight);
            let error = BackendError::denied("refused");
            Heard::Answer(Answer::NotKnown(error.into(), None))
        } else {
            let longest = ((25 * MS) << failures.min(3)).min(200 * MS);
            let pause = self.chance.any(longest / 2..longest + 1);
            let error = BackendError::unavailable("not known");
            let pause = std::time::Duration::from_nanos(pause);
            Heard::Answer(Answer::NotKnown(error.into(), Some(pause)))
        };
        let Some(found) = self.processes[process].flights.get_mut(&flight) else {
            return;
        };
        if is_parked {
            // Whichever it finds first when it is polled again.
            found.heard.get_or_insert(heard);
        } else {
            self.hears(process, flight, heard);
        }
        if failure == Failure::Timeout && self.one_in(3) {
            // The client gives a connection up that does not answer.
            self.cut(process);
        }
    }

    /// A question is over for its asker.
    pub(crate) fn hears(&mut self, process: usize, id: FlightId, heard: Heard) {
        let it = &mut self.processes[process];
        let Some(found) = it.flights.remove(&id) else {
            return;
        };
        let is_refusal = self.refusals.remove(&id);
        if is_refusal {
            self.onlooker.excuse(&found.owners);
        }
        let Flight {
            key,
            what,
            owners,
            sent_at,
            pump,
            ..
        } = found;
        let chance = self.chance.spread();
        match (what, heard) {
            (What::Ask(ask), Heard::Answer(answer)) => {
                let event = Event::Answered {
                    ask: &ask,
                    sent_at,
                    answer,
                    chance,
                };
                self.feed(process, key, event, pump);
            }
            (What::Renew(lease), Heard::Renewed(answer)) => {
                let event = Event::Renewed {
                    lease,
                    sent_at,
                    answer,
                    chance,
                };
                self.feed(process, key, event, None);
            }
            // It is given back once: the lease ends by itself.
            (What::GiveBack, Heard::Answer(Answer::NotKnown(..))) => self.onlooker.excuse(&owners),
            (What::Ask(_) | What::Renew(_) | What::GiveBack, _) => {}
        }
    }

    /// News are at a process.
    pub(crate) fn news(
        &mut self,
        process: usize,
        epoch: u32,
        key: usize,
        owner: &OwnerToken,
        word: Word,
        since: Time,
    ) {
        let it = &self.processes[process];
        if !it.link.is_up || it.link.epoch != epoch {
            self.fault(Fault::NewsLost);
            return self.onlooker.forget([owner]);
        }
        let since_local = it.clock.read(since);
        let local = it.clock.read(self.now);
        if let Word::Granted(_, told) = word
            && instant(self.now).since(told) > crate::clock::ms(50)
        {
            self.fault(Fault::NewsLate);
        }
        let machine = self.processes[process].machines.get(&key);
        match word {
            Word::Granted(grant, _) => {
                let is_expected = machine.is_some_and(|it| it.key.expects(owner.as_str()));
                if is_expected {
                    let event = Event::HandedOver {
                        owner: owner.as_str(),
                        grant,
                        since: since_local,
                    };
                    self.feed(process, key, event, None);
                } else {
                    self.fault(Fault::NewsUnexpected);
                    let body = Body::GiveBack(owner.clone());
                    self.send(process, key, What::GiveBack, body, None, 200 * MS);
                }
            }
            Word::AskAt(at) => {
                if machine.is_some() {
                    // It is told how long the lease lives, and counts that from when it hears it.
                    let left = at.since(instant(since.max(self.now - 5 * MS)));
                    self.feed(process, key, Event::AskAt(owner, local + left), None);
                }
            }
        }
        self.onlooker.forget([owner]);
    }

    /// The connection of a process ends, and another is made.
    pub(crate) fn cut(&mut self, process: usize) {
        let life = self.processes[process].life;
        let link = &mut self.processes[process].link;
        if !link.is_up {
            return;
        }
        link.is_up = false;
        let epoch = link.epoch;
        self.trace(|_| format!("p{process} loses its connection"));
        self.fault(Fault::Cut);
        let fate = match self.chance.small(0..3) {
            0 => None,
            1 => Some(0),
            _ => Some(self.some_ms(0, 3_000)),
        };
        self.fates.insert((process, life, epoch), fate);
        let flights = &self.processes[process].flights;
        let open = flights.iter().filter(|(_, flight)| flight.epoch == epoch);
        let open: Vec<FlightId> = open.map(|(id, _)| *id).collect();
        for id in open {
            self.plan_for(process, self.now, ToProcess::Fails(id, Failure::Connection));
        }
        let noticed = self.now + self.some_ms(0, 60);
        self.plan(noticed, Happens::Closes(process, (life, epoch)));
        let again = self.now + self.some_ms(1, 60);
        self.plan_for(process, again, ToProcess::Connects);
    }

    pub(crate) fn connects(&mut self, process: usize) {
        let now = self.now;
        let it = &mut self.processes[process];
        let (keys, life) = (it.numbers.len(), it.life);
        let link = &mut it.link;
        link.epoch += 1;
        link.is_up = true;
        link.since = now;
        link.largest = vec![0; keys];
        (link.up, link.down) = (now, now);
        link.seen = Some((life, link.epoch));
        self.trace(|_| format!("p{process} connects"));
        for key in 0..keys {
            if self.processes[process].machines.contains_key(&key) {
                self.feed(process, key, Event::AskAll, None);
            }
        }
    }
}
