//! What happens next: the true time, and everything that is going to happen.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

use lock_protocol::machine::Ask;
use lock_protocol::store::Word;
use lock_protocol::{OwnerToken, Rules};

use crate::chance::Chance;
use crate::clock::{Clock, MS, Time, ms};
use crate::fault::Fault;
use crate::onlooker::Onlooker;
use crate::process::{Condition, FlightId, Process};
use crate::promise::{Promise, Violation};
use crate::rows::Rows;
use crate::server::{Body, Reply, Server};
use crate::transcript::{Entry, Event};
use crate::{Plan, Report, words};

/// Something that is going to happen.
#[derive(Clone)]
pub(crate) struct Happening {
    pub(crate) at: Time,
    /// Of two at the same time, the first to be planned comes first.
    pub(crate) order: u64,
    pub(crate) what: Happens,
}

#[derive(Clone)]
pub(crate) enum Happens {
    /// A request arrives at the server.
    Arrives(Request),
    /// The server takes a connection for closed.
    Closes(usize, (u32, u32)),
    /// Something happens to a process, in the life that it has.
    To(usize, u32, ToProcess),
    Resumes(usize),
    Starts(usize),
    Storm,
    TheftEnds(usize),
}

#[derive(Clone)]
pub(crate) enum ToProcess {
    /// An answer arrives by the connection with this number.
    Answer(u32, FlightId, Reply, Vec<OwnerToken>),
    /// News arrive: for the claim, of this key, and an instant before they were sent.
    News(u32, usize, OwnerToken, Word, Time),
    /// A question failed.
    Fails(FlightId, Failure),
    /// The machine of a key wants to know the time.
    Time(usize, u64),
    /// A caller goes on.
    Turn(usize, u64),
    /// Whoever was to send a question comes to it.
    Sends(usize, Ask),
    Connects,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    Timeout,
    Connection,
    Behind,
    Refused,
}

/// A request on its way.
#[derive(Clone, Hash)]
pub(crate) struct Request {
    pub(crate) from: usize,
    pub(crate) life: u32,
    pub(crate) epoch: u32,
    pub(crate) flight: FlightId,
    pub(crate) key: usize,
    pub(crate) body: Body,
    /// Whether it has been decided what becomes of it after the end of its connection.
    pub(crate) is_late: bool,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) chance: Chance,
    pub(crate) now: Time,
    order: u64,
    pub(crate) queue: BinaryHeap<Happening>,
    pub(crate) rules: Rules,
    pub(crate) processes: Vec<Process>,
    pub(crate) server: Server,
    /// The server does nothing until then.
    pub(crate) stalled_until: Time,
    /// How many tokens a claim reserves, as if so many waited.
    pub(crate) reserved: u32,
    /// What becomes of what is under way in connections that have ended: `None`, it is lost; else
    /// it is so much late.
    pub(crate) fates: HashMap<(usize, u32, u32), Option<Time>>,
    pub(crate) is_stormy: bool,
    pub(crate) is_ending: bool,
    pub(crate) last_flight: FlightId,
    pub(crate) onlooker: Onlooker,
    pub(crate) rows: Rows,
    pub(crate) faults: Vec<u64>,
    pub(crate) refusals: HashSet<FlightId>,
    pub(crate) steps: u64,
    /// What happened, line by line, since somebody last looked; `None` if nobody does.
    pub(crate) lines: Option<Vec<String>>,
    /// What happened to the store; `None` if nobody wants to know.
    pub(crate) transcript: Option<Vec<Entry>>,
}

