//! One machine, its questions, and the time.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::{
    Action, Answer, Ask, Event, Granted, Key, Outcome, ReleaseOutcome, Verb, Waiter, WaiterId,
};
use crate::backend_error::BackendError;
use crate::claim::AskNumber;
use crate::claim::{Acquired, Claim, Extension, Grant, Holder, Released, Renewed};
use crate::mode::Kind;
use crate::name::LockKey;
use crate::terms::{Rules, Terms};
use crate::time::Instant;
use crate::token::{FenceBlock, FencingToken, OwnerToken};

pub(super) const TTL: Duration = Duration::from_secs(30);

/// Half of the chances there are.
pub(super) const CHANCE: u32 = u32::MAX / 2;

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One machine under test.
pub(super) struct Bench {
    pub(super) key: Key,
    pub(super) rules: Rules,
    pub(super) now: Instant,
    asks: Vec<(Ask, Instant)>,
    grants: Vec<Granted>,
    waiters: u64,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench {
            key: Key::new(LockKey::new("", "k").expect("a valid key"), 0),
            rules: Rules::default(),
            now: Instant::from_nanos(1_000_000_000_000),
            asks: Vec::new(),
            grants: Vec::new(),
            waiters: 0,
        }
    }

    /// A machine whose only waiter holds the lock, with the tokens from 100 on.
    pub(super) fn held() -> Bench {
        let mut bench = Bench::new();
        bench.joins();
        bench.granted(1, 100);
        bench.takes(1);
        bench
    }

    /// A machine whose only waiter is queued, behind a holder that has all its ttl left.
    pub(super) fn queued() -> Bench {
        let mut bench = Bench::new();
        bench.joins();
        bench.queued_behind(1, Holder::of_ours(TTL));
        bench
    }

    /// A machine that releases its lease, with the claim of a second waiter.
    pub(super) fn releasing() -> Bench {
        let mut bench = Bench::held();
        bench.rules.local_passes = 0;
        bench.joins();
        bench.ends();
        bench
    }

    /// Takes in an event, and tells in words what is to be done.
    pub(super) fn on(&mut self, event: Event<'_>) -> Vec<String> {
        let actions = self.key.on(&self.rules, self.now, event);
        for action in &actions {
            match action {
                Action::Ask(ask) => self.asks.push(((**ask).clone(), self.now)),
                Action::Tell(_, Outcome::Granted(granted)) => self.grants.push(granted.clone()),
                _ => {}
            }
        }
        actions.iter().map(words).collect()
    }

    /// Lets the time pass, and tells it.
    pub(super) fn after(&mut self, pause: Duration) -> Vec<String> {
        self.pass(pause);
        self.on(Event::Time)
    }

    /// Lets the time pass.
    pub(super) fn pass(&mut self, pause: Duration) {
        self.now = self.now + pause;
    }

    /// How long until the machine wants to be told the time.
    pub(super) fn wants_time_in(&self) -> Option<Duration> {
        let at = self.key.wants_time_at(&self.rules);
        at.map(|at| at.since(self.now))
    }

    /// Lets the time pass until the machine wants to be told, and tells it.
    pub(super) fn in_time(&mut self) -> Vec<String> {
        let pause = self.wants_time_in().expect("nothing is to be done");
        self.after(pause)
    }

    /// Whether an owner token is wanted for an exclusive claim, should one join that brings none.
    pub(super) fn wants_owner(&self, joins: bool) -> bool {
        let joined = Event::Joined(Waiter {
            id: WaiterId(0),
            terms: Terms::new(TTL),
            once: false,
            begins: true,
            deadline: self.now,
            owner: None,
        });
        let event = if joins { joined } else { Event::Time };
        self.key.wants_owner(&event) == Some(Kind::Exclusive)
    }

    pub(super) fn waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter {
            id: WaiterId(self.waiters),
            terms: Terms {
                renew: Some(TTL / 3),
                ..Terms::new(TTL)
            },
            once: false,
            begins: true,
            deadline: self.now + ms(5_000),
            owner: Some(OwnerToken::new(format!("w{}", self.waiters))),
        }
    }

    /// One who waits joins.
    pub(super) fn joins(&mut self) -> Vec<String> {
        let waiter = self.waiter();
        self.on(Event::Joined(waiter))
    }

    /// One joins who does not wait.
    pub(super) fn tries(&mut self) -> Vec<String> {
        let waiter = Waiter {
            once: true,
            ..self.waiter()
        };
        self.on(Event::Joined(waiter))
    }

    /// One who waits joins with these terms.
    pub(super) fn joins_with(&mut self, terms: Terms) -> Vec<String> {
        let waiter = Waiter {
            terms,
            ..self.waiter()
        };
        self.on(Event::Joined(waiter))
    }

    pub(super) fn leaves(&mut self, id: u64) -> Vec<String> {
        self.on(Event::Left(WaiterId(id)))
    }

    pub(super) fn gives_up(&mut self, id: u64) -> Vec<String> {
        self.on(Event::GaveUp(WaiterId(id)))
    }

    pub(super) fn takes(&mut self, id: u64) -> Vec<String> {
        self.on(Event::Took(WaiterId(id)))
    }

    /// The grant that was told last.
    pub(super) fn last_grant(&self) -> Granted {
        self.grants.last().expect("nothing was granted").clone()
    }

    /// The holder that was told last ends its hold.
    pub(super) fn ends(&mut self) -> Vec<String> {
        let Granted { lease, token, .. } = self.last_grant();
        self.on(Event::Ended(lease, token))
    }

    /// Whether the holder that was told last may rely on its lease.
    pub(super) fn is_held(&self) -> bool {
        let Granted { lease, token, .. } = self.last_grant();
        self.key.is_held_by(lease, token, self.now)
    }

    /// The question with this number, and when it was asked.
    pub(super) fn question(&self, number: AskNumber) -> (Ask, Instant) {
        let found = self.asks.iter().find(|(ask, _)| ask.number == number);
        found.expect("it was not asked").clone()
    }

    /// The claim that was asked for with this number.
    pub(super) fn claim(&self, number: AskNumber) -> Claim {
        match self.question(number).0.verb {
            Verb::Acquire(claim) | Verb::Abandon(claim) => claim,
            Verb::Release(release) => release.next.expect("no claim was with it"),
        }
    }

    pub(super) fn answered(&mut self, number: AskNumber, answer: Answer) -> Vec<String> {
        let (ask, sent_at) = self.question(number);
        self.on(Event::Answered {
            ask: &ask,
            sent_at,
            answer,
            chance: CHANCE,
        })
    }

    /// The store grants what was asked, whole, with tokens from `first` on.
    pub(super) fn granted(&mut self, number: AskNumber, first: u64) -> Vec<String> {
        let grant = grant(&self.claim(number), first);
        self.answered(number, Answer::Acquired(Acquired::Granted(grant)))
    }

    pub(super) fn queued_behind(&mut self, number: AskNumber, holder: Holder) -> Vec<String> {
        self.answered(number, Answer::Acquired(Acquired::Queued(holder)))
    }

    pub(super) fn taken(&mut self, number: AskNumber) -> Vec<String> {
        let holder = Holder::of_ours(TTL);
        self.answered(number, Answer::Acquired(Acquired::Taken(holder)))
    }

    /// The store does not answer, and may be asked again after a tenth of a second.
    pub(super) fn not_known(&mut self, number: AskNumber) -> Vec<String> {
        self.answered(number, not_known())
    }

    /// The store refuses for good.
    pub(super) fn refused(&mut self, number: AskNumber) -> Vec<String> {
        let error = Arc::new(BackendError::denied("no"));
        self.answered(number, Answer::NotKnown(error, None))
    }

    pub(super) fn released(&mut self, number: AskNumber, next: Option<Acquired>) -> Vec<String> {
        self.answered(number, Answer::Released(Released::Released(next)))
    }

    /// The renewal that is under way was sent `ago`, and is answered.
    pub(super) fn renewed(&mut self, ago: Duration, answer: Option<Renewed>) -> Vec<String> {
        let lease = self.last_grant().lease;
        let sent_at = self.now - ago;
        self.on(Event::Renewed {
            lease,
            sent_at,
            answer,
            chance: CHANCE,
        })
    }

    /// News that the claim `owner` was handed the lock `ago`, for its grace.
    pub(super) fn handed_over(&mut self, owner: &str, first: u64, ago: Duration) -> Vec<String> {
        let grant = Grant::new(block(first, first + 32), self.rules.grace);
        let since = self.now - ago;
        self.on(Event::HandedOver {
            owner,
            grant,
            since,
        })
    }
}

