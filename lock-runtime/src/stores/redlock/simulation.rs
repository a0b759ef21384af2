//! The votes of three nodes for the claims of three processes, driven through faults by chance: the
//! shipped machine of each process, the course and the tally of its claim and what it has at each
//! node, with nodes, a network and tasks made of plain data.
//!
//! One seed is one history. Messages get lost, come late and overtake one another; processes are
//! killed, nodes lose their data, and clocks of processes differ. An onlooker who knows the true
//! time checks at every grant that nobody else holds the lock and that the fencing tokens grow, and
//! at the end that the lock moves on. What it shows of the code that is not here is nothing: that
//! `rounds.rs` sends what is decided, and that the scripts do what the node does.

mod engine;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use lock_protocol::machine;
use lock_protocol::{Acquired, Claim, Grant, Holder, Instant, OwnerToken, valid_until};

use self::engine::{Due as EngineDue, Engine, key, not_known};
use super::claims::{Claims, Stub, VoteNews, claimed_by};
use super::course::{Course, Next};
use super::mistakes::{Mistake, made, make};
use super::shared::block;
use super::tally::{NodeAnswer, Tally, Verdict, majority};

/// In microseconds, as all times here.
type Micros = u64;

const NODES: usize = 3;
const PROCESSES: usize = 3;
const TTL: Micros = 1_000_000;
/// For how long a node that lost its data votes for nobody.
const DELAY: Micros = TTL;
/// How long a vote lasts that was handed over and not confirmed.
const GRACE: Micros = 300_000;
/// After how long a question has no answer.
const TIMEOUT: Micros = 100_000;
/// For how long a round waits for the rest, when a majority has answered.
const PATIENCE: Micros = 20_000;
/// For how long a vote that was handed over is kept for a claim that does not ask.
const UNCONFIRMED: Micros = 200_000;
const HEARTBEAT: Micros = 500_000;
/// Until when things go wrong, and when it ends.
const CALM: Micros = 8_000_000;
const END: Micros = CALM + 6_000_000;
/// How long a vote may stay at a node whose claim was told that it cannot have the lock.
const LINGERS: Micros = 450_000;
/// The latest that the first and every further claim has its turn when all is calm.
const STUCK: Micros = CALM + 3_000_000;

fn at(micros: Micros) -> Instant {
    Instant::from_nanos(1_000 * micros)
}

fn duration(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}

fn micros(instant: Instant) -> Micros {
    (instant.as_nanos() / 1_000) as Micros
}

/// What arrives, or is due.
#[derive(Clone, Debug)]
enum Event {
    /// A question arrives at a node, unless that has restarted since.
    Vote(usize, u32, Question),
    /// A withdrawal or a release arrives there.
    Ends(usize, u32, Life, Claim),
    Answered(Question, usize, Result<NodeAnswer, ()>, bool),
    /// A withdrawal was confirmed, or has to be tried again.
    Ended(usize, Life, Claim, bool),
    Told(usize, Life, String),
    Due(Life, Due),
    Engine(Life, EngineDue),
    NodeFails(usize),
    ProcessDies(usize),
}

/// What a process has planned for its claim.
#[derive(Clone, Debug)]
enum Due {
    Patience(u64),
    Unconfirmed(OwnerToken, u64),
}

/// A process between two deaths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Life(usize, u32);

#[derive(Clone, Debug)]
struct Question {
    life: Life,
    round: u64,
    claim: Claim,
    owner: OwnerToken,
    proposal: u64,
    sent_at: Micros,
}

#[derive(Default)]
struct Node {
    restarts: u32,
    vote: Option<(String, Micros)>,
    queue: VecDeque<String>,
    gone: BTreeSet<String>,
    fence: u64,
    known_since: Option<Micros>,
}

#[derive(Default)]
struct Process {
    deaths: u32,
    claims: Claims,
    /// How far its clock is from the true time, for the fencing tokens that it proposes.
    ahead: i64,
    last: u64,
    engine: Engine,
    asking: Option<Asking>,
    /// The claim that it asks for.
    claim: Option<Claim>,
    /// What an earlier round came to, where a mistake counts it.
    earlier: Option<Tally>,
    course: Course,
}

/// A round that is under way.
struct Asking {
    round: u64,
    proposal: u64,
    tally: Tally,
    answered: usize,
    is_impatient: bool,
}