impl World {
    pub(crate) fn new(plan: &Plan, mut chance: Chance) -> World {
        let mut rules = Rules::default();
        rules.command_timeout = ms(200);
        rules.grace = ms(200);
        if !plan.goes_on {
            rules.grace = ms(chance.one_of(&[60, 200, 200]));
        }
        rules.heartbeat = ms(1_000);
        rules.local_passes = chance.one_of(&[0, 3, 32, 30_000]);
        rules.local_share = chance.one_of(&[0.1, 0.5, 1.0]);
        // Fewer than there are microseconds in the shortest time in which a server is replaced.
        let reserved = if plan.goes_on {
            0
        } else {
            chance.one_of(&[0, 0, 30_000])
        };
        let processes = (0..plan.processes)
            .map(|_| Process::new(Clock::new(&mut chance), plan.keys, plan.callers))
            .collect();
        World {
            plan: plan.clone(),
            chance,
            now: 10_000 * MS,
            order: 0,
            queue: BinaryHeap::new(),
            rules,
            processes,
            server: Server::new(plan.keys),
            stalled_until: 0,
            reserved,
            fates: HashMap::new(),
            is_stormy: false,
            is_ending: false,
            last_flight: 0,
            onlooker: Onlooker::new(plan.keys),
            rows: Rows::default(),
            faults: vec![0; Fault::ALL.len()],
            refusals: HashSet::new(),
            steps: 0,
            lines: None,
            transcript: None,
        }
    }

    /// Lets things happen until enough steps were made, then until everything should have ended.
    pub(crate) fn run(&mut self, mut trace: Option<&mut dyn FnMut(&str)>) -> Report {
        self.begin();
        self.plan(self.now + 300 * MS, Happens::Storm);
        self.lines = trace.as_ref().map(|_| Vec::new());
        while self.steps < self.plan.steps && self.happen() {
            self.tell_lines(&mut trace);
        }
        if self.onlooker.violation.is_none() {
            self.end();
        }
        self.tell_lines(&mut trace);
        Report {
            seed: self.plan.seed,
            steps: self.steps,
            time: std::time::Duration::from_nanos(self.now - 10_000 * MS),
            rows: self.rows.clone(),
            faults: self.faults.clone(),
            grants: self.onlooker.grants,
            stale_writes: self.onlooker.stale_writes,
            kept: self.onlooker.kept,
            kept_by_dead: self.onlooker.kept_by_dead,
            granted: self.onlooker.granted.clone(),
            joined: self.onlooker.joined,
            batches: self.onlooker.batches,
            made_up: self.onlooker.made_up,
            violation: self.onlooker.violation.clone(),
        }
    }

    fn tell_lines(&mut self, trace: &mut Option<&mut dyn FnMut(&str)>) {
        if let (Some(lines), Some(trace)) = (&mut self.lines, trace) {
            lines.drain(..).for_each(|line| trace(&line));
        }
    }

    pub(crate) fn begin(&mut self) {
        for process in 0..self.processes.len() {
            self.plan(self.now, Happens::Starts(process));
        }
    }

    /// The faults stop, the callers end what they are at, and nothing may be left.
    pub(crate) fn end(&mut self) {
        // The longest ttl, twice the heartbeat for claims that were forgotten, and what a question
        // takes that is late.
        const BOUND: Time = 10_000 * MS;
        self.is_ending = true;
        self.is_stormy = false;
        for key in 0..self.plan.keys {
            self.end_theft(key);
        }
        self.trace(|_| "the end begins".to_string());
        let until = self.now + BOUND;
        while self.queue.peek().is_some_and(|next| next.at <= until) && self.happen() {}
        self.now = self.now.max(until);
        if self.onlooker.violation.is_some() {
            return;
        }
        if !self.server.is_idle(self.now) {
            let left: Vec<String> = (0..self.plan.keys)
                .map(|key| {
                    let queue = self.server.queue(key, self.now);
                    let leases: Vec<_> = self.server.leases(key, self.now).collect();
                    format!("{leases:?}, {queue:?}")
                })
                .collect();
            return self.broken(Promise::NothingLeft, || format!("in the store: {left:?}"));
        }
        for process in 0..self.processes.len() {
            let machines = &self.processes[process].machines;
            let looks: Vec<_> = machines
                .values()
                .map(|machine| machine.key.look())
                .collect();
            let is_idle = self.processes[process].is_idle();
            if !is_idle || !looks.is_empty() {
                let text = format!("in process {process}: idle {is_idle}, {looks:?}");
                return self.broken(Promise::NothingLeft, || text);
            }
        }
    }

