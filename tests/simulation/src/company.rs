//! Leases that go together: the shipped machines of one key in several processes, the pure store,
//! and a network that loses, delays and reorders.
//!
//! It is a world of its own, smaller than the one of the plain lock: all clocks are right. In
//! return questions about different leases overtake each other freely, and the onlooker keeps books
//! of its own of what the store must have after each verb.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use lock_protocol::machine::{
    Action, Answer, Ask, Event, Granted, Key, LeaseId, Outcome, Verb, Waiter, WaiterId,
};
use lock_protocol::store::{Message, Messages, Moment, Store, Word};
use lock_protocol::{
    Acquired, BackendError, Claim, FencingToken, Grant, Instant, Kind, LockKey, Mode, OwnerToken,
    Released, Renewal, Renewed, Rules, Terms,
};

use crate::clock::{MS, Time, ms, nanos};
use crate::promise::{Promise, Violation};
use crate::together::{fit, has_room, name};

/// How many permits there are.
const PERMITS: u32 = 3;
/// How many shards there are.
const SHARDS: u8 = 3;
/// When the history begins: stores tell fencing tokens from no time.
const BEGIN: Time = 1_000_000 * MS;
/// For how long a question is waited for.
const PATIENCE: Time = 1_050 * MS;

/// What came of a history.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// How often a caller was granted something of each kind.
    pub granted: BTreeMap<&'static str, u64>,
    /// How often a reader joined those of its process.
    pub joined: u64,
    /// How often the store served several at once.
    pub batches: u64,
    /// How many messages were lost or late.
    pub faults: u64,
    /// How many processes died.
    pub deaths: u64,
}

/// Lets the history of this `seed` happen, with so many events.
pub fn run(seed: u64, steps: u64) -> Outcomes {
    let mut world = World::new(seed);
    world.run(steps);
    let mut outcomes = world.outcomes;
    outcomes.violation = world.violation;
    outcomes
}

struct World {
    rng: fastrand::Rng,
    rules: Rules,
    now: Time,
    next: u64,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: HashMap<u64, Happening>,
    key: LockKey,
    store: Store<(usize, u32)>,
    processes: Vec<Process>,
    books: Books,
    holds: Vec<Hold>,
    /// The largest token of each kind, and of each shard.
    last: HashMap<(Kind, u8), u64>,
    is_ending: bool,
    violation: Option<Violation>,
    outcomes: Outcomes,
}

struct Process {
    machine: Key,
    life: u32,
    owners: u64,
    waiters: u64,
    tick: u64,
    callers: Vec<Caller>,
    /// When the last question about the plain lock arrives: they keep their order.
    arrives: Time,
}

#[derive(Clone, Debug)]
struct Caller {
    doing: Doing,
    turn: u64,
}

#[derive(Clone, Debug)]
enum Doing {
    Nothing,
    Waits(WaiterId, Terms, Time),
    Told(WaiterId, Granted),
    Holds(Granted),
}

enum Happening {
    Turn(usize, usize, u64),
    Tick(usize, u64),
    /// A question arrives; whether its answer does, too.
    Asked(usize, u32, Box<Ask>, Time, bool),
    Answered(usize, u32, Box<Ask>, Time, Answer),
    Renews(usize, u32, LeaseId, Box<Renewal>, Time, bool),
    Renewed(usize, u32, LeaseId, Time, Option<Renewed>),
    News(Message<(usize, u32)>),
}

/// A hold that was told to somebody.
struct Hold {
    process: usize,
    lease: LeaseId,
    token: FencingToken,
    owner: OwnerToken,
    mode: Mode,
    shard: u8,
    since: Time,
}

/// What the store must have.
#[derive(Default)]
struct Books {
    leases: HashMap<OwnerToken, Entry>,
    queue: Vec<(OwnerToken, Mode)>,
}

#[derive(Clone, Copy)]
struct Entry {
    mode: Mode,
    shard: u8,
    ends: Time,
}