/// A lock that a task has.
struct Held {
    life: Life,
    owner: OwnerToken,
    until: Micros,
    token: u64,
}

struct World {
    rng: Rng,
    now: Micros,
    count: u64,
    events: BinaryHeap<Reverse<(Micros, u64)>>,
    plans: BTreeMap<u64, Event>,
    nodes: [Node; NODES],
    processes: [Process; PROCESSES],
    /// Whether nothing goes wrong any more.
    is_calm: bool,
    holder: Option<Held>,
    /// The largest token that a task has had, and that a claim was granted.
    largest: u64,
    last_granted: u64,
    /// Votes that should be gone by then.
    unwanted: Vec<(Micros, OwnerToken)>,
    /// Who has had the lock since all is calm.
    served: BTreeSet<usize>,
    grants: u64,
    splits: u64,
}

/// Runs one history: how many locks were granted and how often votes were split, or what was
/// broken.
fn run(seed: u64) -> Result<(u64, u64), String> {
    let mut world = World {
        rng: Rng::with_seed(seed),
        now: 1_000_000_000,
        count: 0,
        events: BinaryHeap::new(),
        plans: BTreeMap::new(),
        nodes: Default::default(),
        processes: Default::default(),
        is_calm: false,
        holder: None,
        largest: 0,
        last_granted: 0,
        unwanted: Vec::new(),
        served: BTreeSet::new(),
        grants: 0,
        splits: 0,
    };
    let start = world.now;
    for (number, process) in world.processes.iter_mut().enumerate() {
        process.ahead = [0, 30_000, -30_000][number];
    }
    for node in &mut world.nodes {
        node.known_since = Some(0);
    }
    for process in 0..PROCESSES {
        world.starts(Life(process, 0));
    }
    for _ in 0..6 {
        let (when, node) = (world.rng.u64(..CALM), world.rng.usize(..NODES));
        world.plan(when, Event::NodeFails(node));
        let (when, process) = (world.rng.u64(..CALM), world.rng.usize(..PROCESSES));
        world.plan(when, Event::ProcessDies(process));
    }
    // Two of three at once, when nothing else goes wrong any more.
    for node in 0..majority(NODES) {
        world.plan(CALM + 100_000, Event::NodeFails(node));
    }
    while let Some(Reverse((when, number))) = world.events.pop() {
        world.now = when;
        world.is_calm = when > start + CALM;
        if when > start + END {
            break;
        }
        if let Some(event) = world.plans.remove(&number) {
            world.happens(event, when < start + CALM)?;
        }
        world.look(start)?;
    }
    Ok((world.grants, world.splits))
}

