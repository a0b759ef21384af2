//! What one process does about one key, as a state machine.
//!
//! There is no I/O, task, clock or randomness in here, and no function of a user is called. Events
//! come in with the time, actions come out, and [`Key::wants_time_at`] says when the machine next
//! wants [`Event::Time`]. Whoever owns a [`Key`] calls, in this order:
//!
//! 1. [`Key::on`], with what happened; the instants of successive calls never decrease;
//! 2. performs the actions that it returns;
//! 3. [`Key::wants_time_at`], and comes back by then with [`Event::Time`].
//!
//! # States
//!
//! All tasks of a process that want one key stand in one line, and at most one claim of theirs is
//! in the store: the *pursuit*. A claim that is granted becomes a *lease*, which is passed on to
//! the next in line, or released together with the next claim.
//!
//! A claim is in *doubt* if a question of it was not answered, and so may still be on its way: when
//! it is over, it is withdrawn in any case, and the store remembers that.
//!
//! ```text
//!                  Joined             Queued                    HandedOver
//!        nothing ────────▶ asking ─────────────▶ queued ───────────────────────┐
//!           ▲               │ ▲ ▲ ────────────── AskAt, AskAll, Time ◀──┘      │
//!           │        failed │ │ │ Time                                         ▼
//!           │               ▼ │ │                              Granted ─────▶ held ◀─┐
//!           │             pausing                                               │    │ passed on
//!           │                                                             Ended │────┘
//!           │  last waiter left, from any of these                              ▼
//!           └──── withdrawing ◀──────                             Released ◀ releasing, with the
//!                                                                           next claim
//! ```
//!
//! | state | event | next | action |
//! |---|---|---|---|
//! | nothing | a waiter joins | asking | acquire is asked |
//! | asking | granted | held | the head of the line is told |
//! | asking | granted, of another ttl than the head wants | asking | acquire is asked again |
//! | asking | queued | queued | those who do not wait are told `Taken` |
//! | asking | taken | nothing | those who do not wait are told |
//! | asking | taken, others wait | asking | the same; asked again as one that waits |
//! | asking | taken, an earlier question is in doubt | withdrawing | the same; abandon is asked |
//! | asking | taken, though it waits | queued | the store keeps no queue: it is asked again |
//! | asking | not known | pausing | those who do not wait are told `Failed` |
//! | asking | refused for good | withdrawing | everybody is told `Failed` |
//! | asking | cut off | asking | acquire is asked again, at once |
//! | asking | half a grace passes, others wait | asking | acquire is asked a second time |
//! | asking | no answer, others wait | pausing | as not known |
//! | asking | handed over | held | as if queued |
//! | asking | `AskAt`, `AskAll` | asking | remembered until it is queued |
//! | queued | handed over | held | the head of the line is told |
//! | queued | handed over, little is left of it | asking | acquire is asked, to confirm |
//! | queued | handed over, for nobody whose wait is not over | withdrawing | abandon is asked |
//! | queued | `AskAt`, `AskAll`, heartbeat, end of the lease before | asking | acquire is asked |
//! | pausing | the pause ends | asking | acquire is asked |
//! | pausing | handed over | held | the head of the line is told |
//! | asking, queued, pausing | the last waiter leaves | withdrawing | abandon is asked |
//! | withdrawing | answered | nothing | |
//! | withdrawing | not known | withdrawing | asked again after a pause, for the ttl of the claim |
//! | withdrawing | cut off | withdrawing | asked again, at once |
//! | withdrawing | refused for good, or its ttl is over | nothing | |
//! | withdrawing | a waiter joins | withdrawing, then asking | acquire is asked behind it |
//! | withdrawing | not known, others wait | asking beside it | acquire is asked |
//! | withdrawing | half a grace passes, others wait | withdrawing | abandon is asked a second time |
//! | any | one joins who does not wait, and it is known who has the lock | as before | `Taken` is told |
//! | any | the wait of a waiter is used up | as before | it is told what is known |
//! | held | the holder ends it, the next in line may have it | held | the next in line is told |
//! | held | the holder ends it | releasing | release is asked, with the next claim |
//! | held | a renewal is due | held | renew |
//! | held | renewed | held | |
//! | held | a renewal is not known | held | renewed again soon |
//! | held | the store says that it is lost | ended | the holder is told |
//! | held | its time, or `max_hold`, is over | ended | the holder is told |
//! | held | whoever was told does not take it by its deadline | as if ended by it | told `TimedOut` |
//! | held | whoever was told leaves | as if ended by it | |
//! | ended | the holder ends it | nothing | release is asked, once |
//! | ended | the holder ends it, its claim in doubt | withdrawing | abandon is asked |
//! | ended | whoever was told does not take it by its deadline | nothing | the same |
//! | ended | waiters are there | asking | acquire is asked |
//! | releasing | released | nothing | the holder is told |
//! | releasing | released, the next claim granted | held | both are told |
//! | releasing | released, the next claim queued | queued | the holder is told |
//! | releasing | released, its claim in doubt | withdrawing | abandon is asked as well |
//! | releasing | not held | asking, or nothing | the holder is told `Lost` |
//! | releasing | not held, asked before | asking, or nothing | the holder is told that it is done |
//! | releasing | the next claim is handed the lock | held | both are told |
//! | releasing | not known | releasing | asked again after a pause, for the ttl of the lease |
//! | releasing | not known for longer than a question takes | releasing | the holder is told `Failed` |
//! | releasing | cut off | releasing | asked again, at once |
//! | releasing | refused for good, or its ttl is over | asking, or nothing | the holder is told `Failed` |
//! | releasing | the next claim has no waiter left | withdrawing, after it | abandon is asked |
//! | releasing | half a grace passes, others wait | releasing | release is asked a second time |
//! | any | an answer to a question that is over | as before | what it granted is given back |
//! | any | a hold that has been passed on or ended is ended | as before | the holder is told |
//! | any | shut down | as before | everybody in line is told; what pauses is asked once more |
//!
//! # Several keys
//!
//! - The question of a waiter that does not wait may go with those of other keys. If the store did
//!   not take all, it has [nothing](Event::NotTaken) of the claim: the waiter leaves, and those who
//!   came meanwhile are asked for.
//!
//! # Holds that begin later, and keys that are kept
//!
//! - A holder that waits for other keys [begins](Event::Began) when it has all: its `max_hold`
//!   counts from there.
//! - A holder may want the key to stay [taken](Event::Keep) for a while from its beginning,
//!   whatever becomes of it and of its process. The first lease is as long; where less is left when
//!   it begins, as after a hand-over, the lease is extended first, and no renewal asks for less
//!   than what is left of it.
//! - If it ends its hold before, also after its `max_hold`, the lease is not passed on, and release
//!   is asked with the rest, and without a next claim: whoever is in line is asked for after it.
//! - If the store refuses that release, the key stays taken for as long as the lease lives. A claim
//!   in doubt is then withdrawn when the minimum is over, and not earlier, also if a late answer
//!   says that it was granted.