impl World {
    fn new(seed: u64) -> World {
        let key = LockKey::new("", "k").unwrap_or_else(|error| panic!("{error}"));
        let process = |_| Process {
            machine: Key::new(key.clone(), 0),
            life: 0,
            owners: 0,
            waiters: 0,
            tick: 0,
            callers: vec![
                Caller {
                    doing: Doing::Nothing,
                    turn: 0
                };
                4
            ],
            arrives: 0,
        };
        World {
            rng: fastrand::Rng::with_seed(seed),
            rules: Rules::default(),
            now: BEGIN,
            next: 0,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            store: Store::new(),
            processes: (0..3).map(process).collect(),
            key,
            books: Books::default(),
            holds: Vec::new(),
            last: HashMap::new(),
            is_ending: false,
            violation: None,
            outcomes: Outcomes {
                violation: None,
                granted: BTreeMap::new(),
                joined: 0,
                batches: 0,
                faults: 0,
                deaths: 0,
            },
        }
    }

    fn run(&mut self, steps: u64) {
        for process in 0..self.processes.len() {
            for caller in 0..4 {
                self.turn_at(process, caller, self.now);
            }
        }
        let mut step = 0;
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if self.violation.is_some() {
                return;
            }
            self.now = at.max(self.now);
            step += 1;
            self.is_ending |= step > steps;
            if let Some(happening) = self.happenings.remove(&id) {
                self.happen(happening);
            }
            if !self.is_ending && self.rng.u32(0..3_000) == 0 {
                self.dies();
            }
            if step > 4 * steps {
                return self.broken(Promise::NothingLeft, "it does not end");
            }
        }
        let machines = self.processes.iter().map(|process| &process.machine);
        let busy: Vec<_> = machines.filter(|it| !it.is_gone()).map(Key::look).collect();
        if !busy.is_empty() {
            return self.broken(Promise::NothingLeft, format!("{busy:?}"));
        }
        // What dead processes had ends by itself.
        let later = instant(self.now + 100_000 * MS);
        if !self.store.is_idle(later) {
            self.broken(Promise::NothingLeft, "in the store");
        }
    }

    fn broken(&mut self, promise: Promise, text: impl Into<String>) {
        let text = format!("{} at {} ms", text.into(), (self.now - BEGIN) / MS);
        self.violation.get_or_insert(Violation { promise, text });
    }

    fn at(&mut self, at: Time, happening: Happening) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next)));
        self.happenings.insert(self.next, happening);
    }

    fn moment(&self) -> Moment {
        Moment {
            now: instant(self.now),
            micros: self.now / 1_000,
        }
    }

    fn latency(&mut self) -> Time {
        self.rng.u64(MS / 10..3 * MS)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Turn(process, caller, turn) => {
                if self.processes[process].callers[caller].turn == turn {
                    self.turn(process, caller);
                }
            }
            Happening::Tick(process, tick) => {
                if self.processes[process].tick == tick {
                    self.feed(process, Event::Time);
                }
            }
            Happening::Asked(process, life, ask, sent, is_heard) => {
                let answer = self.ask(process, life, &ask.verb);
                if is_heard {
                    let at = self.now + self.latency();
                    self.at(at, Happening::Answered(process, life, ask, sent, answer));
                }
            }
            Happening::Answered(process, life, ask, sent, answer) => {
                if self.processes[process].life == life {
                    let event = Event::Answered {
                        ask: &ask,
                        sent_at: instant(sent),
                        answer,
                        chance: self.rng.u32(..),
                    };
                    self.feed(process, event);
                }
            }
            Happening::Renews(process, life, lease, renewal, sent, is_heard) => {
                let answer = self.renew(&renewal);
                if is_heard {
                    let at = self.now + self.latency();
                    let answer = Some(answer.of(renewal.ttl));
                    self.at(at, Happening::Renewed(process, life, lease, sent, answer));
                }
            }
            Happening::Renewed(process, life, lease, sent, answer) => {
                if self.processes[process].life == life {
                    let event = Event::Renewed {
                        lease,
                        sent_at: instant(sent),
                        answer,
                        chance: self.rng.u32(..),
                    };
                    self.feed(process, event);
                }
            }
            Happening::News(message) => self.news(&message),
        }
    }

    fn news(&mut self, message: &Message<(usize, u32)>) {
        let (process, life) = message.way;
        if self.processes[process].life != life {
            return;
        }
        match message.word {
            Word::AskAt(at) => self.feed(process, Event::AskAt(&message.owner, at)),
            Word::Granted(grant, since) => {
                let owner = message.owner.as_str();
                let is_expected = self.processes[process].machine.expects(owner);
                let event = Event::HandedOver {
                    owner,
                    grant,
                    since,
                };
                self.feed(process, event);
                if !is_expected {
                    self.abandon(&message.owner, false);
                }
            }
        }
    }

    /// The machine takes in an event, and what it wants is done.
    fn feed(&mut self, process: usize, event: Event<'_>) {
        let now = instant(self.now);
        let it = &mut self.processes[process];
        while let Some(kind) = it.machine.wants_owner(&event) {
            it.owners += 1;
            let owner = format!("p{process}/{}/{}", it.life, it.owners);
            it.machine.provide_owner(kind, OwnerToken::new(owner));
        }
        let actions = it.machine.on(&self.rules, now, event);
        let life = it.life;
        for action in actions {
            self.perform(process, life, action);
        }
        let it = &mut self.processes[process];
        it.tick += 1;
        if let Some(at) = it.machine.wants_time_at(&self.rules) {
            let (at, tick) = (at.as_nanos().max(self.now), it.tick);
            self.at(at, Happening::Tick(process, tick));
        }
        self.check_holds();
    }

    fn perform(&mut self, process: usize, life: u32, action: Action) {
        let sent = self.now;
        match action {
            Action::Ask(ask) => {
                let mut arrives = sent + self.latency();
                let fate = if self.is_ending {
                    9
                } else {
                    self.rng.u32(0..60)
                };
                if ask.verb.kind() == Kind::Exclusive {
                    let it = &mut self.processes[process];
                    arrives = arrives.max(it.arrives + 1);
                    it.arrives = arrives;
                }
                if fate < 3 {
                    self.outcomes.faults += 1;
                    let error = Arc::new(BackendError::unavailable("lost"));
                    let answer = Answer::NotKnown(error, Some(ms(50)));
                    let no_answer = Happening::Answered(process, life, ask.clone(), sent, answer);
                    self.at(sent + PATIENCE, no_answer);
                }
                match fate {
                    0 => {}
                    1 => self.at(arrives, Happening::Asked(process, life, ask, sent, false)),
                    2 => {
                        let late = arrives + self.rng.u64(0..1_500 * MS);
                        self.at(late, Happening::Asked(process, life, ask, sent, false));
                    }
                    _ => self.at(arrives, Happening::Asked(process, life, ask, sent, true)),
                }
            }
            Action::Renew(lease, renewal, patience) => {
                let arrives = sent + self.latency();
                let fate = if self.is_ending {
                    9
                } else {
                    self.rng.u32(0..20)
                };
                if fate < 2 {
                    self.outcomes.faults += 1;
                    let none = Happening::Renewed(process, life, lease, sent, None);
                    self.at(sent + nanos(patience), none);
                }
                let is_heard = fate >= 2;
                if fate != 0 {
                    let late = if is_heard {
                        0
                    } else {
                        self.rng.u64(0..400 * MS)
                    };
                    let renews = Happening::Renews(process, life, lease, renewal, sent, is_heard);
                    self.at(arrives + late, renews);
                }
            }
            Action::Tell(id, outcome) => self.tell(process, id, outcome),
            Action::TakeBack(id, _) => {
                let mut callers = self.processes[process].callers.iter_mut();
                let told =
                    callers.position(|it| matches!(it.doing, Doing::Told(its, ..) if its == id));
                if let Some(caller) = told {
                    self.rest(process, caller);
                }
            }
            Action::Released(..) | Action::Changed(_) => {}
        }
    }

    fn tell(&mut self, process: usize, id: WaiterId, outcome: Outcome) {
        let mut callers = self.processes[process].callers.iter();
        let Some(caller) =
            callers.position(|it| matches!(it.doing, Doing::Waits(its, ..) if its == id))
        else {
            return self.broken(Promise::EveryoneIsTold, format!("{id:?} is nobody"));
        };
        let Doing::Waits(_, terms, _) = self.processes[process].callers[caller].doing else {
            return;
        };
        match outcome {
            Outcome::Granted(granted) => {
                self.granted(process, &terms, &granted);
                self.processes[process].callers[caller].doing = Doing::Told(id, granted);
                let at = self.now + self.rng.u64(0..MS);
                self.turn_at(process, caller, at);
            }
            _ => self.rest(process, caller),
        }
    }

    /// Looks at a grant that a caller is told of.
    fn granted(&mut self, process: usize, terms: &Terms, granted: &Granted) {
        let (mode, token) = (terms.mode, granted.token.as_u64());
        let kind = mode.kind();
        *self.outcomes.granted.entry(name(kind)).or_default() += 1;
        let same = |hold: &&Hold| (hold.process, hold.lease) == (process, granted.lease);
        let first = self.holds.iter().filter(same).map(|hold| hold.since).min();
        if kind == Kind::Shared
            && let Some(first) = first
        {
            self.outcomes.joined += 1;
            if self.now > first + 1_000 * MS {
                self.broken(Promise::JoinsAreBounded, format!("{granted:?}"));
            }
        }
        // Above all that it excludes; of one shard above all of that shard.
        let others = self.last.iter().filter(|((of, shard), _)| match kind {
            Kind::Exclusive => true,
            Kind::Shard => *of != kind || *shard == granted.shard,
            _ => *of != kind,
        });
        let last = others.map(|(_, token)| *token).max().unwrap_or_default();
        if token <= last {
            self.broken(
                Promise::TokensGrow,
                format!("{kind:?} {token} after {last}"),
            );
        }
        let shared = self
            .holds
            .iter()
            .find(|hold| hold.mode == Mode::Shared && self.is_valid(hold));
        if kind == Kind::Shared && shared.is_some_and(|other| other.token != granted.token) {
            self.broken(Promise::TokensGrow, format!("{granted:?} beside another"));
        }
        let newest = self.last.entry((kind, granted.shard)).or_default();
        *newest = token.max(*newest);
        self.holds.push(Hold {
            process,
            lease: granted.lease,
            token: granted.token,
            owner: granted.owner.clone(),
            mode,
            shard: granted.shard,
            since: self.now,
        });
    }

    fn is_valid(&self, hold: &Hold) -> bool {
        let machine = &self.processes[hold.process].machine;
        machine.is_held_by(hold.lease, hold.token, instant(self.now))
    }

    /// Looks at what callers hold.
    fn check_holds(&mut self) {
        let holds = std::mem::take(&mut self.holds);
        let (holds, _): (Vec<Hold>, Vec<Hold>) =
            holds.into_iter().partition(|hold| self.is_valid(hold));
        let mut leases: Vec<&Hold> = Vec::new();
        for hold in &holds {
            if !leases
                .iter()
                .any(|it| (it.process, it.lease) == (hold.process, hold.lease))
            {
                leases.push(hold);
            }
        }
        let modes = leases.iter().map(|hold| (hold.mode, hold.shard));
        if !fit(modes) {
            let all: Vec<String> = leases
                .iter()
                .map(|it| format!("{} {:?}", it.owner, it.mode))
                .collect();
            self.broken(Promise::MutualExclusion, all.join(", "));
        }
        let now = instant(self.now);
        for hold in leases {
            if !self
                .store
                .owners("k", now)
                .any(|owner| *owner == hold.owner)
            {
                self.broken(Promise::ValidLeaseIsTheStores, hold.owner.to_string());
            }
        }
        self.holds = holds;
    }

    fn turn_at(&mut self, process: usize, caller: usize, at: Time) {
        let it = &mut self.processes[process].callers[caller];
        it.turn += 1;
        let turn = it.turn;
        self.at(at, Happening::Turn(process, caller, turn));
    }

    fn rest(&mut self, process: usize, caller: usize) {
        self.processes[process].callers[caller].doing = Doing::Nothing;
        let at = self.now + self.rng.u64(0..40 * MS);
        self.turn_at(process, caller, at);
    }

    fn turn(&mut self, process: usize, caller: usize) {
        match self.processes[process].callers[caller].doing.clone() {
            Doing::Nothing if self.is_ending => {}
            Doing::Nothing => self.want(process, caller),
            Doing::Waits(id, _, deadline) => {
                let leaves = self.now < deadline;
                let event = if leaves {
                    Event::Left(id)
                } else {
                    Event::GaveUp(id)
                };
                if leaves {
                    self.rest(process, caller);
                }
                self.feed(process, event);
                if matches!(self.processes[process].callers[caller].doing, Doing::Waits(its, ..) if its == id)
                {
                    self.broken(Promise::EveryoneIsTold, format!("{id:?}"));
                }
            }
            Doing::Told(id, granted) => {
                if self.rng.u32(0..10) == 0 {
                    self.rest(process, caller);
                    return self.feed(process, Event::Left(id));
                }
                let longest = if self.rng.u32(0..10) == 0 { 1_200 } else { 40 };
                let until = self.now + self.rng.u64(0..longest * MS);
                self.processes[process].callers[caller].doing = Doing::Holds(granted);
                self.turn_at(process, caller, until);
                self.feed(process, Event::Took(id));
            }
            Doing::Holds(granted) => {
                self.rest(process, caller);
                let held_by = |it: &World| {
                    let machine = &it.processes[process].machine;
                    machine.is_held_by(granted.lease, granted.token, instant(it.now))
                };
                let was_held = held_by(self);
                self.feed(process, Event::Ended(granted.lease, granted.token));
                let mut others = self.processes[process].callers.iter();
                let is_shared = others.any(|it| {
                    matches!(&it.doing, Doing::Holds(other) if other.lease == granted.lease
                        && other.token == granted.token)
                });
                if was_held && is_shared && !held_by(self) {
                    let text = format!("{} ends for others", granted.owner);
                    self.broken(Promise::NoEviction, text);
                }
            }
        }
    }

    fn want(&mut self, process: usize, caller: usize) {
        let mut terms = Terms::new(ms(self.rng.choice([300, 600, 600, 1_500]).unwrap_or(600)));
        if self.rng.u32(0..5) > 0 {
            terms.renew = Some(terms.ttl / 3);
        }
        terms.mode = match self.rng.u32(0..16) {
            0..2 => Mode::Exclusive,
            2..9 => Mode::Shared,
            9..13 => Mode::Permits {
                take: self.rng.u8(1..3),
                of: PERMITS,
            },
            _ => Mode::Shard {
                of: SHARDS,
                prefer: 0,
                except: self.rng.choice([0, 0, 0b001, 0b110]).unwrap_or(0),
            },
        };
        let it = &mut self.processes[process];
        it.waiters += 1;
        let id = WaiterId(it.waiters);
        let wait = self.rng.choice([20, 200, 1_000, 3_000]).unwrap_or(200);
        let deadline = self.now + wait * MS;
        self.processes[process].callers[caller].doing = Doing::Waits(id, terms, deadline);
        let leaves = self.rng.u32(0..8) == 0;
        let at = if leaves {
            self.now + self.rng.u64(0..wait * MS)
        } else {
            deadline
        };
        self.turn_at(process, caller, at);
        let waiter = Waiter {
            id,
            terms,
            once: self.rng.u32(0..5) == 0,
            begins: true,
            deadline: instant(deadline),
            owner: None,
        };
        self.feed(process, Event::Joined(waiter));
    }

    /// A process dies, and another begins in its place.
    fn dies(&mut self) {
        self.outcomes.deaths += 1;
        let process = self.rng.usize(0..self.processes.len());
        let it = &mut self.processes[process];
        it.life += 1;
        it.tick += 1;
        it.machine = Key::new(self.key.clone(), it.machine.last_number());
        self.holds.retain(|hold| hold.process != process);
        for caller in 0..4 {
            self.rest(process, caller);
        }
    }
}