impl World {
    fn plan(&mut self, after: Micros, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now + after, self.count)));
        self.plans.insert(self.count, event);
    }

    /// How long a message is under way, now; `None` if it gets lost.
    fn way(&mut self, is_faulty: bool) -> Option<Micros> {
        match self.rng.u32(..100) {
            0..4 if is_faulty => None,
            4..6 if is_faulty => Some(self.rng.u64(50_000..1_500_000)),
            6..16 if is_faulty => Some(self.rng.u64(15_000..90_000)),
            _ => Some(self.rng.u64(100..3_000)),
        }
    }

    fn lives(&self, life: Life) -> bool {
        self.processes[life.0].deaths == life.1
    }

    fn happens(&mut self, event: Event, is_faulty: bool) -> Result<(), String> {
        match event {
            Event::NodeFails(node) => {
                let restarts = self.nodes[node].restarts + 1;
                self.nodes[node] = Node {
                    restarts,
                    ..Node::default()
                };
            }
            Event::ProcessDies(number) => {
                let old = &mut self.processes[number];
                *old = Process {
                    deaths: old.deaths + 1,
                    ahead: old.ahead,
                    last: old.last,
                    ..Process::default()
                };
                let life = Life(number, old.deaths);
                // Its guard died with it, so it writes nothing any more.
                if self
                    .holder
                    .as_ref()
                    .is_some_and(|held| held.life.0 == number)
                {
                    self.holder = None;
                }
                self.starts(life);
            }
            Event::Vote(node, restarts, question) => {
                if self.nodes[node].restarts == restarts {
                    let (answer, queued) = self.vote(node, &question);
                    if let Some(way) = self.way(is_faulty) {
                        self.plan(way, Event::Answered(question, node, Ok(answer), queued));
                    }
                }
            }
            Event::Ends(node, restarts, life, claim) => {
                if self.nodes[node].restarts == restarts {
                    self.ends(node, &claim);
                    if let Some(way) = self.way(is_faulty) {
                        self.plan(way, Event::Ended(node, life, claim, true));
                    }
                }
            }
            // Only one of the two comes to something: what is confirmed is not tried again.
            Event::Ended(node, life, claim, is_confirmed) => {
                self.ended(node, life, claim, is_confirmed, is_faulty);
            }
            Event::Answered(question, node, answer, queued) => {
                self.answered(&question, node, answer, queued, is_faulty)?;
            }
            Event::Told(node, life, token) => self.told(node, life, &token, is_faulty),
            Event::Due(life, due) if self.lives(life) => self.due(life, due, is_faulty)?,
            Event::Engine(life, due) if self.lives(life) => {
                self.engine_due(life, due, is_faulty)?;
            }
            Event::Due(..) | Event::Engine(..) => {}
        }
        Ok(())
    }

    // Nodes, as the scripts do it.

    fn expire(&mut self, node: usize) {
        let now = self.now;
        let node = &mut self.nodes[node];
        if node.vote.as_ref().is_some_and(|(_, until)| *until <= now) {
            node.vote = None;
        }
    }

    /// What the node answers, and whether the claim waits there.
    fn vote(&mut self, number: usize, question: &Question) -> (NodeAnswer, bool) {
        self.expire(number);
        let now = self.now;
        let since = *self.nodes[number].known_since.get_or_insert(now);
        if since + DELAY > now && !made(Mistake::VotesInDelay) {
            return (NodeAnswer::Away(duration(since + DELAY - now)), false);
        }
        let token = question.claim.owner.to_string();
        if self.nodes[number].gone.contains(&token) {
            return (NodeAnswer::Gone, false);
        }
        let first = self.nodes[number].queue.front();
        if self.nodes[number].vote.is_none() && first.is_some_and(|first| *first != token) {
            // Those that wait come first.
            self.hand_over(number);
        }
        if made(Mistake::NodeReassigns) && self.rng.u8(..4) == 0 {
            self.nodes[number].vote = None;
        }
        let node = &mut self.nodes[number];
        match &node.vote {
            Some((other, until)) if *other != token => {
                let who = claimed_by(other).into();
                let holder = Holder::of_ours(duration(until - now));
                if question.claim.queue && !node.queue.contains(&token) {
                    node.queue.push_back(token);
                }
                (NodeAnswer::Refused { holder, who }, question.claim.queue)
            }
            _ => {
                let until = node.vote.as_ref().map_or(0, |(_, until)| *until);
                node.vote = Some((token.clone(), until.max(now + TTL)));
                node.queue.retain(|other| *other != token);
                let before = node.fence;
                node.fence = node.fence.max(question.proposal);
                let vote = NodeAnswer::Vote {
                    sent_at: at(question.sent_at),
                    ttl: question.claim.ttl,
                    before,
                };
                (vote, false)
            }
        }
    }

    fn ends(&mut self, number: usize, claim: &Claim) {
        self.expire(number);
        let token = claim.owner.to_string();
        let node = &mut self.nodes[number];
        node.queue.retain(|other| *other != token);
        if claim.in_doubt {
            node.gone.insert(token.clone());
        }
        if node.vote.as_ref().is_some_and(|(owner, _)| *owner == token) {
            node.vote = None;
            self.hand_over(number);
        }
    }

    /// Gives a free vote to the first that waits and whose process hears of it.
    fn hand_over(&mut self, number: usize) {
        while let Some(next) = self.nodes[number].queue.pop_front() {
            let life = life_of(claimed_by(&next));
            if self.lives(life) {
                self.nodes[number].vote = Some((next.clone(), self.now + GRACE));
                let way = self.rng.u64(100..2_000);
                self.plan(way, Event::Told(number, life, next));
                return;
            }
        }
    }

    // Processes, as the rounds do it.

    fn due(&mut self, life: Life, due: Due, is_faulty: bool) -> Result<(), String> {
        let process = &mut self.processes[life.0];
        match due {
            Due::Patience(round) => {
                if let Some(asking) = &mut process.asking
                    && asking.round == round
                {
                    asking.is_impatient = true;
                    self.decide(life, is_faulty)?;
                }
            }
            Due::Unconfirmed(owner, round) => {
                let now = at(self.now);
                let (stubs, _) = process.claims.give_back(&owner, round, false, now);
                self.give_back(life, stubs, is_faulty);
            }
        }
        Ok(())
    }

    /// Begins a round.
    fn ask(&mut self, life: Life, is_faulty: bool, least: u64) {
        let now = self.now;
        let process = &mut self.processes[life.0];
        let Some(claim) = process.claim.clone() else {
            return;
        };
        self.unwanted.retain(|(_, owner)| *owner != claim.owner);
        let (round, asked) = process.claims.begin(&claim, NODES, at(now));
        let time = now.saturating_add_signed(process.ahead);
        process.last = time.max(process.last + 1);
        let proposal = process.last.max(least);
        let earlier = process.earlier.take();
        let earlier = earlier.filter(|_| made(Mistake::CountsGivenUpVotes));
        let tally = earlier.unwrap_or_else(|| Tally::new(NODES, proposal));
        process.asking = Some(Asking {
            round,
            proposal,
            tally,
            answered: 0,
            is_impatient: false,
        });
        self.plan(PATIENCE, Event::Due(life, Due::Patience(round)));
        for (node, asked) in asked.into_iter().enumerate() {
            let question = Question {
                life,
                round,
                claim: asked,
                owner: claim.owner.clone(),
                proposal,
                sent_at: now,
            };
            let failed = Event::Answered(question.clone(), node, Err(()), false);
            self.plan(TIMEOUT, failed);
            if let Some(way) = self.way(is_faulty) {
                let restarts = self.nodes[node].restarts;
                self.plan(way, Event::Vote(node, restarts, question));
            }
        }
    }

    fn answered(
        &mut self,
        question: &Question,
        node: usize,
        answer: Result<NodeAnswer, ()>,
        queued: bool,
        is_faulty: bool,
    ) -> Result<(), String> {
        let life = question.life;
        // After its timeout an answer is heard by nobody.
        let is_late = self.now > question.sent_at + TIMEOUT;
        if !self.lives(life) || answer.is_ok() && is_late {
            return Ok(());
        }
        let process = &mut self.processes[life.0];
        if let Ok(answer) = &answer {
            let voted = matches!(answer, NodeAnswer::Vote { .. });
            let place = (node, question.round);
            let asked = &question.claim.owner;
            let owner = &question.owner;
            let unwanted = process.claims.answered(owner, place, asked, voted, queued);
            self.give_back(life, unwanted.into_iter().collect(), is_faulty);
        }
        let process = &mut self.processes[life.0];
        let Some(asking) = &mut process.asking else {
            return Ok(());
        };
        if asking.round != question.round {
            return Ok(());
        }
        asking.answered += 1;
        asking
            .tally
            .take(node, answer.unwrap_or(NodeAnswer::Failed));
        self.decide(life, is_faulty)
    }

    /// Does what the shipped course says, as soon as it is decided.
    fn decide(&mut self, life: Life, is_faulty: bool) -> Result<(), String> {
        let now = at(self.now);
        let process = &mut self.processes[life.0];
        let (Some(asking), Some(claim)) = (&process.asking, process.claim.clone()) else {
            return Ok(());
        };
        let is_open = asking.answered < NODES;
        let has_patience = !asking.is_impatient || asking.answered < majority(NODES);
        if asking.tally.verdict(now) == Verdict::Pending && is_open && has_patience {
            return Ok(());
        }
        let Some(asking) = process.asking.take() else {
            return Ok(());
        };
        let (round, proposal) = (asking.round, asking.proposal);
        let (number, start) = process.engine.acquiring.unwrap_or_default();
        let who = (claim.owner.as_str(), claim.queue);
        let next = process.course.next(&asking.tally, who, true, now);
        let holder = asking.tally.holder();
        process.earlier = matches!(next, Next::GiveWay | Next::Again).then_some(asking.tally);
        match next {
            Next::Granted { until, above } => {
                let sent_at = made(Mistake::LeaseFromAnswer).then_some(self.now);
                let from = at(sent_at.unwrap_or(start));
                let valid_for = match sent_at {
                    Some(_) => claim.ttl,
                    None => until.since(from).min(claim.ttl),
                };
                let process = &mut self.processes[life.0];
                let promised = valid_until(from, valid_for);
                if process.claims.promise(&claim.owner, round, promised) {
                    let tokens = block(proposal, above, claim.tokens);
                    let (first, last) = (tokens.first.as_u64(), tokens.last.as_u64());
                    if first <= self.last_granted || last < first {
                        return Err(format!(
                            "tokens {first} to {last} after {}",
                            self.last_granted
                        ));
                    }
                    self.last_granted = last;
                    let granted = Acquired::Granted(Grant::new(tokens, valid_for));
                    self.acquired(life, sent_at, machine::Answer::Acquired(granted));
                } else {
                    self.acquired(life, None, not_known(20_000));
                }
            }
            Next::Propose(least) => self.ask(life, is_faulty, least),
            Next::Refused => {
                self.stand_back(life, &claim, round, false, is_faulty);
                self.processes[life.0].claims.refused(&claim.owner, now);
                self.said(life, Acquired::Taken(holder));
            }
            Next::Unavailable => {
                self.stand_back(life, &claim, round, false, is_faulty);
                self.unwanted
                    .push((self.now + LINGERS, claim.owner.clone()));
                self.acquired(life, None, not_known(LINGERS + 10_000));
            }
            Next::Wait if made(Mistake::SitsOnVotes) => {
                self.unwanted
                    .push((self.now + LINGERS, claim.owner.clone()));
                self.acquired(life, None, not_known(LINGERS + 10_000));
            }
            Next::Decline => {
                let stubs = process.claims.decline(&claim.owner, round, now);
                self.give_back(life, stubs, is_faulty);
                self.said(life, Acquired::Queued(holder));
            }
            Next::Wait => self.said(life, Acquired::Queued(holder)),
            Next::GiveWay => {
                self.splits += 1;
                self.stand_back(life, &claim, round, true, is_faulty);
                let pause = self.rng.u64(..20_000);
                self.said(life, Acquired::Queued(Holder::of_ours(duration(pause))));
            }
            Next::Lead => self.engine_later(3_000, life, EngineDue::Again(number)),
            Next::Again => {
                self.stand_back(life, &claim, round, false, is_faulty);
                let pause = self.rng.u64(..12_000);
                self.engine_later(pause, life, EngineDue::Again(number));
            }
        }
        Ok(())
    }

    /// A task has the lock until then, with this token.
    fn holds(
        &mut self,
        life: Life,
        owner: &OwnerToken,
        until: Micros,
        token: u64,
    ) -> Result<(), String> {
        let now = self.now;
        if let Some(held) = self.holder.as_ref().filter(|held| held.until > now) {
            return Err(format!("{owner} holds the lock of {}", held.owner));
        }
        if token <= self.largest {
            return Err(format!("tokens: {token} after {}", self.largest));
        }
        self.largest = token;
        self.grants += 1;
        self.served.insert(life.0);
        self.holder = Some(Held {
            life,
            owner: owner.clone(),
            until,
            token,
        });
        Ok(())
    }

    fn stand_back(
        &mut self,
        life: Life,
        claim: &Claim,
        round: u64,
        votes_only: bool,
        is_faulty: bool,
    ) {
        let now = at(self.now);
        let claims = &self.processes[life.0].claims;
        let (stubs, _) = claims.give_back(&claim.owner, round, votes_only, now);
        self.give_back(life, stubs, is_faulty);
    }

    fn give_back(&mut self, life: Life, stubs: Vec<Stub>, is_faulty: bool) {
        for stub in stubs.into_iter().filter(|stub| !stub.is_blank) {
            self.send_end(stub.node, life, stub.claim, is_faulty);
        }
    }

    fn send_end(&mut self, node: usize, life: Life, claim: Claim, is_faulty: bool) {
        let again = Event::Ended(node, life, claim.clone(), false);
        self.plan(TIMEOUT, again);
        if let Some(way) = self.way(is_faulty) {
            let restarts = self.nodes[node].restarts;
            self.plan(way, Event::Ends(node, restarts, life, claim));
        }
    }

    fn ended(&mut self, node: usize, life: Life, claim: Claim, confirmed: bool, is_faulty: bool) {
        let is_it = |plan: &Event| {
            matches!(plan, Event::Ended(to, of, other, false)
                if *to == node && *of == life && other.owner == claim.owner)
        };
        if confirmed {
            self.plans.retain(|_, plan| !is_it(plan));
            if self.lives(life) {
                self.confirmed(life, node, &claim, is_faulty);
            }
        } else if self.lives(life) {
            self.send_end(node, life, claim, is_faulty);
        }
    }

    fn told(&mut self, node: usize, life: Life, token: &str, is_faulty: bool) {
        if !self.lives(life) {
            return;
        }
        let now = at(self.now);
        match self.processes[life.0].claims.told(node, token, now) {
            VoteNews::More => {}
            VoteNews::Unknown => {
                let claim = Claim::new(key(), OwnerToken::new(token), duration(TTL));
                self.send_end(node, life, claim, is_faulty);
            }
            VoteNews::Waiting { told, owner, round } => {
                if told == majority(NODES) {
                    let due = EngineDue::Told(owner, self.now);
                    self.engine_later(0, life, due);
                } else if told == 1 {
                    let due = EngineDue::Told(owner.clone(), self.now + 5_000);
                    self.engine_later(0, life, due);
                    let unconfirmed = Due::Unconfirmed(owner, round);
                    self.plan(UNCONFIRMED, Event::Due(life, unconfirmed));
                }
            }
        }
    }

    /// What must hold at every step.
    fn look(&mut self, start: Micros) -> Result<(), String> {
        let now = self.now;
        if let Some(held) = &self.holder
            && held.token != self.largest
        {
            return Err(format!("{} was overtaken", held.owner));
        }
        let unwanted = std::mem::take(&mut self.unwanted);
        for (by, owner) in unwanted {
            if by > now {
                self.unwanted.push((by, owner));
                continue;
            }
            // Messages get lost before that.
            let votes = |node: &&Node| {
                let vote = node.vote.as_ref().filter(|(_, until)| *until > now);
                vote.is_some_and(|(token, _)| claimed_by(token) == owner.as_str())
            };
            if by > start + CALM + LINGERS && self.nodes.iter().any(|node| votes(&node)) {
                return Err(format!("{owner} sits on votes"));
            }
        }
        if now > start + CALM && now - 50_000 < start + CALM {
            self.served.clear();
        }
        if now > start + STUCK && self.served.len() < PROCESSES {
            return Err(format!("only {:?} had the lock", self.served));
        }
        Ok(())
    }
}