    /// Lets the next thing happen. Whether there is more to come.
    fn happen(&mut self) -> bool {
        let Some(next) = self.queue.pop() else {
            return false;
        };
        self.now = next.at;
        self.let_happen(next);
        self.onlooker.violation.is_none()
    }

    /// What may happen next: what is due, in any order, but for what is in one connection; and a
    /// request that is late, at any time.
    pub(crate) fn possible(&self) -> Vec<&Happening> {
        let Some(next) = self.queue.peek() else {
            return Vec::new();
        };
        let due = next.at.max(self.now);
        let mut possible: Vec<_> = self
            .queue
            .iter()
            .filter(|it| it.at <= due || it.is_late())
            .collect();
        possible.sort_unstable_by_key(|it| (it.at, it.order));
        let leaving = possible.iter().filter_map(|it| match &it.what {
            Happens::To(process, _, what @ ToProcess::Turn(caller, _))
                if it.at <= due && self.processes[*process].is_leaving(what) =>
            {
                Some((process, caller, *it))
            }
            _ => None,
        });
        // They can go in one order as well as in another.
        if let Some((.., first)) = leaving.min_by_key(|(process, caller, _)| (*process, *caller)) {
            return vec![first];
        }
        let mut channels = HashSet::new();
        possible.retain(|it| it.channel().is_none_or(|channel| channels.insert(channel)));
        possible
    }

    /// Lets what was planned with this number happen now, or when it is due.
    pub(crate) fn happen_now(&mut self, order: u64) {
        let mut planned = std::mem::take(&mut self.queue).into_vec();
        let place = planned.iter().position(|it| it.order == order);
        let next = place.map(|place| planned.swap_remove(place));
        self.queue = planned.into();
        if let Some(next) = next {
            if !next.is_late() {
                self.now = self.now.max(next.at);
            }
            self.let_happen(next);
        }
    }

    /// Takes out what would change nothing.
    pub(crate) fn forget_what_is_over(&mut self) {
        let processes = &self.processes;
        self.queue.retain(|it| match &it.what {
            Happens::To(process, life, what) => {
                let process = &processes[*process];
                process.life == *life && !process.is_over(what)
            }
            _ => true,
        });
    }

    fn let_happen(&mut self, next: Happening) {
        match next.what {
            Happens::Arrives(request) => self.arrives(request),
            Happens::Closes(process, connection) => {
                let link = &mut self.processes[process].link;
                link.seen.take_if(|seen| *seen == connection);
            }
            Happens::To(process, life, _) if self.processes[process].life != life => {
                // It is another one by now.
            }
            Happens::To(process, _, ref what) => match self.processes[process].condition {
                Condition::Runs => self.tell_process(process, what.clone()),
                Condition::StandsStill => self.processes[process].missed.push_back(next),
                Condition::IsDead => {}
            },
            Happens::Resumes(process) => self.resumes(process),
            Happens::Starts(process) => self.starts(process),
            Happens::Storm => self.storm(),
            Happens::TheftEnds(key) => self.end_theft(key),
        }
        self.check_owners();
    }

    fn tell_process(&mut self, process: usize, what: ToProcess) {
        match what {
            ToProcess::Answer(epoch, flight, reply, owners) => {
                self.answer(process, epoch, flight, reply, &owners);
            }
            ToProcess::News(epoch, key, owner, word, since) => {
                self.news(process, epoch, key, &owner, word, since);
            }
            ToProcess::Fails(flight, failure) => self.fails(process, flight, failure),
            ToProcess::Time(key, timer) => self.time(process, key, timer),
            ToProcess::Turn(caller, turn) => self.turn(process, caller, turn),
            ToProcess::Sends(key, ask) => {
                let owners = words::owners(&ask);
                self.send_ask(process, key, ask, None);
                self.onlooker.forget(&owners);
            }
            ToProcess::Connects => self.connects(process),
        }
    }

