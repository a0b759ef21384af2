//! A lease as its process knows it.

use core::time::Duration;

use smallvec::SmallVec;

use super::exchange::{Ending, Releasing};
use super::line::WaiterId;
use crate::claim::{Claim, Extension, LostReason, Release, Renewal};
use crate::mistakes::{Mistake, made};
use crate::mode::Mode;
use crate::name::LockKey;
use crate::terms::{PackedTerms, Rules, Terms, covering, valid_until};
use crate::time::{Instant, Span};
use crate::token::{FenceBlock, FencingToken, OwnerToken};

/// The name of a lease within its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// Why a hold ended against the will of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The lease can no longer be proven.
    Lost(LostReason),
    /// It was held for longer than this limit.
    MaxHold(Duration),
}

/// A granted claim. It may have several holders in this process, one after the other, each with its
/// own fencing token.
#[derive(Clone, Debug, Hash)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) owner: OwnerToken,
    /// Whether a question of its claim may still be on its way to the store.
    pub(super) in_doubt: bool,
    /// See [`Lease::terms`].
    pub(super) terms: PackedTerms,
    /// Until when the lease may be relied on; counted from before a request was sent, never from an
    /// answer.
    pub(super) valid_until: Instant,
    /// The token of the present holder; whoever has a smaller one held the lease earlier.
    pub(super) token: FencingToken,
    /// The first of the tokens reserved for the holders to come.
    next_token: FencingToken,
    /// How many these are.
    spare_tokens: u32,
    /// What the budget of local passing is counted from.
    pub(super) granted_at: Instant,
    pub(super) held_since: Instant,
    pub(super) passes: u32,
    /// How often it may be passed on while others may wait in the store; decided when its first
    /// holder gives it up.
    pub(super) budget: u32,
    /// Until when it may be passed on more often: when it was granted, nobody waited in the store.
    pub(super) free_until: Instant,
    /// When to renew; `None` while a renewal is under way, and for leases that are not renewed.
    pub(super) renew_at: Option<Instant>,
    /// Until when the key stays taken, whenever the holder ends; never later than the lease in the
    /// store ends by itself.
    pub(super) kept_until: Option<Instant>,
    /// For how long the holder wants to keep the key from its beginning, which has to wait, since
    /// the lease is too short.
    pub(super) wanted: Option<Span>,
    /// Who were told of the grant and have not been seen since, and how long each may take: one,
    /// but for those who share.
    pub(super) untaken: SmallVec<[(WaiterId, Instant); 1]>,
    /// Which part of the key it is.
    pub(super) shard: u8,
    /// How many hold it: one, but for those who share.
    pub(super) sharing: u32,
    /// Until when others may come to share it.
    pub(super) open_until: Instant,
    pub(super) state: LeaseState,
}

#[derive(Clone, Debug, Hash)]
pub(super) enum LeaseState {
    /// The holder may rely on it.
    Held,
    /// It ended after it had been held for so long, and the holder has not given it up yet.
    Ended(End, Duration),
    /// The holder has given it up, and the store is asked to end it.
    Releasing(Releasing),
}

impl Lease {
    /// A lease that was granted `now` with these tokens, of which its holder has the first.
    pub(super) fn new(
        id: LeaseId,
        claim: &Claim,
        terms: Terms,
        valid_until: Instant,
        tokens: FenceBlock,
        now: Instant,
    ) -> Lease {
        let mut lease = Lease {
            id,
            owner: claim.owner.clone(),
            in_doubt: claim.in_doubt,
            terms: terms.into(),
            valid_until,
            token: tokens.first,
            next_token: tokens.first,
            spare_tokens: 0,
            granted_at: now,
            held_since: now,
            passes: 0,
            budget: 0,
            free_until: now,
            renew_at: None,
            kept_until: None,
            wanted: None,
            untaken: SmallVec::new(),
            shard: 0,
            sharing: 1,
            open_until: now,
            state: LeaseState::Held,
        };
        lease.reserve(tokens);
        lease.next_token();
        lease
    }

    /// How it is kept.
    pub(super) fn terms(&self) -> Terms {
        self.terms.get()
    }

    /// Has these tokens for the holders to come, in place of all others.
    fn reserve(&mut self, tokens: FenceBlock) {
        let others = tokens.last.as_u64().saturating_sub(tokens.first.as_u64());
        self.next_token = tokens.first;
        self.spare_tokens = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    }

    /// Whether a token is left for another holder.
    pub(super) fn has_token(&self) -> bool {
        self.spare_tokens > 0
    }

    /// Ends the lease if it has run out `now`. Whether it did.
    ///
    /// A lease that has ended stays ended: an answer that comes later revives nothing, since the
    /// holder may have been told.
    pub(super) fn look_at_the_clock(&mut self, now: Instant) -> bool {
        let end = self.run_out(now).filter(|_| self.is_held());
        if let Some(end) = end {
            self.end(end, now);
        }
        end.is_some()
    }

