//! What stands above the votes: the machine of each process for the lock, and the tasks that want
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lock_protocol::machine::{
    Action, Answer, Ask, Event, Granted, Key, LeaseId, Outcome, Verb, Waiter, WaiterId,
};
use lock_protocol::{
    Acquired, BackendError, Claim, FencingToken, LockKey, OwnerToken, Released, Rules, Terms,
};

use super::{GRACE, HEARTBEAT, Held, Life, Micros, NODES, TIMEOUT, TTL, World, at, duration};
use crate::stores::redlock::claims::Stub;
use crate::stores::redlock::course::Course;
use crate::stores::redlock::tally::majority;

/// How many tasks of a process want the lock.
const TASKS: usize = 2;
/// After how long a question to the nodes is asked again that had no answer.
const PAUSE: Micros = 50_000;

/// What happens to the machine of a process, or to its tasks.
#[derive(Clone, Debug)]
pub(super) enum Due {
    Join,
    GiveUp(WaiterId),
    Take(WaiterId),
    EndHold(LeaseId, FencingToken),
    NotRenewed(LeaseId),
    Time,
    /// A question is answered that was sent then.
    Answer(u64, Micros, Answer),
    /// The next round for a question that is not decided.
    Again(u64),
    /// Withdrawals have not been confirmed by now.
    Unconfirmed(u64),
    Told(OwnerToken, Micros),
}

/// The machine of a process.
pub(super) struct Engine {
    key: Key,
    waiters: u64,
    owners: u64,
    /// The questions that have not been answered.
    asks: BTreeMap<u64, Ask>,
    /// The one for which rounds are made, and since when.
    pub(super) acquiring: Option<(u64, Micros)>,
    endings: Vec<Ending>,
    wakes_at: Micros,
}

/// A question that ends what a claim has at the nodes.
struct Ending {
    number: u64,
    open: Vec<(usize, OwnerToken)>,
    done: usize,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine {
            key: Key::new(key(), 0),
            waiters: 0,
            owners: 0,
            asks: BTreeMap::new(),
            acquiring: None,
            endings: Vec::new(),
            wakes_at: 0,
        }
    }
}

pub(super) fn key() -> LockKey {
    LockKey::new("lock:", "k").unwrap()
}

/// Nothing is known of a question; it is worth asking again after this time.
pub(super) fn not_known(pause: Micros) -> Answer {
    let error = Arc::new(BackendError::unavailable("no majority answered"));
    Answer::NotKnown(error, Some(duration(pause)))
}

impl World {
    /// The tasks of a process begin to want the lock.
    pub(super) fn starts(&mut self, life: Life) {
        for task in 0..TASKS {
            self.engine_later(1_000 * task as Micros, life, Due::Join);
        }
    }

    pub(super) fn engine_later(&mut self, after: Micros, life: Life, due: Due) {
        self.plan(after, super::Event::Engine(life, due));
    }

    /// Something is due for the machine of a process.
    pub(super) fn engine_due(
        &mut self,
        life: Life,
        due: Due,
        is_faulty: bool,
    ) -> Result<(), String> {
        let now = self.now;
        match due {
            Due::Join => {
                let once = !self.is_calm && self.rng.u8(..5) == 0;
                let wait = match self.is_calm {
                    true => 10_000_000,
                    false => self.rng.u64(20_000..2_000_000),
                };
                let engine = &mut self.processes[life.0].engine;
                engine.waiters += 1;
                let id = WaiterId(engine.waiters);
                let waiter = Waiter {
                    id,
                    terms: Terms::new(duration(TTL)),
                    once,
                    begins: true,
                    deadline: at(now + wait),
                    owner: None,
                };
                self.engine_later(wait, life, Due::GiveUp(id));
                self.feed(life, Event::Joined(waiter), is_faulty)
            }
            Due::GiveUp(id) => self.feed(life, Event::GaveUp(id), is_faulty),
            Due::Take(id) => self.feed(life, Event::Took(id), is_faulty),
            Due::EndHold(lease, token) => {
                let is_it = |held: &Held| held.life == life && held.token == token.as_u64();
                if self.holder.as_ref().is_some_and(is_it) {
                    self.holder = None;
                }
                self.feed(life, Event::Ended(lease, token), is_faulty)
            }
            Due::NotRenewed(lease) => {
                let event = Event::Renewed {
                    lease,
                    sent_at: at(now),
                    answer: None,
                    chance: self.rng.u32(..),
                };
                self.feed(life, event, is_faulty)
            }
            Due::Time => self.feed(life, Event::Time, is_faulty),
            Due::Answer(number, sent_at, answer) => {
                let engine = &mut self.processes[life.0].engine;
                let Some(ask) = engine.asks.remove(&number) else {
                    return Ok(());
                };
                let event = Event::Answered {
                    ask: &ask,
                    sent_at: at(sent_at),
                    answer,
                    chance: self.rng.u32(..),
                };
                self.feed(life, event, is_faulty)
            }
            Due::Again(number) => {
                let acquiring = self.processes[life.0].engine.acquiring;
                if acquiring.is_some_and(|(asked, _)| asked == number) {
                    self.ask(life, is_faulty, 0);
                }
                Ok(())
            }
            Due::Unconfirmed(number) => {
                let engine = &mut self.processes[life.0].engine;
                let open = engine.endings.len();
                engine.endings.retain(|ending| ending.number != number);
                if engine.endings.len() < open {
                    self.answer(life, number, now, not_known(PAUSE));
                }
                Ok(())
            }
            Due::Told(owner, when) => self.feed(life, Event::AskAt(&owner, at(when)), is_faulty),
        }
    }