mod event;
mod exchange;
mod holding;
mod key;
mod lease;
mod line;
mod look;
mod pursuing;
mod seldom;
#[cfg(test)]
mod tests;
mod withdrawing;

use alloc::boxed::Box;
use core::time::Duration;

use smallvec::SmallVec;

pub use self::event::{
    Action, Actions, Answer, Ask, Event, Granted, Outcome, ReleaseOutcome, Verb,
};
use self::exchange::{Ending, Known, Pursuit, Stage, Withdrawal};
pub use self::key::Key;
pub use self::lease::{End, LeaseId};
use self::lease::{Lease, LeaseState};
use self::line::Line;
pub use self::line::{Waiter, WaiterId};
pub use self::look::{Holding, Look, Pursued};
use self::seldom::Seldom;
use crate::claim::AskNumber;
use crate::claim::{Acquired, Claim, LostReason, Released, Renewal};
use crate::mistakes::{Mistake, made};
use crate::mode::Kind;
use crate::name::LockKey;
use crate::terms::Rules;
use crate::time::Instant;
use crate::token::{FencingToken, OwnerToken};

/// What one process does about the claims of one key that are of one kind.
#[derive(Clone, Debug, Hash)]
struct Group {
    key: LockKey,
    kind: Kind,
    line: Line,
    /// What is done to get the lock for those in line.
    pursuit: Option<Box<Pursuit>>,
    /// The leases of this process, lost ones included until their holders give them up.
    leases: SmallVec<[Lease; 1]>,
    withdrawals: Seldom<Withdrawal>,
    /// The owner token of the next claim, if the waiter for whom it is made brings none.
    spare_owner: Option<OwnerToken>,
    known: Known,
    /// The largest number given to a question, a lease, or to one of a key before this.
    last_number: u64,
    /// The part of the key that the process had last, or likes best.
    last_shard: Option<u8>,
    /// Whether the process shuts down.
    is_closing: bool,
    /// Whether tasks of this process wait for the key in another mode.
    is_awaited: bool,
}

