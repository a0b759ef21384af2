//! Tells what happens to a key: one look at each event, and at what came of it.
//!
//! Nothing is decided by it. What is told is put into the effects, and told when no mutex is held.
//! Of a lock that is just held nothing is kept here but what it is called: the machine knows the
//! rest.

use std::sync::Arc;
use std::time::Duration;

use lock_protocol::machine::{
    self, Action, Answer, End, Event, Holding, LeaseId, Outcome, ReleaseOutcome, WaiterId,
};
use lock_protocol::{
    Acquired, BackendError, FencingToken, Holder, Instant, Kind, LostReason, Process, Released,
    Renewed,
};
use smallvec::SmallVec;

use super::effects::Effects;
use crate::observe::{LockEvent, LockRef, NAMELESS, Refusal, RenewalFailures, Via};

/// How many kinds of leases there are.
const KINDS: usize = 4;

/// Who comes to hold a key here or gives it up, and how far its claim is in the store.
#[derive(Default)]
pub(super) struct Watch {
    /// Without one that has been taken and is just held.
    holds: SmallVec<[Held; 1]>,
    /// Of the claims of each kind.
    queues: [Queue; KINDS],
    /// Which process has the lock, if the store last told that another does.
    pub(super) holder: Option<Process>,
}

/// A hold of a lease: from when its holder is told until it is seen, and from its end until it is
/// clear what became of that; also while its renewal fails.
struct Held {
    lease: LeaseId,
    token: FencingToken,
    asker: Asker,
    since: Instant,
    via: Via,
    /// Which process had the lock before, if it was another and that is known.
    previous: Option<Process>,
    /// The waiter that has been told and not been seen since.
    untaken: Option<WaiterId>,
    failures: Option<Arc<RenewalFailures>>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Held,
    /// It was told that the lease ended against the will of its holder.
    Ended,
    /// The holder gave it up at that instant; and whether it does not wait for the outcome.
    Left(Instant, bool),
}

/// Whether the store has queued the claim that is pursued.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Queue {
    #[default]
    Out,
    In,
    /// It was handed the lock, which is still to be confirmed.
    Handed,
}

/// Who wants a lock.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    /// What the lock is called.
    pub(super) name: &'static str,
    pub(super) joined_at: Instant,
    /// Whether it tries several locks at once: if it does not get them, it asks again.
    pub(super) tries: bool,
}

/// What happened, as far as it is told.
pub(super) enum Happened {
    Joined(WaiterId),
    Left(WaiterId),
    Took(WaiterId),
    Began(LeaseId, FencingToken),
    Ended(LeaseId, FencingToken),
    Granted(Kind),
    GrantedWithRelease(Kind),
    Queued(Kind, Holder),
    Taken(Option<Process>),
    HandedOver(Kind),
    /// With what was left of the lease.
    Renewed(LeaseId, Duration),
    NotRenewed(LeaseId),
    Other,
}

/// The place where it is told.
pub(super) struct Telling<'a> {
    now: Instant,
    machine: &'a machine::Key,
    /// `None` where nobody listens.
    seen: Option<&'a mut SmallVec<[LockEvent; 1]>>,
}

impl<'a> Telling<'a> {
    pub(super) fn new(
        now: Instant,
        machine: &'a machine::Key,
        effects: &'a mut Effects,
    ) -> Telling<'a> {
        Telling {
            now,
            machine,
            seen: effects.is_watched.then_some(&mut effects.seen),
        }
    }

    fn tell(&mut self, event: impl FnOnce(LockRef) -> LockEvent, name: &'static str) {
        if let Some(seen) = &mut self.seen {
            let key = self.machine.key().clone();
            seen.push(event(LockRef { name, key }));
        }
    }

    pub(super) fn asked(&mut self, asker: Asker) {
        self.tell(|lock| LockEvent::Asked { lock }, asker.name);
    }

    pub(super) fn refused(&mut self, asker: Asker, refusal: Refusal) {
        if asker.tries {
            return;
        }
        let waited = self.now.since(asker.joined_at);
        let refused = |lock| LockEvent::Refused {
            lock,
            waited,
            refusal,
        };
        self.tell(refused, asker.name);
    }
}

impl Happened {
    /// Of which kind the claim is that was granted.
    fn kind(&self) -> Option<Kind> {
        match self {
            Happened::Granted(kind)
            | Happened::GrantedWithRelease(kind)
            | Happened::HandedOver(kind) => Some(*kind),
            _ => None,
        }
    }