/// What is done to the store, and whether it did what it must.
impl World {
    fn ask(&mut self, process: usize, life: u32, verb: &Verb) -> Answer {
        let way = (process, life);
        let moment = self.moment();
        self.settle();
        match verb {
            Verb::Acquire(claim) => {
                let (answer, messages) = self.store.acquire(claim, &way, moment);
                self.served(&messages, Some((claim, &answer)));
                self.told(messages, Some(&claim.owner));
                Answer::Acquired(answer)
            }
            Verb::Release(release) => {
                let (answer, messages) = self.store.release(release, &way, moment);
                let was_held = self.books.leases.remove(&release.owner).is_some();
                if was_held == (answer == Released::NotHeld) {
                    self.broken(Promise::NoEviction, format!("{} {answer:?}", release.owner));
                }
                let mut asker = None;
                if let (Released::Released(Some(answer)), Some(next)) = (&answer, &release.next) {
                    self.served(&messages, Some((next, answer)));
                    asker = Some(&next.owner);
                }
                self.told(messages, asker);
                Answer::Released(answer)
            }
            Verb::Abandon(claim) => {
                self.abandon(&claim.owner, claim.in_doubt);
                Answer::Abandoned
            }
        }
    }

    fn abandon(&mut self, owner: &OwnerToken, in_doubt: bool) {
        self.settle();
        let messages = self
            .store
            .abandon(&self.key, owner, in_doubt, self.moment());
        self.books.leases.remove(owner);
        self.books.queue.retain(|(waiter, _)| waiter != owner);
        self.told(messages, None);
    }

