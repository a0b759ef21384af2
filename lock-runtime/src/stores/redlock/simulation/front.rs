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
pub(super) struct Front {
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

impl Default for Front {
    fn default() -> Front {
        Front {
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

fn rules() -> Rules {
    let mut rules = Rules::default();
    rules.command_timeout = duration(3 * TIMEOUT);
    rules.grace = duration(GRACE);
    rules.heartbeat = duration(HEARTBEAT);
    rules.local_passes = 4;
    rules
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
            self.front_later(1_000 * task as Micros, life, Due::Join);
        }
    }

    pub(super) fn front_later(&mut self, after: Micros, life: Life, due: Due) {
        self.plan(after, super::Event::Front(life, due));
    }

    /// Something is due for the machine of a process.
    pub(super) fn front_due(
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
                let front = &mut self.processes[life.0].front;
                front.waiters += 1;
                let id = WaiterId(front.waiters);
                let waiter = Waiter {
                    id,
                    terms: Terms::new(duration(TTL)),
                    once,
                    begins: true,
                    deadline: at(now + wait),
                    owner: None,
                };
                self.front_later(wait, life, Due::GiveUp(id));
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
                let front = &mut self.processes[life.0].front;
                let Some(ask) = front.asks.remove(&number) else {
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
                let acquiring = self.processes[life.0].front.acquiring;
                if acquiring.is_some_and(|(asked, _)| asked == number) {
                    self.ask(life, is_faulty, 0);
                }
                Ok(())
            }
            Due::Unconfirmed(number) => {
                let front = &mut self.processes[life.0].front;
                let open = front.endings.len();
                front.endings.retain(|ending| ending.number != number);
                if front.endings.len() < open {
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
        let front = &mut self.processes[life.0].front;
        while let Some(kind) = front.key.wants_owner(&event) {
            front.owners += 1;
            // Whose token is smaller is chance.
            let name = format!("{:016x}.{}.{}", self.rng.u64(..), life.0, life.1);
            front.key.provide_owner(kind, OwnerToken::new(name));
        }
        let actions = front.key.on(&rules(), at(now), event);
        for action in actions {
            self.act(life, action, is_faulty)?;
        }
        let front = &mut self.processes[life.0].front;
        if let Some(when) = front.key.wants_time_at(&rules()) {
            let when = super::micros(when).max(now) + 1;
            if front.wakes_at <= now || when < front.wakes_at {
                front.wakes_at = when;
                self.front_later(when - now, life, Due::Time);
            }
        }
        Ok(())
    }

    fn act(&mut self, life: Life, action: Action, is_faulty: bool) -> Result<(), String> {
        match action {
            Action::Ask(ask) => {
                let (number, verb) = (ask.number, ask.verb.clone());
                self.processes[life.0].front.asks.insert(number, *ask);
                match verb {
                    Verb::Acquire(claim) => self.acquire(life, number, claim, is_faulty),
                    Verb::Release(release) => {
                        let plain = Claim::new(release.key, release.owner, duration(TTL));
                        self.end(life, number, &plain, is_faulty);
                    }
                    Verb::Abandon(claim) => self.end(life, number, &claim, is_faulty),
                }
            }
            Action::Renew(lease, ..) => self.front_later(1_000, life, Due::NotRenewed(lease)),
            Action::Tell(id, Outcome::Granted(granted)) => self.told_granted(life, id, &granted)?,
            Action::Tell(..) | Action::TakeBack(..) | Action::Released(..) => {
                let pause = self.rng.u64(..5_000);
                self.front_later(pause, life, Due::Join);
            }
            Action::Changed(_) => {}
        }
        Ok(())
    }

    /// A task has the lock: nobody else may.
    fn told_granted(&mut self, life: Life, id: WaiterId, granted: &Granted) -> Result<(), String> {
        let now = self.now;
        let key = &self.processes[life.0].front.key;
        let left = key.remaining(granted.lease, granted.token, at(now));
        let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        self.holds(life, &granted.owner, now + left, granted.token.as_u64())?;
        // Some hold it for as long as they may.
        let longest = left.saturating_sub(1);
        let hold = match self.rng.u8(..4) {
            0 if !self.is_calm => longest,
            _ => self.rng.u64(1_000..60_000).min(longest),
        };
        self.front_later(0, life, Due::Take(id));
        self.front_later(hold, life, Due::EndHold(granted.lease, granted.token));
        Ok(())
    }

    /// Begins to ask the nodes for `claim`. A question that is under way for one counts no more.
    fn acquire(&mut self, life: Life, number: u64, claim: Claim, is_faulty: bool) {
        let now = self.now;
        self.overtake(life);
        let process = &mut self.processes[life.0];
        process.front.acquiring = Some((number, now));
        process.course = Course::default();
        process.claim = Some(claim);
        self.ask(life, is_faulty, 0);
    }

    fn overtake(&mut self, life: Life) {
        let process = &mut self.processes[life.0];
        process.asking = None;
        process.claim = None;
        if let Some((older, since)) = process.front.acquiring.take() {
            self.answer(life, older, since, not_known(PAUSE));
        }
    }

    /// The rounds for a claim have come to this.
    pub(super) fn acquired(&mut self, life: Life, sent_at: Option<Micros>, answer: Answer) {
        let process = &mut self.processes[life.0];
        process.claim = None;
        let Some((number, since)) = process.front.acquiring.take() else {
            return;
        };
        let ask = process.front.asks.get(&number);
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
        self.front_later(0, life, Due::Answer(number, sent_at, answer));
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
        self.processes[life.0].front.endings.push(ending);
        self.front_later(3 * TIMEOUT, life, Due::Unconfirmed(number));
        self.give_back(life, stubs, is_faulty);
        self.finish_endings(life, is_faulty);
    }

    /// A node has confirmed a withdrawal.
    pub(super) fn confirmed(&mut self, life: Life, node: usize, claim: &Claim, is_faulty: bool) {
        for ending in &mut self.processes[life.0].front.endings {
            let open = ending.open.len();
            let is_it = |it: &(usize, OwnerToken)| it.0 == node && it.1 == claim.owner;
            ending.open.retain(|it| !is_it(it));
            ending.done += open - ending.open.len();
        }
        self.finish_endings(life, is_faulty);
    }

    fn finish_endings(&mut self, life: Life, is_faulty: bool) {
        let now = self.now;
        let endings = &mut self.processes[life.0].front.endings;
        let (ended, open): (Vec<_>, Vec<_>) = std::mem::take(endings)
            .into_iter()
            .partition(|ending| ending.done >= majority(NODES));
        *endings = open;
        for Ending { number, .. } in ended {
            let ask = self.processes[life.0].front.asks.get(&number);
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