pub(super) fn not_known() -> Answer {
    let error = Arc::new(BackendError::unavailable("no"));
    Answer::NotKnown(error, Some(ms(100)))
}

pub(super) fn block(first: u64, last: u64) -> FenceBlock {
    FenceBlock {
        first: FencingToken::new(first),
        last: FencingToken::new(last),
    }
}

/// What the store gives for `claim`.
pub(super) fn grant(claim: &Claim, first: u64) -> Grant {
    let tokens = block(first, first + u64::from(claim.tokens) - 1);
    Grant::new(tokens, claim.ttl)
}

/// A renewal for the full ttl, with tokens from `first` on.
pub(super) fn with_tokens(first: u64) -> Option<Renewed> {
    let tokens = block(first, first + 32);
    Some(Renewed::Held(Extension::with_tokens(Some(tokens))))
}

/// An action in words.
fn words(action: &Action) -> String {
    match action {
        Action::Ask(ask) => match &ask.verb {
            Verb::Acquire(claim) => format!("#{} acquire {}", ask.number, of(claim)),
            Verb::Abandon(claim) => format!("#{} abandon {}", ask.number, claim.owner),
            Verb::Release(release) => match &release.next {
                Some(next) => {
                    format!(
                        "#{} release {} then {}",
                        ask.number,
                        release.owner,
                        of(next)
                    )
                }
                None => format!("#{} release {}", ask.number, release.owner),
            },
        },
        Action::Renew(_, renewal, _) if renewal.tokens > 0 => {
            format!("renew {}, {} tokens", renewal.owner, renewal.tokens)
        }
        Action::Renew(_, renewal, _) => format!("renew {}", renewal.owner),
        Action::Tell(WaiterId(id), outcome) => format!("tell {id}: {}", outcome_words(outcome)),
        Action::TakeBack(WaiterId(id), outcome) => {
            format!("take back from {id}: {}", outcome_words(outcome))
        }
        Action::Released(_, ReleaseOutcome::Released) => "released".to_string(),
        Action::Released(_, ReleaseOutcome::Ended(end, held)) => {
            format!("ended: {end:?} after {held:?}")
        }
        Action::Released(_, ReleaseOutcome::Failed(_)) => "release failed".to_string(),
        Action::Changed(_) => "changed".to_string(),
    }
}

fn of(claim: &Claim) -> String {
    let waits = if claim.queue { " (waits)" } else { "" };
    format!("{}{waits}", claim.owner)
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Granted(granted) => format!("granted {}, {}", granted.owner, granted.token),
        Outcome::Taken(Some(left)) => format!("taken for {left:?}"),
        Outcome::Taken(None) => "taken".to_string(),
        Outcome::TimedOut => "timed out".to_string(),
        Outcome::Failed(error) if error.is_denied() => "refused".to_string(),
        Outcome::Failed(_) => "failed".to_string(),
        Outcome::NoAnswer => "no answer".to_string(),
        Outcome::ShutDown => "shut down".to_string(),
    }
}