    fn renew(&mut self, renewal: &Renewal) -> Renewed {
        self.settle();
        let (answer, messages) = self.store.renew(renewal, self.moment());
        let ends = self.now + nanos(renewal.ttl);
        let held = self.books.leases.get_mut(&renewal.owner);
        let is_held = held.map(|lease| lease.ends = ends).is_some();
        if is_held != matches!(answer, Renewed::Held(_)) {
            self.broken(Promise::NoEviction, format!("{} {answer:?}", renewal.owner));
        }
        self.told(messages, None);
        answer
    }

    /// What has run out by now.
    fn settle(&mut self) {
        let now = self.now;
        self.books.leases.retain(|_, lease| lease.ends > now);
        let queue: Vec<&OwnerToken> = self.store.queue("k", instant(now)).collect();
        self.books
            .queue
            .retain(|(waiter, _)| queue.contains(&waiter));
    }

    /// Writes down what became of a claim.
    fn acquired(&mut self, claim: &Claim, answer: &Acquired) {
        match answer {
            Acquired::Granted(grant) => {
                let ends = self.now + nanos(grant.valid_for);
                match self.books.leases.get_mut(&claim.owner) {
                    Some(lease) => lease.ends = lease.ends.max(ends),
                    None => self.enters(&claim.owner, claim.mode, grant, ends),
                }
            }
            Acquired::Queued(_) => {
                let mut queue = self.books.queue.iter();
                let is_there = queue.any(|(owner, _)| *owner == claim.owner);
                let new = (!is_there).then(|| (claim.owner.clone(), claim.mode));
                self.books.queue.extend(new);
            }
            _ => {}
        }
    }