    /// Gives the machine an event, and does what it says.
    fn feed(&mut self, life: Life, event: Event<'_>, is_faulty: bool) -> Result<(), String> {
        let now = self.now;
        let engine = &mut self.processes[life.0].engine;
        while let Some(kind) = engine.key.wants_owner(&event) {
            engine.owners += 1;
            // Whose token is smaller is chance.
            let name = format!("{:016x}.{}.{}", self.rng.u64(..), life.0, life.1);
            engine.key.provide_owner(kind, OwnerToken::new(name));
        }
        let actions = engine.key.on(&rules(), at(now), event);
        for action in actions {
            self.act(life, action, is_faulty)?;
        }
        let engine = &mut self.processes[life.0].engine;
        if let Some(when) = engine.key.wants_time_at(&rules()) {
            let when = super::micros(when).max(now) + 1;
            if engine.wakes_at <= now || when < engine.wakes_at {
                engine.wakes_at = when;
                self.engine_later(when - now, life, Due::Time);
            }
        }
        Ok(())
    }

    fn act(&mut self, life: Life, action: Action, is_faulty: bool) -> Result<(), String> {
        match action {
            Action::Ask(ask) => {
                let (number, verb) = (ask.number, ask.verb.clone());
                self.processes[life.0].engine.asks.insert(number, *ask);
                match verb {
                    Verb::Acquire(claim) => self.acquire(life, number, claim, is_faulty),
                    Verb::Release(release) => {
                        let plain = Claim::new(release.key, release.owner, duration(TTL));
                        self.end(life, number, &plain, is_faulty);
                    }
                    Verb::Abandon(claim) => self.end(life, number, &claim, is_faulty),
                }
            }
            Action::Renew(lease, ..) => self.engine_later(1_000, life, Due::NotRenewed(lease)),
            Action::Tell(id, Outcome::Granted(granted)) => self.told_granted(life, id, &granted)?,
            Action::Tell(..) | Action::TakeBack(..) | Action::Released(..) => {
                let pause = self.rng.u64(..5_000);
                self.engine_later(pause, life, Due::Join);
            }
            Action::Changed(_) => {}
        }
        Ok(())
    }

    /// A task has the lock: nobody else may.
    fn told_granted(&mut self, life: Life, id: WaiterId, granted: &Granted) -> Result<(), String> {
        let now = self.now;
        let key = &self.processes[life.0].engine.key;
        let left = key.remaining(granted.lease, granted.token, at(now));
        let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        self.holds(life, &granted.owner, now + left, granted.token.as_u64())?;
        // Some hold it for as long as they may.
        let longest = left.saturating_sub(1);
        let hold = match self.rng.u8(..4) {
            0 if !self.is_calm => longest,
            _ => self.rng.u64(1_000..60_000).min(longest),
        };
        self.engine_later(0, life, Due::Take(id));
        self.engine_later(hold, life, Due::EndHold(granted.lease, granted.token));
        Ok(())
    }

    /// Begins to ask the nodes for `claim`. A question that is under way for one counts no more.
    fn acquire(&mut self, life: Life, number: u64, claim: Claim, is_faulty: bool) {
        let now = self.now;
        self.overtake(life);
        let process = &mut self.processes[life.0];
        process.engine.acquiring = Some((number, now));
        process.course = Course::default();
        process.claim = Some(claim);
        self.ask(life, is_faulty, 0);
    }