    pub(super) fn of(event: &Event<'_>, machine: &machine::Key, now: Instant) -> Happened {
        match event {
            Event::Joined(waiter) => Happened::Joined(waiter.id),
            Event::Left(id) => Happened::Left(*id),
            Event::Took(id) => Happened::Took(*id),
            Event::Began(lease, token) => Happened::Began(*lease, *token),
            Event::Ended(lease, token) => Happened::Ended(*lease, *token),
            Event::HandedOver { owner, .. } => machine
                .pursues(owner)
                .map_or(Happened::Other, Happened::HandedOver),
            Event::Renewed { lease, answer, .. } => match answer {
                Some(Renewed::Held(_)) => {
                    let held = machine.holding(*lease, now);
                    let left = held.map(|held| machine.remaining(*lease, held.token, now));
                    Happened::Renewed(*lease, left.unwrap_or_default())
                }
                Some(_) => Happened::Other,
                None => Happened::NotRenewed(*lease),
            },
            Event::Answered { ask, answer, .. } => match answer {
                Answer::Acquired(Acquired::Granted(_)) => Happened::Granted(ask.verb.kind()),
                Answer::Released(Released::Released(Some(Acquired::Granted(_)))) => {
                    Happened::GrantedWithRelease(ask.verb.kind())
                }
                Answer::Acquired(Acquired::Queued(holder))
                | Answer::Released(Released::Released(Some(Acquired::Queued(holder)))) => {
                    Happened::Queued(ask.verb.kind(), holder.clone())
                }
                Answer::Acquired(Acquired::Taken(holder))
                | Answer::Released(Released::Released(Some(Acquired::Taken(holder)))) => {
                    Happened::Taken(holder.process)
                }
                _ => Happened::Other,
            },
            _ => Happened::Other,
        }
    }
}