    /// A claim has a lease that had none.
    fn enters(&mut self, owner: &OwnerToken, mode: Mode, grant: &Grant, ends: Time) {
        let place = self
            .books
            .queue
            .iter()
            .position(|(waiter, _)| waiter == owner);
        match place {
            Some(0) => {}
            None if self.books.queue.is_empty() => {}
            _ => self.broken(Promise::NobodyOvertaken, owner.to_string()),
        }
        self.books.queue.retain(|(waiter, _)| waiter != owner);
        let shard = grant.shard;
        self.books
            .leases
            .insert(owner.clone(), Entry { mode, shard, ends });
    }

    /// Writes down who was served, and what became of the claim that asked: in the order in which
    /// they waited.
    fn served(&mut self, messages: &Messages<(usize, u32)>, asker: Option<(&Claim, &Acquired)>) {
        let new = messages.iter().filter_map(|message| match message.word {
            Word::Granted(grant, _) => Some((message.owner.clone(), grant)),
            Word::AskAt(_) => None,
        });
        let mut new: Vec<(OwnerToken, Grant)> = new.collect();
        if let Some((claim, Acquired::Granted(grant))) = asker {
            new.push((claim.owner.clone(), *grant));
        }
        new.retain(|(owner, _)| !self.books.leases.contains_key(owner));
        let place = |owner: &OwnerToken| {
            let mut queue = self.books.queue.iter();
            queue.position(|(waiter, _)| waiter == owner)
        };
        new.sort_by_key(|(owner, _)| place(owner).unwrap_or(usize::MAX));
        self.outcomes.batches += u64::from(new.len() > 1);
        for (owner, grant) in new {
            let mut queue = self.books.queue.iter();
            let waited = queue.find(|(waiter, _)| *waiter == owner);
            let asked = asker.filter(|(claim, _)| claim.owner == owner);
            let mode = waited
                .map(|(_, mode)| *mode)
                .or(asked.map(|(claim, _)| claim.mode));
            let Some(mode) = mode else {
                return self.broken(Promise::NobodyOvertaken, owner.to_string());
            };
            let ends = self.now + nanos(grant.valid_for);
            self.enters(&owner, mode, &grant, ends);
        }
        if let Some((claim, answer)) = asker {
            self.acquired(claim, answer);
        }
    }