    fn overtake(&mut self, life: Life) {
        let process = &mut self.processes[life.0];
        process.asking = None;
        process.claim = None;
        if let Some((older, since)) = process.engine.acquiring.take() {
            self.answer(life, older, since, not_known(PAUSE));
        }
    }

    /// The rounds for a claim have come to this.
    pub(super) fn acquired(&mut self, life: Life, sent_at: Option<Micros>, answer: Answer) {
        let process = &mut self.processes[life.0];
        process.claim = None;
        let Some((number, since)) = process.engine.acquiring.take() else {
            return;
        };
        let ask = process.engine.asks.get(&number);
        let is_release = ask.is_some_and(|ask| matches!(ask.verb, Verb::Release(_)));
        let answer = match answer {
            Answer::Acquired(acquired) if is_release => {
                Answer::Released(Released::Released(Some(acquired)))
            }
            answer => answer,
        };
        self.answer(life, number, sent_at.unwrap_or(since), answer);
    }

    /// The rounds have come to an answer of the store.
    pub(super) fn said(&mut self, life: Life, acquired: Acquired) {
        self.acquired(life, None, Answer::Acquired(acquired));
    }

    fn answer(&mut self, life: Life, number: u64, sent_at: Micros, answer: Answer) {
        self.engine_later(0, life, Due::Answer(number, sent_at, answer));
    }

    /// Ends what a claim has at all nodes, which is answered when a majority has confirmed it.
    fn end(&mut self, life: Life, number: u64, claim: &Claim, is_faulty: bool) {
        let process = &mut self.processes[life.0];
        let is_it = |known: &Claim| known.owner == claim.owner;
        if process.claim.as_ref().is_some_and(is_it) {
            self.overtake(life);
        }
        let stubs = self.processes[life.0].claims.end(&claim.owner);
        let unknown = |node| Stub {
            node,
            claim: claim.clone(),
            voted: true,
            is_blank: false,
        };
        let mut stubs = stubs.unwrap_or_else(|| (0..NODES).map(unknown).collect());
        for stub in &mut stubs {
            stub.claim.in_doubt |= claim.in_doubt;
            stub.is_blank &= !claim.in_doubt;
        }
        let done = stubs.iter().filter(|stub| stub.is_blank).count();
        stubs.retain(|stub| !stub.is_blank);
        let open = stubs
            .iter()
            .map(|stub| (stub.node, stub.claim.owner.clone()));
        let ending = Ending {
            number,
            open: open.collect(),
            done,
        };
        self.processes[life.0].engine.endings.push(ending);
        self.engine_later(3 * TIMEOUT, life, Due::Unconfirmed(number));
        self.give_back(life, stubs, is_faulty);
        self.finish_endings(life, is_faulty);
    }

    /// A node has confirmed a withdrawal.
    pub(super) fn confirmed(&mut self, life: Life, node: usize, claim: &Claim, is_faulty: bool) {
        for ending in &mut self.processes[life.0].engine.endings {
            let open = ending.open.len();
            let is_it = |it: &(usize, OwnerToken)| it.0 == node && it.1 == claim.owner;
            ending.open.retain(|it| !is_it(it));
            ending.done += open - ending.open.len();
        }
        self.finish_endings(life, is_faulty);
    }

    fn finish_endings(&mut self, life: Life, is_faulty: bool) {
        let now = self.now;
        let endings = &mut self.processes[life.0].engine.endings;
        let (ended, open): (Vec<_>, Vec<_>) = std::mem::take(endings)
            .into_iter()
            .partition(|ending| ending.done >= majority(NODES));
        *endings = open;
        for Ending { number, .. } in ended {
            let ask = self.processes[life.0].engine.asks.get(&number);
            match ask.map(|ask| ask.verb.clone()) {
                Some(Verb::Release(release)) => match release.next {
                    Some(next) => self.acquire(life, number, next, is_faulty),
                    None => {
                        let released = Answer::Released(Released::Released(None));
                        self.answer(life, number, now, released);
                    }
                },
                _ => self.answer(life, number, now, Answer::Abandoned),
            }
        }
    }
}

fn rules() -> Rules {
    let mut rules = Rules::default();
    rules.command_timeout = duration(3 * TIMEOUT);
    rules.grace = duration(GRACE);
    rules.heartbeat = duration(HEARTBEAT);
    rules.local_passes = 4;
    rules
}