    pub(crate) fn plan(&mut self, at: Time, what: Happens) {
        self.order += 1;
        let order = self.order;
        let at = at.max(self.now);
        self.queue.push(Happening { at, order, what });
    }

    pub(crate) fn plan_for(&mut self, process: usize, at: Time, what: ToProcess) {
        let life = self.processes[process].life;
        self.plan(at, Happens::To(process, life, what));
    }

    /// A process goes on, and finds all that it missed at once.
    fn resumes(&mut self, process: usize) {
        if self.processes[process].condition != Condition::StandsStill {
            return;
        }
        self.processes[process].condition = Condition::Runs;
        self.processes[process].runs_since = self.now;
        self.trace(|_| format!("p{process} goes on"));
        let mut missed = std::mem::take(&mut self.processes[process].missed);
        // Timers may be looked at before the connection is read, or after.
        let (timers, rest): (Vec<_>, Vec<_>) = missed
            .drain(..)
            .partition(|next| matches!(next.what, Happens::To(_, _, ToProcess::Time(..))));
        let (first, second) = if self.chance.coin() {
            (timers, rest)
        } else {
            (rest, timers)
        };
        for next in first.into_iter().chain(second) {
            self.plan(self.now, next.what);
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// Whether something happens that has a chance of one in `of`.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.chance.one_in(of)
    }

    /// Whether this fault happens, which has a chance of one in `of` in a storm.
    pub(crate) fn strikes(&mut self, fault: Fault, of: u64) -> bool {
        self.is_stormy && self.befalls(fault, of)
    }

    /// The same, whether there is a storm or not.
    pub(crate) fn befalls(&mut self, fault: Fault, of: u64) -> bool {
        let can_happen = self.plan.only.is_none_or(|only| only == fault);
        can_happen && self.chance.strikes(fault, of)
    }

    /// Between `from` and `to` milliseconds.
    pub(crate) fn some_ms(&mut self, from: u64, to: u64) -> Time {
        self.chance.of(from * MS..to * MS)
    }

    fn end_theft(&mut self, key: usize) {
        let before = self.kept(key);
        if self.server.end_theft(key, self.now) {
            self.note(key, before, || Event::TheftEnds);
        }
    }

    pub(crate) fn broken(&mut self, promise: Promise, text: impl FnOnce() -> String) {
        let text = text();
        self.break_off(Violation { promise, text });
    }

    pub(crate) fn break_off(&mut self, violation: Violation) {
        if self.onlooker.violation.is_none() {
            self.trace(|_| format!("BROKEN {violation}"));
            self.onlooker.violation = Some(violation);
        }
    }

    pub(crate) fn trace_is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce(&World) -> String) {
        if self.lines.is_some() {
            let micros = self.now / 1_000;
            let line = format!("{:>6}.{:03} {}", micros / 1_000, micros % 1_000, line(self));
            if let Some(lines) = &mut self.lines {
                lines.push(line);
            }
        }
    }
}

impl Happening {
    /// The way on which nothing overtakes it, if it goes one: whose, in which life, of which
    /// connection, and whether to the server.
    pub(crate) fn channel(&self) -> Option<(usize, u32, u32, bool)> {
        match &self.what {
            Happens::Arrives(it) if !it.is_late => Some((it.from, it.life, it.epoch, true)),
            Happens::To(
                process,
                life,
                ToProcess::Answer(epoch, ..) | ToProcess::News(epoch, ..),
            ) => Some((*process, *life, *epoch, false)),
            _ => None,
        }
    }

    /// Whether it is a request that comes after the end of its connection.
    fn is_late(&self) -> bool {
        matches!(&self.what, Happens::Arrives(request) if request.is_late)
    }
}

impl PartialEq for Happening {
    fn eq(&self, other: &Happening) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Happening {}

impl PartialOrd for Happening {
    fn partial_cmp(&self, other: &Happening) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the largest, which the heap gives first.
impl Ord for Happening {
    fn cmp(&self, other: &Happening) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