impl Watch {
    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.queues == [Queue::Out; KINDS] && self.holder.is_none()
    }

    /// Remembers holds that are just held, of a lock that is called `name`, so that at least so
    /// `many` are known of those that share the lease.
    pub(super) fn recall(&mut self, hold: &Holding, many: u32, name: &'static str) {
        let held = self.holds.iter().filter(|held| held.is_of(hold));
        let known = match many {
            1 => held.filter(|held| held.untaken.is_none()).count(),
            _ => held.count(),
        };
        for _ in known..many as usize {
            self.holds.push(Held {
                lease: hold.lease,
                token: hold.token,
                asker: Asker {
                    name,
                    joined_at: hold.since,
                    tries: false,
                },
                since: hold.since,
                via: Via::Local,
                previous: None,
                untaken: None,
                failures: None,
                stage: Stage::Held,
            });
        }
    }

    /// Takes in what happened, before what came of it: who is the `first` in line, whether a hold
    /// that is given up was `dropped`, and the `error` of a renewal that failed.
    pub(super) fn happened(
        &mut self,
        happened: &Happened,
        first: Option<Asker>,
        dropped: bool,
        error: Option<Arc<BackendError>>,
        telling: &mut Telling<'_>,
    ) {
        match happened {
            Happened::Left(id) => {
                if let Some(held) = self.take_untaken(*id) {
                    telling.refused(held.asker, Refusal::Cancelled);
                }
            }
            Happened::Took(id) => self.took(*id, telling),
            Happened::Began(lease, token) => {
                // If it is not known, the machine knows.
                if let Some(held) = self.held(*lease, *token) {
                    held.since = telling.now;
                }
            }
            Happened::Ended(lease, token) => {
                let now = telling.now;
                if let Some(held) = self.held(*lease, *token)
                    && held.stage == Stage::Held
                {
                    held.stage = Stage::Left(now, dropped);
                }
            }
            Happened::Taken(process) => self.holder = *process,
            Happened::Queued(kind, holder) => {
                self.holder = holder.process;
                let queue = &mut self.queues[*kind as usize];
                if *queue != Queue::Out {
                    return;
                }
                *queue = Queue::In;
                let remaining = holder.remaining;
                // One claim is queued for all who wait.
                let name = first.map_or(NAMELESS, |first| first.name);
                telling.tell(|lock| LockEvent::Queued { lock, remaining }, name);
            }
            Happened::Renewed(lease, margin) => {
                let mut holds = self.holds.iter_mut().filter(|held| held.is(*lease));
                // It is told once, whoever share the lease.
                if let Some(held) = holds.next() {
                    let (margin, after) = (*margin, held.failures.take());
                    holds.for_each(|other| other.failures = None);
                    let renewed = |lock| LockEvent::Renewed {
                        lock,
                        margin,
                        after,
                    };
                    telling.tell(renewed, held.asker.name);
                }
            }
            Happened::NotRenewed(lease) => {
                let mut holds = self.holds.iter_mut().filter(|held| held.is(*lease));
                if let Some(held) = holds.next()
                    && let Some(last) = error
                {
                    let times = held.failures.as_ref().map_or(0, |failures| failures.times) + 1;
                    let cause = Arc::new(RenewalFailures { times, last });
                    held.failures = Some(cause.clone());
                    holds.for_each(|other| other.failures = Some(cause.clone()));
                    let left = telling.machine.remaining(*lease, held.token, telling.now);
                    let failed = |lock| LockEvent::RenewalFailed { lock, left, cause };
                    telling.tell(failed, held.asker.name);
                }
            }
            _ => {}
        }
    }

    /// Takes in what came of it; of what a waiter is told, with who that is. What it returns
    /// belongs to the end of a lease.
    pub(super) fn acted(
        &mut self,
        happened: &Happened,
        action: &Action,
        asker: Option<Asker>,
        telling: &mut Telling<'_>,
    ) -> Option<Arc<RenewalFailures>> {
        match action {
            Action::Tell(id, Outcome::Granted(granted)) => {
                let asker = asker?;
                self.holds.push(Held {
                    lease: granted.lease,
                    token: granted.token,
                    asker,
                    since: granted.since,
                    via: self.via(happened),
                    previous: self.holder,
                    untaken: Some(*id),
                    failures: None,
                    stage: Stage::Held,
                });
                if let Some(kind) = happened.kind() {
                    self.queues[kind as usize] = Queue::Out;
                }
                self.holder = None;
            }
            Action::Tell(_, outcome) => {
                if let (Some(asker), Some(refusal)) = (asker, refusal(outcome)) {
                    telling.refused(asker, refusal);
                }
            }
            Action::TakeBack(id, outcome) => {
                if let (Some(held), Some(refusal)) = (self.take_untaken(*id), refusal(outcome)) {
                    telling.refused(held.asker, refusal);
                }
            }
            Action::Changed(lease) => {
                // Who has not taken it yet is told before of how it ended, if it does.
                let holds = self.holds.iter_mut();
                for held in holds.filter(|held| held.is(*lease) && held.untaken.is_none()) {
                    let fault = telling.machine.fault(*lease, held.token, telling.now);
                    if let Some((end, time)) = fault {
                        held.ended(end, time, telling);
                    }
                }
            }
            Action::Released(lease, outcome) => return self.released(*lease, outcome, telling),
            Action::Ask(_) | Action::Renew(..) => {}
        }
        None
    }

    /// Takes in that this is all. What the lock is called of which nothing more is to be
    /// remembered, if there is one.
    pub(super) fn settled(
        &mut self,
        happened: &Happened,
        machine: &machine::Key,
    ) -> Option<&'static str> {
        if self.queues != [Queue::Out; KINDS] {
            for kind in [Kind::Exclusive, Kind::Shared, Kind::Permits, Kind::Shard] {
                let queue = &mut self.queues[kind as usize];
                if !machine.is_pursued(kind) {
                    *queue = Queue::Out;
                } else if matches!(happened, Happened::HandedOver(of) if *of == kind) {
                    *queue = Queue::Handed;
                }
            }
        }
        let mut name = None;
        while let Some(index) = self.holds.iter().position(Held::is_at_rest) {
            name = Some(self.holds.remove(index).asker.name);
        }
        name
    }

    fn took(&mut self, id: WaiterId, telling: &mut Telling<'_>) {
        let mut holds = self.holds.iter_mut();
        let Some(held) = holds.find(|held| held.untaken == Some(id)) else {
            return;
        };
        held.untaken = None;
        let Held {
            asker,
            token,
            via,
            previous,
            ..
        } = *held;
        if asker.tries {
            telling.asked(asker);
        }
        let waited = telling.now.since(asker.joined_at);
        let machine = telling.machine;
        let acquired = |lock| LockEvent::Acquired {
            lock,
            waited,
            via,
            fencing_token: token,
            // It is a call of the system to know which this one is.
            previous: match via {
                Via::Local => Some(Process::current()),
                _ => previous,
            },
            waiting: machine.look().waiting,
        };
        telling.tell(acquired, asker.name);
    }

    /// Takes in how the hold ended that its holder gave up. Of a lease that ran out, why it was not
    /// renewed.
    fn released(
        &mut self,
        lease: LeaseId,
        outcome: &ReleaseOutcome,
        telling: &mut Telling<'_>,
    ) -> Option<Arc<RenewalFailures>> {
        let mut holds = self.holds.iter();
        // Of those who share a lease, it is one that gave it up.
        let left = |held: &Held| held.lease == lease && matches!(held.stage, Stage::Left(..));
        // The one that ended comes before whoever it was passed on to.
        let index = holds
            .position(left)
            .or_else(|| self.holds.iter().position(|held| held.lease == lease))?;
        let Stage::Left(at, dropped) = self.holds[index].stage else {
            if matches!(outcome, ReleaseOutcome::Ended(..)) {
                return self.holds.remove(index).failures;
            }
            return None;
        };
        let mut held = self.holds.remove(index);
        let unconfirmed = match outcome {
            ReleaseOutcome::Released => None,
            ReleaseOutcome::Failed(error) => Some(error.clone()),
            ReleaseOutcome::Ended(end, time) => {
                held.ended(*end, *time, telling);
                return held.failures;
            }
        };
        let (token, time) = (held.token, at.since(held.since));
        let released = |lock| LockEvent::Released {
            lock,
            fencing_token: token,
            held: time,
            dropped,
            unconfirmed,
        };
        telling.tell(released, held.asker.name);
        None
    }

    fn via(&self, happened: &Happened) -> Via {
        match happened {
            Happened::HandedOver(_) => Via::HandedOver,
            Happened::Granted(kind) => match self.queues[*kind as usize] {
                Queue::Handed => Via::HandedOver,
                Queue::In => Via::AfterExpiry,
                Queue::Out => Via::Free,
            },
            _ => Via::Local,
        }
    }

    /// What the lock is called that is held, if that is remembered.
    pub(super) fn held_name(&self) -> Option<&'static str> {
        let mut holds = self.holds.iter();
        let held = holds.find(|held| held.stage == Stage::Held)?;
        Some(held.asker.name)
    }

    /// Why the lease of this holder was not renewed of late.
    pub(super) fn failures(
        &self,
        lease: LeaseId,
        token: FencingToken,
    ) -> Option<Arc<RenewalFailures>> {
        let mut holds = self.holds.iter();
        let held = holds.find(|held| held.lease == lease && held.token == token)?;
        held.failures.clone()
    }

    fn held(&mut self, lease: LeaseId, token: FencingToken) -> Option<&mut Held> {
        // Those who share a lease are alike; one that gave it up does not do so again, and one that
        // has not taken it yet does so last.
        let left = |held: &Held| matches!(held.stage, Stage::Left(..));
        let is_it = |held: &Held| held.lease == lease && held.token == token && !left(held);
        let taken = |held: &Held| is_it(held) && held.untaken.is_none();
        let index = self.holds.iter().position(taken);
        let index = index.or_else(|| self.holds.iter().position(is_it))?;
        self.holds.get_mut(index)
    }

    fn take_untaken(&mut self, id: WaiterId) -> Option<Held> {
        let mut holds = self.holds.iter();
        let index = holds.position(|held| held.untaken == Some(id))?;
        Some(self.holds.remove(index))
    }
}