    /// Why the clock says that the lease has ended.
    fn run_out(&self, now: Instant) -> Option<End> {
        let over = |limit: &Duration| now.since(self.held_since) >= *limit;
        if now >= self.valid_until {
            Some(End::Lost(LostReason::Expired))
        } else {
            self.terms().max_hold.filter(over).map(End::MaxHold)
        }
    }

    /// How far its end in the store is, once its holder has given it up.
    pub(super) fn ending_mut(&mut self) -> Option<&mut Ending> {
        match &mut self.state {
            LeaseState::Releasing(releasing) => Some(&mut releasing.stage),
            _ => None,
        }
    }

    pub(super) fn end(&mut self, end: End, now: Instant) {
        self.state = LeaseState::Ended(end, now.since(self.held_since));
        self.renew_at = None;
    }

    /// Until when the first of those who were told has to take it.
    pub(super) fn untaken_until(&self) -> Option<Instant> {
        self.untaken.iter().map(|(_, deadline)| *deadline).min()
    }

    /// No longer waits for this waiter to take it. Whether it did.
    pub(super) fn took(&mut self, id: WaiterId) -> bool {
        let untaken = self.untaken.len();
        self.untaken.retain(|(waiter, _)| *waiter != id);
        self.untaken.len() < untaken
    }

    /// Whether it is what a waiter with these terms wants.
    pub(super) fn suits(&self, wanted: &Terms) -> bool {
        let own = self.terms();
        let alike = Terms {
            mode: wanted.mode,
            ..own
        };
        alike == *wanted && own.mode.satisfies(&wanted.mode, self.shard)
    }

    /// How much has to be left of it for another holder.
    pub(super) fn enough(&self, rules: &Rules) -> Duration {
        let terms = self.terms();
        match terms.renew {
            Some(_) => rules.grace.min(terms.ttl) / 2,
            // Nothing will be added to it.
            None => terms.ttl / 10 * 9,
        }
    }

    /// Whether one more reader of this process, with these terms, can share it: each has a
    /// `max_hold` of its own, so with one it has a lease of its own.
    pub(super) fn is_open_to(&self, wanted: &Terms, rules: &Rules, now: Instant) -> bool {
        let is_open = now < self.open_until || made(Mistake::JoinsWithoutEnd);
        self.terms().mode == Mode::Shared
            && self.is_held()
            && is_open
            && self.suits(wanted)
            && wanted.max_hold.is_none()
            && self.valid_until.since(now) >= self.enough(rules)
    }