impl Group {
    fn new(key: LockKey, kind: Kind, last_number: u64) -> Group {
        Group {
            key,
            kind,
            line: Line::default(),
            pursuit: None,
            leases: SmallVec::new(),
            withdrawals: Seldom::new(),
            spare_owner: None,
            known: Known::Nothing,
            last_number,
            last_shard: None,
            is_closing: false,
            is_awaited: false,
        }
    }

    /// Whether leases of this process can go together.
    fn is_company(&self) -> bool {
        self.kind != Kind::Exclusive
    }

    /// See [`Key::wants_owner`]; whether a waiter `joins` makes the difference.
    fn wants_owner(&self, joins: bool) -> bool {
        // A claim of those that go together may be granted and the next one made by one event.
        let has_room = self.pursuit.is_none() || self.is_company();
        self.spare_owner.is_none() && has_room && (joins || !self.line.is_empty())
    }

    /// See [`Key::take_in`].
    fn take_in(&mut self, rules: &Rules, now: Instant, event: Event<'_>, actions: &mut Actions) {
        let mut turn = Turn {
            group: self,
            rules,
            now,
            actions,
        };
        if !made(Mistake::LossNoticedLate) || matches!(event, Event::Time) {
            turn.look_at_the_clock();
        }
        turn.take_in(event);
        turn.settle();
    }

    /// When the machine wants to be told the time, if nothing else happens.
    fn wants_time_at(&self, rules: &Rules) -> Option<Instant> {
        let leases = self.leases.iter().filter_map(|lease| match &lease.state {
            LeaseState::Held => Some(lease.attention_at()),
            LeaseState::Ended(..) => lease.untaken_until().filter(|_| lease.is_taken_back()),
            LeaseState::Releasing(releasing) => self.ending_attention_at(&releasing.stage, rules),
        });
        let withdrawals = self
            .withdrawals
            .iter()
            .filter_map(|withdrawal| self.ending_attention_at(&withdrawal.stage, rules));
        let pursuit = self
            .pursuit
            .as_ref()
            .and_then(|pursuit| match &pursuit.stage {
                // Whoever asks waits for the answer by itself.
                Stage::Asking(exchange) if self.line.len() > 1 => {
                    Some(exchange.attention_at(rules))
                }
                Stage::Asking(_) | Stage::WithRelease => None,
                Stage::Queued(at) | Stage::Pausing(at) => Some(*at),
            });
        leases.chain(withdrawals).chain(pursuit).min()
    }

    /// Whether the machine can be dropped: nobody holds, waits or asks.
    fn is_gone(&self) -> bool {
        self.is_quiet() && self.leases.is_empty() && self.withdrawals.is_empty()
    }