    /// Sends what the store tells, and looks at what it has.
    fn told(&mut self, messages: Messages<(usize, u32)>, asker: Option<&OwnerToken>) {
        self.served(&messages, None);
        for message in messages {
            let is_lost = !self.is_ending && self.rng.u32(0..30) == 0;
            if is_lost && asker != Some(&message.owner) {
                self.outcomes.faults += 1;
                continue;
            }
            let at = self.now + self.latency();
            self.at(at, Happening::News(message));
        }
        let now = instant(self.now);
        let mut has: Vec<&OwnerToken> = self.store.owners("k", now).collect();
        let mut must: Vec<&OwnerToken> = self.books.leases.keys().collect();
        has.sort();
        must.sort();
        if has != must {
            let text = format!("{has:?} instead of {must:?}");
            return self.broken(Promise::NoEviction, text);
        }
        let leases = self.books.leases.values();
        if !fit(leases.clone().map(|lease| (lease.mode, lease.shard))) {
            let text = format!("{:?}", leases.map(|lease| lease.mode).collect::<Vec<_>>());
            return self.broken(Promise::MutualExclusion, text);
        }
        if let Some((owner, mode)) = self.books.queue.first() {
            let leases = leases.map(|lease| (lease.mode, lease.shard));
            if has_room(leases, *mode) {
                let text = format!("{owner}: {mode:?}");
                self.broken(Promise::PromptHandOver, text);
            }
        }
    }
}

fn instant(at: Time) -> Instant {
    Instant::from_nanos(at)
}
