//! The line, and the claim that is made for it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use super::exchange::{Exchange, Failure, Known, Pursuit, Stage};
use super::lease::{Lease, jittered, on_grid};
use super::{Action, LeaseId, Outcome, ReleaseOutcome, Turn, Verb, Waiter, WaiterId};
use crate::backend_error::BackendError;
use crate::claim::{Acquired, AskNumber, Claim, Contended, Grant, Holder};
use crate::mistakes::{Mistake, made};
use crate::mode::{Kind, Mode};
use crate::terms::valid_until;
use crate::time::Instant;
use crate::token::OwnerToken;

/// How soon, and how seldom, to look whether a holder that tells nobody has freed the lock.
const SILENT_FIRST: Duration = Duration::from_millis(50);
const SILENT_LONGEST: Duration = Duration::from_secs(1);

/// Upper bound of the random delay before a waiter asks after a lease ran out; spreads the waiters.
const AFTER_EXPIRY: Duration = Duration::from_millis(4);

impl Turn<'_> {
    pub(super) fn joined(&mut self, waiter: Waiter) {
        if self.group.is_closing {
            return self.tell(waiter.id, Outcome::ShutDown);
        }
        if self.shares(&waiter) {
            return;
        }
        // What is known is kept up to date as long as somebody waits or holds.
        let is_current = !self.group.line.is_empty()
            || self.group.is_held() && !self.group.is_company()
            || made(Mistake::KnownIsKept)
            || made(Mistake::RefusalIsKept)
                && matches!(&self.group.known, Known::Failed(error) if error.is_denied());
        if waiter.once
            && is_current
            && let Some(outcome) = self.known_to_once()
        {
            return self.tell(waiter.id, outcome);
        }
        self.group.line.push(waiter);
    }

    /// Gives a reader that joins its share of a lease that is open to it. Whether there is one:
    /// none while a writer of this process waits, who would wait for every reader that joins.
    fn shares(&mut self, waiter: &Waiter) -> bool {
        if self.group.is_awaited && !made(Mistake::JoinsWithoutEnd) {
            return false;
        }
        let (rules, now) = (self.rules, self.now);
        let mut leases = self.group.leases.iter_mut();
        let Some(lease) = leases.find(|lease| lease.is_open_to(&waiter.terms, rules, now)) else {
            return false;
        };
        lease.sharing += 1;
        lease.untaken.push((waiter.id, waiter.deadline));
        let granted = lease.granted(now);
        self.tell(waiter.id, Outcome::Granted(granted));
        true
    }

    /// Withdraws the claim that is pursued if it is not what the head of the line wants, since the
    /// head for which it was made has left.
    pub(super) fn withdraw_what_does_not_suit(&mut self) {
        let Some(head) = self.group.line.head() else {
            return;
        };
        let wanted = head.terms.mode;
        let pursuit = self.group.pursuit.take_if(|pursuit| {
            !pursuit.claim.mode.is_as_good_as(&wanted)
                && !matches!(pursuit.stage, Stage::WithRelease)
        });
        if let Some(mut pursuit) = pursuit {
            pursuit.claim.in_doubt |= matches!(pursuit.stage, Stage::Asking(_));
            self.withdraw(pursuit.claim);
        }
    }

    pub(super) fn gave_up(&mut self, id: WaiterId) {
        let Some(waiter) = self.group.line.remove(id) else {
            return;
        };
        let outcome = self.late(&waiter);
        self.tell(id, outcome);
    }

    pub(super) fn left(&mut self, id: WaiterId) {
        if self.group.line.remove(id).is_none() {
            self.end_untaken(id);
        }
    }

    /// Takes in that the claim of `owner` was not granted together with others, for the waiter
    /// `id`.
    pub(super) fn not_taken(&mut self, id: WaiterId, owner: &OwnerToken) {
        self.group.line.remove(id);
        let is_empty = self.group.line.is_empty();
        let Some(pursuit) = &mut self.group.pursuit else {
            return;
        };
        if pursuit.claim.owner != *owner || pursuit.claim.in_doubt {
            return;
        }
        if is_empty {
            self.group.pursuit = None;
        } else {
            // Others have come meanwhile, for whom it is asked as if for the first time.
            self.stage(Stage::Queued(self.now));
            self.ask_for_pursuit();
        }
    }

    /// What a waiter is told whose wait is used up.
    pub(super) fn late(&self, waiter: &Waiter) -> Outcome {
        let is_held = self.group.is_held() && !self.group.is_company()
            || matches!(self.group.known, Known::Held(_));
        match &self.group.known {
            _ if is_held && waiter.once => Outcome::Taken(None),
            _ if is_held => Outcome::TimedOut,
            Known::Failed(error) => Outcome::Failed(error.clone()),
            Known::Nothing | Known::Held(_) => Outcome::NoAnswer,
        }
    }

    /// What a waiter who does not wait can be told without asking the store.
    fn known_to_once(&self) -> Option<Outcome> {
        let mut leases = self.group.leases.iter();
        if let Some(lease) = leases.find(|lease| lease.is_held())
            && !self.group.is_company()
        {
            return Some(Outcome::Taken(Some(lease.remaining(lease.token, self.now))));
        }
        match &self.group.known {
            Known::Nothing => None,
            Known::Held(until) => Some(Outcome::Taken(until.map(|until| until.since(self.now)))),
            Known::Failed(error) => Some(Outcome::Failed(error.clone())),
        }
    }

    /// Takes in what the store said of the lock, and tells it to those who do not wait; a refusal
    /// for good to everybody.
    pub(super) fn learn(&mut self, known: Known) {
        self.group.known = known;
        if let Known::Failed(error) = &self.group.known
            && error.is_denied()
        {
            let error = error.clone();
            return self.fail_all(&error);
        }
        for waiter in self.group.line.take_once() {
            if let Some(outcome) = self.known_to_once() {
                self.tell(waiter.id, outcome);
            }
        }
    }

    fn fail_all(&mut self, error: &Arc<BackendError>) {
        for waiter in self.group.line.take_all() {
            self.tell(waiter.id, Outcome::Failed(error.clone()));
        }
    }

    /// Passes over the waiters at the head whose wait is used up: nobody may be left to take what
    /// they would be given.
    pub(super) fn skip_late(&mut self) {
        while let Some(head) = self.group.line.head()
            && head.deadline <= self.now
        {
            let outcome = self.late(head);
            if let Some(waiter) = self.group.line.pop() {
                self.tell(waiter.id, outcome);
            }
        }
    }

    /// Begins to ask for the lock on behalf of those in line.
    pub(super) fn pursue(&mut self) {
        if let Some(claim) = self.new_claim() {
            self.group.pursuit = Some(Box::new(Pursuit::new(claim, self.now)));
            self.ask_for_pursuit();
        }
    }

    /// A claim for those in line, named by the head.
    pub(super) fn new_claim(&mut self) -> Option<Claim> {
        let head = self.group.line.head()?;
        if made(Mistake::AsksForWithdrawnClaim)
            && let Some(withdrawal) = self.group.withdrawals.last()
        {
            return Some(withdrawal.claim.clone());
        }
        let owner = head.owner.clone().or_else(|| self.group.spare_owner.take());
        debug_assert!(owner.is_some(), "an owner token was wanted");
        let ttl = head.terms.lease(self.rules);
        let mut claim = Claim::new(self.group.key.clone(), owner?, ttl);
        claim.queue = self.group.line.waits();
        claim.grace = self.rules.grace.min(head.terms.ttl);
        claim.mode = self.mode_for(head.terms.mode);
        claim.tokens = match claim.mode {
            // All who share have one.
            Mode::Shared => 1,
            _ => self.rules.tokens(self.group.line.len()),
        };
        claim.heartbeat = self.rules.heartbeat;
        Some(claim)
    }

    /// The mode of a claim for who wants `mode`: of the parts of a key, the one is liked best that
    /// the process had last.
    fn mode_for(&self, mut mode: Mode) -> Mode {
        if let Mode::Shard { of, prefer, .. } = &mut mode {
            *prefer = self.group.last_shard.unwrap_or_default() % *of;
        }
        mode
    }

    /// Asks the store for the claim that is pursued.
    fn ask_for_pursuit(&mut self) {
        let waits = self.group.line.waits();
        let Some(mut pursuit) = self.group.pursuit.take() else {
            return;
        };
        pursuit.claim.queue |= waits;
        let mut claim = pursuit.claim.clone();
        if made(Mistake::WaiterAsksOnlyForOwner) && matches!(pursuit.stage, Stage::Queued(_)) {
            claim.queue = false;
        }
        let number = self.ask(|_| Verb::Acquire(claim), pursuit.failures);
        pursuit.stage = Stage::Asking(match pursuit.stage {
            Stage::Asking(exchange) => {
                pursuit.claim.in_doubt = true;
                exchange.again(number, self.now)
            }
            _ => Exchange::new(number, self.now),
        });
        self.group.pursuit = Some(pursuit);
    }

    /// Puts the pursuit into `stage`.
    fn stage(&mut self, stage: Stage) {
        if let Some(pursuit) = &mut self.group.pursuit {
            pursuit.stage = stage;
        }
    }

    /// Takes in what became of the claim.
    pub(super) fn acquired(&mut self, acquired: Acquired, sent_at: Instant, chance: u32) {
        let Some(pursuit) = &mut self.group.pursuit else {
            return;
        };
        pursuit.failures = 0;
        match acquired {
            Acquired::Granted(grant) => self.deliver(grant, sent_at, By::Answer),
            Acquired::Queued(holder) => self.stand_back(holder, chance),
            // The store keeps no queue.
            Acquired::Taken(holder) if pursuit.claim.queue => self.stand_back(holder, chance),
            Acquired::Taken(holder) => {
                self.stand_back(holder, chance);
                if !self.group.line.is_empty() {
                    self.ask_for_pursuit();
                } else {
                    // Nothing of the claim is left in the store, unless an earlier question comes
                    // late: then it is withdrawn.
                    self.group.pursuit.take_if(|pursuit| {
                        !pursuit.claim.in_doubt || made(Mistake::TakenEndsDoubt)
                    });
                }
            }
        }
    }

    /// Waits until it is time to ask again.
    fn stand_back(&mut self, holder: Holder, chance: u32) {
        let mut patience = self.rules.heartbeat;
        if let Some(remaining) = holder.remaining {
            let spread = AFTER_EXPIRY / 2 + jittered(AFTER_EXPIRY, chance) / 2;
            patience = patience.min(remaining.saturating_add(spread));
        }
        if let Some(pursuit) = &mut self.group.pursuit {
            pursuit.silent = if holder.silent { pursuit.silent + 1 } else { 0 };
            if holder.silent {
                let doublings = (pursuit.silent - 1).min(31);
                let pause = SILENT_FIRST.saturating_mul(1 << doublings);
                patience = patience.min(jittered(pause.min(SILENT_LONGEST), chance));
            }
            if made(Mistake::WaiterNeverAsks) {
                patience = Duration::MAX;
            }
            let look_at = self.now + patience;
            let look_by = pursuit.look_by.take().unwrap_or(look_at);
            pursuit.stage = Stage::Queued(look_at.min(look_by));
        }
        let until = holder.remaining.map(|remaining| self.now + remaining);
        self.learn(Known::Held(until));
    }

    /// Takes in that the question with this `number` failed, or was cut off.
    pub(super) fn not_acquired(&mut self, number: AskNumber, failure: Failure) {
        let Some(pursuit) = &mut self.group.pursuit else {
            return;
        };
        let Stage::Asking(exchange) = &mut pursuit.stage else {
            return;
        };
        if exchange.number != number {
            // The later one may still be answered.
            return;
        }
        pursuit.claim.in_doubt = true;
        let Some((error, pause)) = failure else {
            pursuit.stage = Stage::Pausing(self.now);
            if !self.group.line.is_empty() {
                self.ask_for_pursuit();
            }
            return;
        };
        pursuit.failures += 1;
        // Who comes only to try has the answer: that there is none.
        let until = self.now + pause.unwrap_or_default();
        pursuit.stage = Stage::Pausing(until);
        self.learn(Known::Failed(error.clone()));
        if pause.is_none() {
            self.fail_all(&error);
        }
    }

    /// Takes in that the lock was handed to the claim `owner`.
    pub(super) fn handed_over(&mut self, owner: &str, grant: Grant, since: Instant) {
        let Some(pursuit) = &self.group.pursuit else {
            return;
        };
        if pursuit.claim.owner.as_str() != owner {
            return;
        }
        if made(Mistake::PauseIgnoresHandOver) && matches!(pursuit.stage, Stage::Pausing(_))
            || made(Mistake::NewsDoNotEndRelease) && matches!(pursuit.stage, Stage::WithRelease)
        {
            return;
        }
        // It is also younger than the claim.
        let mut since = since.max(pursuit.since);
        if made(Mistake::LeaseCountedFromArrival) {
            since = self.now;
        }
        // The release that the claim went with has done its work.
        match pursuit.stage {
            Stage::WithRelease => self.finish_releases(&ReleaseOutcome::Released),
            Stage::Asking(_) => self.doubt(),
            Stage::Queued(_) | Stage::Pausing(_) => {}
        }
        self.deliver(grant, since, By::HandOver);
    }

    /// Notes that a question about the claim may be on its way still.
    fn doubt(&mut self) {
        if let Some(pursuit) = &mut self.group.pursuit {
            pursuit.claim.in_doubt = true;
        }
    }

    /// Gives the granted claim to the head of the line, unless it has to be confirmed first.
    fn deliver(&mut self, grant: Grant, since: Instant, by: By) {
        self.skip_late();
        // A line without anybody in it is withdrawn.
        self.stage(Stage::Queued(self.now));
        let Some(head) = self.group.line.head() else {
            return;
        };
        let terms = head.terms;
        let Some(pursuit) = &mut self.group.pursuit else {
            return;
        };
        if !pursuit.claim.mode.is_as_good_as(&terms.mode) {
            // It was made for one who has left, and is withdrawn.
            return;
        }
        // A store that grants the key alone does not number its parts.
        let shard = match self.rules.modes {
            true => grant.shard,
            false => pursuit.claim.mode.shard_beside(0).unwrap_or_default(),
        };
        // A late answer may be that to a question with a longer ttl, for a waiter who has left.
        let ttl = terms.lease(self.rules);
        let valid_for = grant.valid_for.min(ttl);
        let mut valid_until = valid_until(since, valid_for);
        if made(Mistake::GraceTakenForTtl) {
            valid_until = valid_until.max(since + pursuit.claim.ttl);
        }
        let least = match by {
            By::Answer => Duration::ZERO,
            By::HandOver => valid_for / 2,
        };
        if ttl != pursuit.claim.ttl || valid_until <= self.now + least {
            // The next question is answered by a full lease of the ttl that it asks for.
            pursuit.claim.ttl = ttl;
            return self.ask_for_pursuit();
        }
        // A lease may lack a little of its ttl, as where a store uses one again.
        let is_short = valid_for < pursuit.claim.ttl - pursuit.claim.ttl / 16;
        let is_grace = is_short || terms.renew.is_none() && by == By::HandOver;
        let (Some(pursuit), Some(head)) = (self.group.pursuit.take(), self.group.line.pop()) else {
            return;
        };
        let renew_at = if is_grace {
            // The holder asked for more. With others behind, it is extended at once, so that the
            // lease can be passed on to them.
            let is_for_others = !self.group.line.is_empty() && self.rules.local_passes > 0;
            let pause = if is_for_others {
                Duration::ZERO
            } else {
                valid_for / 2
            };
            Some(since + pause)
        } else {
            terms.renew.map(|period| on_grid(since, period))
        };
        // Ten times as long as it took to get: those who come to the store meanwhile wait little
        // longer than they would have for the answer.
        let free_for = match (by, grant.contended) {
            (By::Answer, Contended::No) => self.now.since(since) * 10,
            _ => Duration::ZERO,
        };
        let id = LeaseId(self.next_number());
        let (claim, tokens) = (&pursuit.claim, grant.tokens);
        let mut lease = Lease::new(id, claim, terms, valid_until, tokens, self.now);
        lease.held_since = self.begins(head.begins);
        lease.free_until = self.now + free_for;
        lease.renew_at = renew_at;
        lease.untaken.push((head.id, head.deadline));
        lease.shard = shard;
        if grant.contended == Contended::No {
            lease.open_until = since + self.rules.open_for(terms.ttl);
        }
        let granted = lease.granted(self.now);
        if self.group.kind == Kind::Shard {
            self.group.last_shard = Some(shard);
        }
        if self.group.is_company() {
            // Whoever comes only to try is asked for next.
            self.group.known = Known::Nothing;
            self.tell(head.id, Outcome::Granted(granted));
            return self.share_with_all(lease);
        }
        self.group.leases.push(lease);
        // Who came only to try is told that it is taken.
        self.learn(Known::Held(None));
        self.tell(head.id, Outcome::Granted(granted));
    }

    /// Keeps a lease that goes together with others. All readers in line that can share it do, also
    /// those behind others.
    fn share_with_all(&mut self, mut lease: Lease) {
        let terms = lease.terms();
        if terms.mode == Mode::Shared && terms.max_hold.is_none() {
            for waiter in self.group.line.take_alike(&terms) {
                lease.sharing += 1;
                lease.untaken.push((waiter.id, waiter.deadline));
                let granted = lease.granted(self.now);
                self.tell(waiter.id, Outcome::Granted(granted));
            }
        }
        self.group.leases.push(lease);
    }

    /// From when on a hold counts that is given now.
    pub(super) fn begins(&self, at_once: bool) -> Instant {
        if at_once {
            self.now
        } else {
            self.now + Duration::MAX
        }
    }

    /// Looks at the claim of `owner`, or at any, when it is time to ask for it.
    pub(super) fn ask_at(&mut self, owner: Option<&OwnerToken>, at: Instant) {
        if let Some(pursuit) = &mut self.group.pursuit
            && owner.is_none_or(|owner| pursuit.claim.owner == *owner)
        {
            match &mut pursuit.stage {
                Stage::Queued(_) if made(Mistake::ForgetsWhenToLook) => {}
                Stage::Asking(_) | Stage::WithRelease
                    if made(Mistake::ForgetsWhenToLookWhileAsking) => {}
                Stage::Queued(look_at) => *look_at = at.min(*look_at),
                Stage::Asking(_) | Stage::WithRelease => {
                    let look_by = pursuit.look_by.unwrap_or(at);
                    pursuit.look_by = Some(at.min(look_by));
                }
                Stage::Pausing(_) => {}
            }
        }
    }

    /// Does what is due for the claim.
    pub(super) fn time_for_pursuit(&mut self) {
        let pursuit = self.group.pursuit.as_ref();
        // A claim for nobody is about to be withdrawn.
        let Some(pursuit) = pursuit.filter(|_| !self.group.line.is_empty()) else {
            return;
        };
        match pursuit.stage {
            Stage::Queued(at) | Stage::Pausing(at) if at <= self.now => self.ask_for_pursuit(),
            Stage::Asking(exchange) if self.group.line.len() > 1 => {
                if exchange
                    .again_at(self.rules)
                    .is_some_and(|at| at <= self.now)
                {
                    self.ask_for_pursuit();
                } else if exchange.overdue_at(self.rules) <= self.now {
                    self.not_acquired(exchange.number, Some(no_answer()));
                }
            }
            _ => {}
        }
    }

    /// Tells what is done to the waiter whose lock is taken back.
    pub(super) fn take_back(&mut self, id: WaiterId) {
        self.actions.push(Action::TakeBack(id, Outcome::TimedOut));
    }
}

/// How a grant came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Answer,
    HandOver,
}

/// What a question that is overdue ends with.
pub(super) fn no_answer() -> (Arc<BackendError>, Option<Duration>) {
    let error = BackendError::unavailable("no answer in time");
    (Arc::new(error), Some(Duration::ZERO))
}