    /// Whether nobody waits or asks, and no lease is held: all there may be are holders who have
    /// not noticed that they lost their lease, and, in a shutdown, keys that are to stay taken.
    fn is_quiet(&self) -> bool {
        self.line.is_empty()
            && self.pursuit.is_none()
            && self
                .withdrawals
                .iter()
                .all(|it| self.is_closing && it.stage.is_kept())
            && !self.leases.iter().any(Lease::occupies)
    }

    /// Whether a lease is held, as far as its holder is concerned.
    fn is_held(&self) -> bool {
        self.leases.iter().any(Lease::is_held)
    }

    /// How many hold a lease.
    fn holders(&self) -> usize {
        let held = self.leases.iter().filter(|lease| lease.is_held());
        held.map(|lease| lease.sharing as usize).sum()
    }

    /// Whether the claim `owner` may be handed the lock, or has it.
    fn expects(&self, owner: &str) -> bool {
        let pursued = self.pursuit.as_ref();
        pursued.is_some_and(|pursuit| pursuit.claim.owner.as_str() == owner)
            || self
                .leases
                .iter()
                .any(|lease| lease.occupies() && lease.owner.as_str() == owner)
                && !made(Mistake::HeldIsNotExpected)
    }

    /// How long the holder with `token` may still rely on the lease; zero if it may not.
    fn remaining(&self, lease: LeaseId, token: FencingToken, now: Instant) -> Duration {
        self.lease(lease)
            .map_or(Duration::ZERO, |lease| lease.remaining(token, now))
    }

    /// Whether the lease of the holder with `token` is as long as it wants to keep the key from
    /// `now` on, so that the store keeps it if this process dies.
    fn covers(&self, lease: LeaseId, token: FencingToken, least: Duration, now: Instant) -> bool {
        let lease = self.lease(lease).filter(|lease| lease.is_held_with(token));
        lease.is_some_and(|lease| lease.covers(now + least))
    }

    /// Why the holder with `token` may not rely on the lease, and for how long it had been held;
    /// `None` if it may. Of a lease that is not here any more, its holder has given it up.
    fn fault(&self, lease: LeaseId, token: FencingToken, now: Instant) -> Option<(End, Duration)> {
        match self.lease(lease) {
            Some(lease) => lease.fault(token, now),
            None => Some((End::Lost(LostReason::NotHeld), Duration::ZERO)),
        }
    }

    /// The renewal of a lease ahead of its time, because its holder asks for it, and how long to
    /// wait for the answer.
    fn renewal(&self, rules: &Rules, lease: LeaseId, now: Instant) -> Option<(Renewal, Duration)> {
        let lease = self.lease(lease).filter(|lease| lease.is_held())?;
        let renewal = lease.renewal(&self.key, rules, now, 0);
        Some((renewal, lease.patience(now, rules)))
    }

    /// Whether somebody, other than who asked, waits for the end of a lease or a claim.
    fn is_waited_for(&self) -> bool {
        !self.line.is_empty() || self.is_closing
    }

    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id == id)
    }

    /// When something has to be done about the end of a lease or a claim.
    fn ending_attention_at(&self, ending: &Ending, rules: &Rules) -> Option<Instant> {
        match ending {
            Ending::Asking(exchange) => self.is_waited_for().then(|| exchange.attention_at(rules)),
            Ending::Pausing(at) | Ending::Kept(at) => Some(*at),
        }
    }
}

/// One event being taken in.
struct Turn<'a> {
    group: &'a mut Group,
    rules: &'a Rules,
    now: Instant,
    actions: &'a mut Actions,
}

