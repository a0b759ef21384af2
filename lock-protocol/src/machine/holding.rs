//! The leases of a key: held, passed on, renewed, lost and released.

use alloc::boxed::Box;
use core::time::Duration;

use smallvec::SmallVec;

use super::exchange::{Ending, Exchange, Failure, Known, Pursuit, Releasing, Stage};
use super::lease::{End, Lease, LeaseId, LeaseState};
use super::pursuing::no_answer;
use super::{Action, Granted, Outcome, ReleaseOutcome, Turn, Verb, WaiterId};
use crate::claim::AskNumber;
use crate::claim::{Claim, LostReason, Release, Released, Renewed};
use crate::mistakes::{Mistake, made};
use crate::mode::Kind;
use crate::time::Instant;
use crate::token::FencingToken;

impl Turn<'_> {
    /// Notices the leases that have run out.
    pub(super) fn look_at_the_clock(&mut self) {
        for index in 0..self.group.leases.len() {
            if self.group.leases[index].look_at_the_clock(self.now) {
                self.lost(index);
            }
        }
    }

    /// Tells that the lease has ended against the will of its holder.
    fn lost(&mut self, index: usize) {
        let lease = &self.group.leases[index];
        self.actions.push(Action::Changed(lease.id));
        // Of who has the lock now nothing is known.
        self.group.known = Known::Nothing;
    }

    pub(super) fn took(&mut self, id: WaiterId) {
        let mut leases = self.group.leases.iter_mut();
        let _ = leases.any(|lease| lease.took(id));
    }

    /// Counts the hold from now on.
    pub(super) fn began(&mut self, id: LeaseId, token: FencingToken) {
        let mut leases = self.group.leases.iter_mut();
        if let Some(lease) = leases.find(|lease| lease.id == id)
            && lease.is_held_with(token)
        {
            lease.held_since = self.now;
        }
    }

    /// Keeps the key for `least` from now on, if the lease covers it; else the next renewal asks
    /// for more.
    pub(super) fn keep(&mut self, id: LeaseId, token: FencingToken, least: Duration, begins: bool) {
        let until = self.now + least;
        let mut leases = self.group.leases.iter_mut();
        let Some(lease) = leases.find(|lease| lease.id == id) else {
            return;
        };
        if !lease.is_held_with(token) {
            return;
        }
        if !lease.covers(until) {
            lease.wanted = Some(least.into());
        } else if begins {
            lease.wanted = None;
            lease.kept_until = lease.kept_until.max(Some(until));
        }
    }

    /// Ends the hold of a waiter that was told and will not take it.
    pub(super) fn end_untaken(&mut self, id: WaiterId) {
        let mut leases = self.group.leases.iter_mut();
        if let Some(lease) = leases.find_map(|lease| lease.took(id).then_some(lease)) {
            let (lease, token) = (lease.id, lease.token);
            self.ended(lease, token);
        }
    }

    /// Ends a hold by the will of its holder: passes the lease on inside the process, or asks the
    /// store to end it, and in the same message for the next claim.
    pub(super) fn ended(&mut self, id: LeaseId, token: FencingToken) {
        let index = self.group.leases.iter().position(|lease| lease.id == id);
        let Some(index) = index else {
            return self.tell_released(id, ReleaseOutcome::Released);
        };
        let lease = &mut self.group.leases[index];
        if lease.token != token {
            return self.tell_released(id, ReleaseOutcome::Released);
        }
        match lease.state {
            LeaseState::Held | LeaseState::Ended(..)
                if lease.sharing > 1 && !made(Mistake::FirstReaderEndsAll) =>
            {
                lease.sharing -= 1;
                let outcome = match lease.state {
                    LeaseState::Ended(end, held) => ReleaseOutcome::Ended(end, held),
                    _ => ReleaseOutcome::Released,
                };
                self.tell_released(id, outcome);
            }
            LeaseState::Held => {
                lease.untaken.clear();
                if !self.pass_on(index) {
                    self.release(index);
                }
            }
            LeaseState::Ended(end, held) if lease.keep(self.now).is_some() => {
                self.tell_released(id, ReleaseOutcome::Ended(end, held));
                self.release(index);
                if let LeaseState::Releasing(releasing) = &mut self.group.leases[index].state {
                    releasing.told = true;
                }
            }
            LeaseState::Ended(end, held) => {
                let lease = self.group.leases.remove(index);
                self.tell_released(id, ReleaseOutcome::Ended(end, held));
                if lease.in_doubt {
                    return self.bury(&lease);
                }
                // Others may have the lock by now, but if the store has not noticed, they need not
                // wait. The lease ends by itself, so one attempt is enough.
                let release = lease.release(&self.group.key);
                self.ask(|_| Verb::Release(release), 0);
            }
            LeaseState::Releasing(_) => {}
        }
    }

    /// Passes the lease on to the head of the line, if the budget allows and the head gets no less
    /// than it asked for: cohort locking (Dice, Marathe, Shavit: *Lock cohorting*, 2012).
    fn pass_on(&mut self, index: usize) -> bool {
        self.skip_late();
        if self.group.line.is_empty() || self.group.kind == Kind::Shared {
            return false;
        }
        if made(Mistake::LosesNextInLine) && !self.group.leases[index].has_token() {
            self.group.line.pop();
            return false;
        }
        let lease = &mut self.group.leases[index];
        let terms = lease.terms();
        if lease.passes == 0 {
            lease.budget = self.rules.passes(self.group.line.len());
        }
        let passes = if self.now < lease.free_until {
            self.rules.local_passes
        } else {
            lease.budget
        };
        let share = terms.ttl.mul_f64(self.rules.local_share);
        let is_within_budget = lease.passes < passes && self.now.since(lease.granted_at) < share;
        let least = lease.enough(self.rules);
        let Some(head) = self.group.line.head() else {
            return false;
        };
        if lease.keep(self.now).is_some() {
            return false;
        }
        let is_within_budget = is_within_budget || made(Mistake::PassesWithoutEnd);
        let least = if made(Mistake::PassesSpentLease) {
            Duration::ZERO
        } else {
            least
        };
        if !lease.suits(&head.terms)
            || !is_within_budget
            || lease.valid_until.since(self.now) < least
        {
            return false;
        }
        let Some(token) = lease.next_token() else {
            return false;
        };
        let Some(head) = self.group.line.pop() else {
            return false;
        };
        let begins = self.begins(head.begins);
        let lease = &mut self.group.leases[index];
        lease.token = token;
        lease.held_since = begins;
        lease.kept_until = None;
        lease.wanted = None;
        lease.passes += 1;
        lease.untaken.push((head.id, head.deadline));
        let granted = lease.granted(self.now);
        let id = lease.id;
        self.actions.push(Action::Changed(id));
        self.tell(head.id, Outcome::Granted(granted));
        self.tell_released(id, ReleaseOutcome::Released);
        true
    }

    /// Asks the store to end a lease that its holder has given up.
    fn release(&mut self, index: usize) {
        // Who waits behind a holder knows that the lock is held; who comes now may be the next.
        if self.group.line.is_empty() {
            self.group.known = Known::Nothing;
        } else if !self.group.is_company() {
            self.group.known = Known::Held(None);
        }
        let is_kept = self.group.leases[index].keep(self.now).is_some();
        // Where leases go together, whoever is in line is asked for already.
        if !is_kept
            && !self.group.is_company()
            && let Some(claim) = self.new_claim()
        {
            self.group.pursuit = Some(Box::new(Pursuit::new(claim, self.now)));
        }
        let exchange = self.ask_for_release(index, 0);
        let lease = &mut self.group.leases[index];
        lease.renew_at = None;
        lease.state = LeaseState::Releasing(Releasing {
            stage: Ending::Asking(exchange),
            started: self.now,
            failures: 0,
            repeated: false,
            told: false,
        });
        let id = lease.id;
        self.actions.push(Action::Changed(id));
    }

    fn ask_for_release(&mut self, index: usize, failures: u32) -> Exchange {
        let lease = &self.group.leases[index];
        let next = self.group.pursuit.as_ref();
        let next = next.filter(|pursuit| matches!(pursuit.stage, Stage::WithRelease));
        let next = next.map(|pursuit| pursuit.claim.clone());
        let mut release = lease.release(&self.group.key).then(next);
        release.keep = lease.keep(self.now).filter(|_| release.next.is_none());
        let number = self.ask(|_| Verb::Release(release), failures);
        Exchange::new(number, self.now)
    }

    /// Takes in what became of a release.
    pub(super) fn released(
        &mut self,
        index: usize,
        asked: &Release,
        released: Released,
        sent_at: Instant,
        chance: u32,
    ) {
        let lease = &self.group.leases[index];
        let LeaseState::Releasing(releasing) = &lease.state else {
            return;
        };
        let (outcome, next) = match released {
            Released::Released(next) => (ReleaseOutcome::Released, next),
            // An earlier try may have done it.
            Released::NotHeld if releasing.repeated => (ReleaseOutcome::Released, None),
            Released::NotHeld => {
                let held = self.now.since(lease.held_since);
                (
                    ReleaseOutcome::Ended(End::Lost(LostReason::NotHeld), held),
                    None,
                )
            }
        };
        self.finish_release(index, outcome);
        // It may be an answer about a claim that is over, if the release was repeated.
        let pursued = self
            .group
            .pursuit
            .as_ref()
            .map(|pursuit| &pursuit.claim.owner);
        let is_pursued =
            pursued.is_some() && pursued == asked.next.as_ref().map(|next| &next.owner);
        match next {
            Some(acquired) if is_pursued => {
                self.acquired(acquired, sent_at, chance);
            }
            _ => self.ask_for_who_was_with_it(),
        }
    }

    /// Takes in that the release asked with this `number` failed, or was cut off.
    pub(super) fn not_released(&mut self, index: usize, number: AskNumber, failure: Failure) {
        let lease = &mut self.group.leases[index];
        let (id, ttl) = (lease.id, lease.terms().lease(self.rules));
        let LeaseState::Releasing(releasing) = &mut lease.state else {
            return;
        };
        if !matches!(releasing.stage, Ending::Asking(exchange) if exchange.number == number) {
            // The later one may still be answered.
            return;
        }
        releasing.failures += 1;
        releasing.repeated = true;
        let started = releasing.started;
        let Some((error, pause)) = failure else {
            releasing.stage = Ending::Pausing(self.now);
            return self.time_for_release(index);
        };
        // As long as the lease may live in the store, others wait for it in vain.
        let again = self.is_worth_asking(started, ttl);
        let pause = pause.filter(|_| again && !error.is_denied());
        let Some(pause) = pause else {
            self.learn(Known::Failed(error.clone()));
            self.finish_release(index, ReleaseOutcome::Failed(error));
            return self.ask_for_who_was_with_it();
        };
        let pause = pause.min(self.rules.command_timeout);
        let is_late = self.now.since(started) >= self.rules.command_timeout;
        if let LeaseState::Releasing(releasing) = &mut self.group.leases[index].state {
            releasing.stage = Ending::Pausing(self.now + pause);
            if is_late && !core::mem::replace(&mut releasing.told, true) {
                // Its holder is not kept any longer by a store that is down.
                self.tell_released(id, ReleaseOutcome::Failed(error.clone()));
            }
        }
        self.learn(Known::Failed(error));
    }

    /// The claim that went with a release of which it has not come back, or that did not go at all.
    fn ask_for_who_was_with_it(&mut self) {
        let mut leases = self.group.leases.iter();
        if let Some(pursuit) = &mut self.group.pursuit
            && let Stage::WithRelease = pursuit.stage
            // Else it goes with the release of another lease.
            && !leases.any(|lease| matches!(lease.state, LeaseState::Releasing(_)))
        {
            pursuit.stage = Stage::Pausing(self.now);
            pursuit.claim.in_doubt = true;
            if !self.group.line.is_empty() {
                self.time_for_pursuit();
            }
        }
    }

    /// Ends every release that is under way.
    pub(super) fn finish_releases(&mut self, outcome: &ReleaseOutcome) {
        for index in (0..self.group.leases.len()).rev() {
            if let LeaseState::Releasing(_) = self.group.leases[index].state {
                self.finish_release(index, outcome.clone());
            }
        }
    }

    fn finish_release(&mut self, index: usize, outcome: ReleaseOutcome) {
        let lease = self.group.leases.remove(index);
        let is_failed = matches!(outcome, ReleaseOutcome::Failed(_));
        if let LeaseState::Releasing(releasing) = &lease.state
            && !releasing.told
        {
            self.tell_released(lease.id, outcome);
        }
        if !lease.in_doubt || made(Mistake::ReleaseEndsDoubt) {
            return;
        }
        match lease
            .kept_until
            .filter(|until| is_failed && *until > self.now)
        {
            Some(_) if made(Mistake::RefusedKeepIsForgotten) => {}
            // What withdraws the claim frees a key that is to stay taken until then.
            Some(until) => self.withdraw_at(until, self.withdrawn(&lease)),
            None => self.bury(&lease),
        }
    }

    /// Makes sure that no question that is still on its way brings back the claim of a lease that
    /// has ended.
    fn bury(&mut self, lease: &Lease) {
        self.withdraw(self.withdrawn(lease));
    }

    /// The claim of a lease that has ended, of which a question may still be on its way.
    fn withdrawn(&self, lease: &Lease) -> Claim {
        let ttl = lease.terms().lease(self.rules);
        let mut claim = Claim::new(self.group.key.clone(), lease.owner.clone(), ttl);
        claim.mode = lease.terms().mode;
        claim.in_doubt = true;
        claim
    }

    fn tell_released(&mut self, id: LeaseId, outcome: ReleaseOutcome) {
        self.actions.push(Action::Released(id, outcome));
    }

    /// Takes in what became of a renewal.
    pub(super) fn renewed(
        &mut self,
        id: LeaseId,
        sent_at: Instant,
        answer: Option<Renewed>,
        chance: u32,
    ) {
        let mut leases = self.group.leases.iter_mut();
        let Some(index) = leases.position(|lease| lease.id == id && lease.is_held()) else {
            return;
        };
        let lease = &mut self.group.leases[index];
        match answer {
            Some(Renewed::Held(extension)) => lease.extended(sent_at, extension),
            Some(Renewed::Lost(reason)) => {
                lease.end(End::Lost(reason), self.now);
                self.lost(index);
            }
            None => lease.not_extended(self.now, chance),
        }
    }

    /// Does what is due.
    pub(super) fn time(&mut self) {
        for index in (0..self.group.leases.len()).rev() {
            self.time_for_lease(index);
        }
        self.time_for_pursuit();
        self.time_for_withdrawals();
    }

    fn time_for_lease(&mut self, index: usize) {
        let lease = &mut self.group.leases[index];
        if lease.untaken_until().is_some_and(|until| until <= self.now) && lease.is_taken_back() {
            let now = self.now;
            let late = lease
                .untaken
                .iter()
                .filter(|(_, deadline)| *deadline <= now);
            let late: SmallVec<[WaiterId; 1]> = late.map(|(waiter, _)| *waiter).collect();
            for waiter in late {
                self.take_back(waiter);
                self.end_untaken(waiter);
            }
            return;
        }
        match lease.state {
            LeaseState::Held => {
                if lease.renew_at.is_some_and(|at| at <= self.now) {
                    lease.renew_at = None;
                    let waiting = self.group.line.len();
                    let renewal = lease.renewal(&self.group.key, self.rules, self.now, waiting);
                    let patience = lease.patience(self.now, self.rules);
                    self.actions
                        .push(Action::Renew(lease.id, Box::new(renewal), patience));
                }
            }
            LeaseState::Releasing(_) => self.time_for_release(index),
            LeaseState::Ended(..) => {}
        }
    }

    fn time_for_release(&mut self, index: usize) {
        let LeaseState::Releasing(releasing) = &self.group.leases[index].state else {
            return;
        };
        let (stage, failures) = (releasing.stage, releasing.failures);
        let exchange = match stage {
            Ending::Pausing(at) if at <= self.now => self.ask_for_release(index, failures),
            Ending::Asking(exchange) if self.is_waited_for() => {
                if exchange
                    .again_at(self.rules)
                    .is_some_and(|at| at <= self.now)
                {
                    let again = self.ask_for_release(index, failures);
                    exchange.again(again.number, self.now)
                } else if exchange.overdue_at(self.rules) <= self.now {
                    return self.not_released(index, exchange.number, Some(no_answer()));
                } else {
                    return;
                }
            }
            _ => return,
        };
        if let LeaseState::Releasing(releasing) = &mut self.group.leases[index].state {
            releasing.stage = Ending::Asking(exchange);
            releasing.repeated = true;
        }
    }
}

impl Lease {
    /// What its present holder is told that it has.
    pub(super) fn granted(&self, now: Instant) -> Granted {
        Granted {
            lease: self.id,
            owner: self.owner.clone(),
            token: self.token,
            since: now,
            shard: self.shard,
        }
    }
}