/// The process that made an owner.
fn life_of(owner: &str) -> Life {
    let mut parts = owner.split('.').skip(1);
    let mut number = || {
        parts
            .next()
            .and_then(|part| part.parse().ok())
            .unwrap_or(0_u32)
    };
    let (process, deaths) = (number(), number());
    Life(process as usize, deaths)
}

#[test]
fn no_history_breaks_a_promise() {
    make(None);
    let (mut grants, mut splits) = (0, 0);
    for seed in 0..40 {
        let (granted, split) = run(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        grants += granted;
        splits += split;
    }
    assert!(
        grants > 2_000 && splits > 100,
        "{grants} grants, {splits} splits"
    );
}

#[test]
fn each_mistake_breaks_a_promise() {
    let mistakes = [
        (Mistake::CountsGivenUpVotes, "holds the lock of"),
        (Mistake::GivesWayWithQuorum, "holds the lock of"),
        (Mistake::NodeReassigns, "holds the lock of"),
        (Mistake::TokenNotStored, "tokens"),
        (Mistake::LeaseFromAnswer, "holds the lock of"),
        (Mistake::SitsOnVotes, "sits on votes"),
        (Mistake::VotesInDelay, "holds the lock of"),
    ];
    let mut unnoticed = Vec::new();
    for (mistake, broken) in mistakes {
        make(Some(mistake));
        let breaks = |seed: &u64| run(*seed).is_err_and(|found| found.contains(broken));
        let found = (0..150).find(breaks);
        make(None);
        println!("{mistake:?}: seed {found:?}");
        if found.is_none() {
            unnoticed.push(mistake);
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