    /// Whether it is taken back if its waiter does not take it by its deadline.
    pub(super) fn is_taken_back(&self) -> bool {
        if made(Mistake::UntakenLossIsKept) {
            return self.is_held();
        }
        !made(Mistake::UntakenIsKept)
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, LeaseState::Held)
    }

    /// Whether the holder with `token` has it.
    pub(super) fn is_held_with(&self, token: FencingToken) -> bool {
        self.is_held() && self.token == token
    }

    /// Whether nobody else of this process can have the lock as long as the lease is as it is.
    pub(super) fn occupies(&self) -> bool {
        !matches!(self.state, LeaseState::Ended(..))
    }

    /// How long the holder with `token` may still rely on the lease; zero if it may not.
    pub(super) fn remaining(&self, token: FencingToken, now: Instant) -> Duration {
        match self.fault(token, now) {
            None => self.valid_until.since(now),
            Some(_) => Duration::ZERO,
        }
    }

    /// Why the holder with `token` may not rely on the lease `now`, and for how long it had been
    /// held; `None` if it may.
    pub(super) fn fault(&self, token: FencingToken, now: Instant) -> Option<(End, Duration)> {
        let given_up = End::Lost(LostReason::NotHeld);
        let held = now.since(self.held_since);
        match &self.state {
            LeaseState::Held if self.token == token => self.run_out(now).map(|end| (end, held)),
            LeaseState::Ended(end, held) if self.token == token => Some((*end, *held)),
            _ => Some((given_up, held)),
        }
    }

    /// The next fencing token for a holder in this process, if one is left.
    pub(super) fn next_token(&mut self) -> Option<FencingToken> {
        if made(Mistake::PassesBeyondBlock) && !self.has_token() {
            return Some(self.token.next());
        }
        self.spare_tokens = self.spare_tokens.checked_sub(1)?;
        let token = self.next_token;
        self.next_token = token.next();
        Some(token)
    }

    fn max_hold_ends(&self) -> Option<Instant> {
        let limit = self.terms().max_hold;
        limit.map(|limit| self.held_since + limit)
    }

    /// When something happens to a lease that is held, without anybody's doing.
    pub(super) fn attention_at(&self) -> Instant {
        let untaken = self.untaken_until().filter(|_| self.is_taken_back());
        [self.renew_at, self.max_hold_ends(), untaken]
            .into_iter()
            .flatten()
            .fold(self.valid_until, Instant::min)
    }

    /// The renewal of this lease, with further fencing tokens if none is left for another holder.
    pub(super) fn renewal(
        &self,
        key: &LockKey,
        rules: &Rules,
        now: Instant,
        waiting: usize,
    ) -> Renewal {
        let ttl = self.terms().ttl.max(self.least(rules, now));
        let mut renewal = Renewal::new(key.clone(), self.owner.clone(), ttl);
        let mode = self.terms().mode;
        renewal.mode = mode;
        renewal.shard = self.shard;
        if !self.has_token() && mode != Mode::Shared {
            renewal.tokens = rules.passes(waiting);
        }
        renewal
    }

    /// Its release.
    pub(super) fn release(&self, key: &LockKey) -> Release {
        let mut release = Release::new(key.clone(), self.owner.clone());
        release.mode = self.terms().mode;
        release.shard = self.shard;
        release
    }

    /// How long the lease has to live at least, where the key is kept: never shorter than its
    /// holder counts on, and from one renewal to the next no longer.
    fn least(&self, rules: &Rules, now: Instant) -> Duration {
        if made(Mistake::CrashBreaksMinHold) {
            return Duration::ZERO;
        }
        let wanted = match (self.wanted, self.kept_until, self.terms().min_hold) {
            // An answer that comes later is none.
            (Some(wanted), _, _) => wanted.get() + rules.command_timeout,
            (None, None, Some(least)) => least + rules.latency(least),
            (None, Some(_), _) => Duration::ZERO,
            (None, None, None) => return Duration::ZERO,
        };
        let kept = self
            .kept_until
            .map_or(Duration::ZERO, |until| until.since(now));
        covering(wanted.max(kept).max(self.valid_until.since(now)))
    }

    /// Whether the key stays taken until then, also if this process dies now.
    pub(super) fn covers(&self, until: Instant) -> bool {
        self.valid_until >= until || made(Mistake::CrashBreaksMinHold)
    }

    /// For how long the store is to keep the key when the lease ends `now`.
    pub(super) fn keep(&self, now: Instant) -> Option<Duration> {
        let rest = self.kept_until?.since(now);
        (!rest.is_zero()).then(|| covering(rest))
    }

    /// How long to wait for the answer to a renewal: short enough for further tries before the
    /// lease ends.
    pub(super) fn patience(&self, now: Instant, rules: &Rules) -> Duration {
        let left = self.valid_until.since(now);
        let limit = rules.command_timeout.min(self.terms().ttl / 4);
        limit.min(left / 3).max(Duration::from_millis(2))
    }

    /// Takes in that the store extended the lease in answer to a request sent at `sent_at`.
    pub(super) fn extended(&mut self, sent_at: Instant, extension: Extension) {
        let terms = self.terms();
        let valid_for = extension.valid_for.unwrap_or(terms.ttl);
        self.valid_until = self.valid_until.max(valid_until(sent_at, valid_for));
        if let Some(tokens) = extension.tokens {
            self.reserve(tokens);
        }
        self.renew_at = terms.renew.map(|period| on_grid(sent_at, period));
        if made(Mistake::RenewsWithoutPause) {
            self.renew_at = terms.renew.map(|_| sent_at);
        }
    }

    /// Takes in that the store could not be asked: it is asked again soon, and a few times before
    /// the lease ends. Whatever the error, trying costs little, and the deadline decides.
    pub(super) fn not_extended(&mut self, now: Instant, chance: u32) {
        let terms = self.terms();
        let period = terms.renew.unwrap_or(terms.ttl / 10);
        let pause = jittered((period / 2).min(Duration::from_secs(1)), chance);
        let left = self.valid_until.since(now);
        let pause = pause.min(left / 4).max(Duration::from_millis(1));
        self.renew_at = Some(now + pause);
    }
}

/// When to renew a lease that was granted or renewed by a request sent at `sent_at`.
///
/// Up to a quarter of the period early, on a grid of powers of two milliseconds, so that leases of
/// like periods are renewed in one go.
pub(super) fn on_grid(sent_at: Instant, period: Duration) -> Instant {
    const MILLI: u64 = 1_000_000;
    let at = sent_at + period;
    let quarter = u64::try_from(period.as_millis() / 4).unwrap_or(u64::MAX);
    let Some(power) = quarter.checked_ilog2() else {
        return at;
    };
    let step = MILLI << power.min(40);
    Instant::from_nanos(at.as_nanos() / step * step)
}

/// Between a half and the whole of `pause`, as `chance` has it.
pub(super) fn jittered(pause: Duration, chance: u32) -> Duration {
    let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    let half = nanos / 2;
    let share = u128::from(half) * u128::from(chance) / u128::from(u32::MAX);
    // It is at most the half of a number that fits.
    Duration::from_nanos(half + share as u64)
}