impl Held {
    /// Whether it is the present hold of the lease.
    fn is(&self, lease: LeaseId) -> bool {
        self.lease == lease && self.stage == Stage::Held
    }

    /// Whether it is a hold of this lease that has not been given up.
    fn is_of(&self, hold: &Holding) -> bool {
        let left = matches!(self.stage, Stage::Left(..));
        self.lease == hold.lease && self.token == hold.token && !left
    }

    /// Whether it has been taken and is just held.
    fn is_at_rest(&self) -> bool {
        self.stage == Stage::Held && self.untaken.is_none() && self.failures.is_none()
    }

    /// It ended against the will of its holder, after so long.
    fn ended(&mut self, end: End, time: Duration, telling: &mut Telling<'_>) {
        self.stage = Stage::Ended;
        let token = self.token;
        match end {
            End::MaxHold(limit) => {
                let ended = |lock| LockEvent::MaxHold {
                    lock,
                    fencing_token: token,
                    limit,
                };
                telling.tell(ended, self.asker.name);
            }
            End::Lost(reason) => {
                if reason != LostReason::Expired {
                    self.failures = None;
                }
                let cause = self.failures.clone();
                let lost = |lock| LockEvent::Lost {
                    lock,
                    fencing_token: token,
                    held: time,
                    reason,
                    cause,
                };
                telling.tell(lost, self.asker.name);
            }
        }
    }
}

/// Why a waiter did not get the lock that was told this.
fn refusal(outcome: &Outcome) -> Option<Refusal> {
    Some(match outcome {
        Outcome::Granted(_) => return None,
        Outcome::Taken(_) => Refusal::Taken,
        Outcome::TimedOut => Refusal::Timeout,
        Outcome::Failed(error) if error.is_denied() => Refusal::Denied(error.clone()),
        Outcome::Failed(error) => Refusal::Unavailable(Some(error.clone())),
        Outcome::NoAnswer => Refusal::Unavailable(None),
        Outcome::ShutDown => Refusal::ShutDown,
    })
}