impl Turn<'_> {
    fn take_in(&mut self, event: Event<'_>) {
        match event {
            Event::Joined(waiter) => self.joined(waiter),
            Event::GaveUp(id) => self.gave_up(id),
            Event::Left(id) => self.left(id),
            Event::Took(id) => self.took(id),
            Event::NotTaken(id, owner) => self.not_taken(id, owner),
            Event::Began(lease, token) => self.began(lease, token),
            Event::Keep {
                lease,
                token,
                least,
                begins,
            } => self.keep(lease, token, least, begins),
            Event::Ended(lease, token) => self.ended(lease, token),
            Event::Answered {
                ask,
                sent_at,
                answer,
                chance,
            } => self.answered(ask, sent_at, answer, chance),
            Event::Renewed {
                lease,
                sent_at,
                answer,
                chance,
            } => self.renewed(lease, sent_at, answer, chance),
            Event::HandedOver {
                owner,
                grant,
                since,
            } => self.handed_over(owner, grant, since),
            Event::AskAt(owner, at) => self.ask_at(Some(owner), at),
            Event::AskAll => self.ask_at(None, self.now),
            Event::Time => self.time(),
            Event::ShutDown => self.shut_down(),
        }
    }

    /// Routes an answer to whatever asked the question.
    fn answered(&mut self, ask: &Ask, sent_at: Instant, answer: Answer, chance: u32) {
        let number = ask.number;
        match &ask.verb {
            Verb::Acquire(claim) => match answer {
                Answer::Acquired(acquired) if self.is_pursued(claim, number, &acquired) => {
                    self.acquired(acquired, sent_at, chance);
                }
                Answer::Acquired(acquired) => self.give_back(claim, &acquired),
                answer => self.not_acquired(number, answer.failure()),
            },
            Verb::Release(release) => match (self.releasing(&release.owner, number), answer) {
                (Some(index), Answer::Released(released)) => {
                    self.released(index, release, released, sent_at, chance);
                }
                (Some(index), answer) => self.not_released(index, number, answer.failure()),
                (None, Answer::Released(Released::Released(Some(acquired)))) => {
                    match &release.next {
                        Some(next) if self.is_pursued(next, number, &acquired) => {
                            self.acquired(acquired, sent_at, chance);
                        }
                        Some(next) => self.give_back(next, &acquired),
                        None => {}
                    }
                }
                (None, _) => {}
            },
            Verb::Abandon(claim) => match (self.withdrawing(&claim.owner), answer) {
                (Some(index), Answer::Abandoned) => {
                    self.group.withdrawals.remove(index);
                }
                (Some(index), answer) => self.not_withdrawn(index, number, answer.failure()),
                (None, _) => {}
            },
        }
    }

    /// Whether an answer is for the claim that is pursued: to its latest question, or a grant,
    /// which counts whenever it comes, since the claim was not withdrawn.
    fn is_pursued(&self, claim: &Claim, number: AskNumber, acquired: &Acquired) -> bool {
        self.group.pursuit.as_ref().is_some_and(|pursuit| {
            let is_latest =
                matches!(pursuit.stage, Stage::Asking(exchange) if exchange.is_asked_by(number));
            pursuit.claim.owner == claim.owner
                && (is_latest || matches!(acquired, Acquired::Granted(_)))
        })
    }

    /// The lease of `owner` that is being released. Whatever question about it the store answered,
    /// the lease has ended.
    fn releasing(&self, owner: &OwnerToken, number: AskNumber) -> Option<usize> {
        let mut leases = self.group.leases.iter();
        leases.position(|lease| match &lease.state {
            LeaseState::Releasing(releasing) => {
                lease.owner == *owner
                    && (releasing.stage.is_asked_by(number) || !made(Mistake::OldAnswersAreIgnored))
            }
            _ => false,
        })
    }

    /// The withdrawal of the claim of `owner`, likewise.
    pub(super) fn withdrawing(&self, owner: &OwnerToken) -> Option<usize> {
        let mut withdrawals = self.group.withdrawals.iter();
        withdrawals.position(|withdrawal| withdrawal.claim.owner == *owner)
    }

    /// Gives back what a question brought whose asker has got it otherwise, or wants it no more.
    fn give_back(&mut self, claim: &Claim, acquired: &Acquired) {
        let is_in_store = matches!(acquired, Acquired::Granted(_) | Acquired::Queued(_));
        let mut withdrawals = self.group.withdrawals.iter();
        let is_known = self.group.expects(claim.owner.as_str())
            || withdrawals.any(|withdrawal| withdrawal.claim.owner == claim.owner);
        if is_in_store && !is_known {
            let mut claim = claim.clone();
            claim.in_doubt = true;
            self.withdraw(claim);
        }
    }

    /// Does what follows from the state as it is now, whatever the event was.
    fn settle(&mut self) {
        if self.group.line.is_empty() {
            let is_with_release = self
                .group
                .pursuit
                .as_ref()
                .is_some_and(|pursuit| matches!(pursuit.stage, Stage::WithRelease));
            let is_late = made(Mistake::WithdrawalWaitsForAnswer)
                && matches!(&self.group.pursuit, Some(pursuit)
                    if matches!(pursuit.stage, Stage::Asking(_)));
            if !is_with_release
                && !is_late
                && let Some(mut pursuit) = self.group.pursuit.take()
            {
                pursuit.claim.in_doubt |= matches!(pursuit.stage, Stage::Asking(_));
                self.withdraw(pursuit.claim);
            }
            let is_kept = made(Mistake::KnownIsKept) || made(Mistake::RefusalIsKept);
            if self.group.pursuit.is_none() && !self.group.is_held() && !is_kept {
                self.group.known = Known::Nothing;
            }
            return;
        }
        self.withdraw_what_does_not_suit();
        let is_occupied = !self.group.is_company() && self.group.leases.iter().any(Lease::occupies);
        // Its answer comes first, so that a newcomer is not told that its own process has the lock.
        let is_withdrawing = self.group.withdrawals.iter().any(|withdrawal| {
            withdrawal.failures == 0 && matches!(withdrawal.stage, Ending::Asking(_))
        });
        let is_withdrawing = is_withdrawing && !made(Mistake::AsksForWithdrawnClaim);
        if self.group.pursuit.is_none() && !is_occupied && !is_withdrawing {
            self.pursue();
        }
    }

    /// Asks the store what `verb` makes of the number of the question.
    fn ask(&mut self, verb: impl FnOnce(AskNumber) -> Verb, failures: u32) -> AskNumber {
        let number = self.next_number();
        let mut verb = verb(number);
        verb.set_number(number);
        self.actions.push(Action::Ask(Box::new(Ask {
            number,
            verb,
            failures,
        })));
        number
    }

    fn next_number(&mut self) -> u64 {
        self.group.last_number += 1;
        self.group.last_number
    }

    fn tell(&mut self, id: WaiterId, outcome: Outcome) {
        self.actions.push(Action::Tell(id, outcome));
    }

    /// Tells everybody, and lets what is under way be asked once more at the most: a store that is
    /// away must not keep a process that ends.
    fn shut_down(&mut self) {
        self.group.is_closing = true;
        for waiter in self.group.line.take_all() {
            self.tell(waiter.id, Outcome::ShutDown);
        }
        let now = self.now;
        let leases = self.group.leases.iter_mut().filter_map(Lease::ending_mut);
        let withdrawals = self.group.withdrawals.iter_mut();
        for ending in leases.chain(withdrawals.map(|withdrawal| &mut withdrawal.stage)) {
            if let Ending::Pausing(until) = ending {
                *until = now;
            }
        }
        self.time();
    }

    /// Whether it is of use to ask a store again that did not answer: until the lease of a claim of
    /// this `ttl` is gone by itself.
    fn is_worth_asking(&self, started: Instant, ttl: Duration) -> bool {
        let is_closing = self.group.is_closing && !made(Mistake::ShutDownWaitsForStore);
        self.now.since(started) < ttl && !is_closing
    }

    /// Whether somebody, other than who asked, waits for what is under way.
    fn is_waited_for(&self) -> bool {
        self.group.is_waited_for()
    }
}
