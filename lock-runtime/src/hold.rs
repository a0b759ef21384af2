//! A lease as this process knows it, shared by its holder, the handles on it and the watchdog.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use lock_protocol::{
    Claim, Extension, FenceBlock, FencingToken, LockKey, LostReason, OwnerToken, Renewal,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::error::LockError;
use crate::sync::lock;

/// How a lease is kept: what a caller asked for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) ttl: Duration,
    /// The period of the watchdog; `None` leaves the lease to end after its ttl.
    pub(crate) renew: Option<Duration>,
    /// How long one holder may keep it, renewals included.
    pub(crate) max_hold: Option<Duration>,
}

/// A granted claim. It may have several holders in this process, one after the other, each with its own fencing token.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) key: LockKey,
    pub(crate) owner: OwnerToken,
    pub(crate) terms: Terms,
    state: Mutex<State>,
    /// Told whenever the present holder stops holding, for whatever reason.
    ended: Notify,
}

#[derive(Debug)]
struct State {
    /// Until when the lease may be relied on; counted from before a request was sent, never from an answer.
    valid_until: Instant,
    /// The token of the present holder; whoever has a smaller one held the lease earlier.
    token: FencingToken,
    /// The tokens reserved for the holders to come.
    spare: Option<FenceBlock>,
    held_since: Instant,
    /// Only ever leaves `Held` once: a lost lease is never found again.
    status: Status,
    /// When to renew; `None` while a renewal is under way, and for leases that are not renewed.
    renew_at: Option<Instant>,
    /// Under which instant the watchdog has filed the lease.
    filed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Held,
    /// Given up by its holder.
    GivenUp,
    /// Ended against the will of its holder.
    Ended(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Lost(LostReason),
    /// Held for longer than this limit.
    MaxHold(Duration),
}

/// What the watchdog has to do for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Look again later.
    Wait,
    /// Ask the store to extend it.
    Renew,
    /// Nothing, ever again: its holder has given it up.
    Forget,
    /// Let others take its place: it ended against the will of its holder, who has been told.
    CleanUp,
}

impl Lease {
    /// The lease of `claim`, granted with `tokens` `now`, to be relied on until `valid_until` and renewed at `renew_at`.
    pub(crate) fn new(
        claim: Claim,
        terms: Terms,
        tokens: FenceBlock,
        now: Instant,
        valid_until: Instant,
        renew_at: Option<Instant>,
    ) -> Lease {
        let mut state = State {
            valid_until,
            token: tokens.first,
            spare: Some(tokens),
            held_since: now,
            status: Status::Held,
            renew_at,
            filed_at: None,
        };
        state.take_spare();
        Lease {
            key: claim.key,
            owner: claim.owner,
            terms,
            state: Mutex::new(state),
            ended: Notify::new(),
        }
    }

    /// The token of the present holder.
    pub(crate) fn token(&self) -> FencingToken {
        self.state().token
    }

    /// `Ok` while the holder with `token` may rely on the lease, else why it may not.
    pub(crate) fn check(&self, token: FencingToken) -> Result<(), LockError> {
        let mut state = self.state();
        match self.standing(&mut state, token) {
            Status::Held => Ok(()),
            Status::Ended(end) => Err(self.error(end, &state)),
            // For handles that have outlived their holder.
            Status::GivenUp => Err(self.error(End::Lost(LostReason::NotHeld), &state)),
        }
    }

    /// How long the holder with `token` may still rely on the lease; zero if it may not.
    pub(crate) fn remaining(&self, token: FencingToken) -> Duration {
        let mut state = self.state();
        match self.standing(&mut state, token) {
            Status::Held => state.valid_until.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    /// Resolves once the holder with `token` does not hold the lease any more.
    pub(crate) async fn ended(&self, token: FencingToken) {
        loop {
            let mut told = std::pin::pin!(self.ended.notified());
            // Registered before the check, so that an end in between is not missed.
            told.as_mut().enable();
            let left = self.remaining(token);
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = told => {}
                // The watchdog tells it too, if nothing keeps it from its work.
                () = sleep(left) => {}
            }
        }
    }

    /// Ends the hold of the holder with `token` by its own will; `Err` if it had been lost before.
    pub(crate) fn give_up(&self, token: FencingToken) -> Result<(), LockError> {
        let held = self.check(token);
        let mut state = self.state();
        if state.token == token && state.status == Status::Held {
            state.status = Status::GivenUp;
            self.ended.notify_waiters();
        }
        held
    }

    /// Passes the lease on from the holder with `token` to a next one of this process, who gets the token returned.
    ///
    /// `None` if fewer than `least` is left of the lease, or no token is left for another holder.
    pub(crate) fn pass_on(&self, token: FencingToken, least: Duration) -> Option<FencingToken> {
        let mut state = self.state();
        let now = Instant::now();
        if self.standing(&mut state, token) != Status::Held
            || state.valid_until.saturating_duration_since(now) < least
        {
            return None;
        }
        let next = state.take_spare()?;
        state.token = next;
        state.held_since = now;
        self.ended.notify_waiters();
        Some(next)
    }

    /// The error of a holder whose lease the store did not know when it was released.
    pub(crate) fn was_not_held(&self) -> LockError {
        self.error(End::Lost(LostReason::NotHeld), &self.state())
    }

    /// When the watchdog has to look at the lease; `None` for one that has been given up.
    pub(crate) fn attention_at(&self) -> Option<Instant> {
        let state = self.state();
        let max_hold_ends = self
            .terms
            .max_hold
            .and_then(|limit| state.held_since.checked_add(limit));
        let next = [state.renew_at, max_hold_ends].into_iter().flatten();
        (state.status != Status::GivenUp).then(|| next.fold(state.valid_until, Instant::min))
    }

    /// What the watchdog has to do now. A renewal counts as under way from here on.
    pub(crate) fn duty(&self) -> Duty {
        let mut state = self.state();
        let token = state.token;
        match self.standing(&mut state, token) {
            Status::GivenUp => Duty::Forget,
            Status::Ended(_) => Duty::CleanUp,
            Status::Held if state.renew_at.is_some_and(|at| at <= Instant::now()) => {
                state.renew_at = None;
                Duty::Renew
            }
            Status::Held => Duty::Wait,
        }
    }

    /// The renewal of this lease, with `tokens` further fencing tokens if none is left for another holder.
    pub(crate) fn renewal(&self, tokens: u32) -> Renewal {
        let mut renewal = Renewal::new(self.key.clone(), self.owner.clone(), self.terms.ttl);
        if self.state().spare.is_none() {
            renewal.tokens = tokens;
        }
        renewal
    }

    /// Takes in that the store extended the lease in answer to a request sent at `sent_at`; the watchdog renews it next at `renew_at`.
    pub(crate) fn renewed(
        &self,
        sent_at: Instant,
        extension: Extension,
        renew_at: Option<Instant>,
    ) {
        let mut state = self.state();
        let token = state.token;
        // An answer that comes after the deadline revives nothing: the holder may have been told.
        if self.standing(&mut state, token) != Status::Held {
            return;
        }
        let until = clock::valid_until(sent_at, extension.valid_for.unwrap_or(self.terms.ttl));
        state.valid_until = state.valid_until.max(until);
        state.spare = extension.tokens.or(state.spare);
        state.renew_at = renew_at;
    }

    /// Takes in that the store could not be asked; the watchdog tries again after `pause`, and a few times before the lease ends.
    pub(crate) fn renewal_failed(&self, pause: Duration) {
        let mut state = self.state();
        let now = Instant::now();
        let left = state.valid_until.saturating_duration_since(now);
        let pause = pause.min(left / 4).max(Duration::from_millis(1));
        state.renew_at = Some(now + pause);
    }

    /// Takes in that the store does not know the lease any more.
    pub(crate) fn was_lost(&self) {
        let mut state = self.state();
        let token = state.token;
        if self.standing(&mut state, token) == Status::Held {
            self.end(&mut state, End::Lost(LostReason::NotHeld));
        }
    }

    /// Where the watchdog has filed the lease, replaced by `at`. Called by the watchdog alone.
    pub(crate) fn refile(&self, at: Option<Instant>) -> Option<Instant> {
        std::mem::replace(&mut self.state().filed_at, at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How the holder with `token` stands. What has run out by the clock is marked as ended, once and for all.
    fn standing(&self, state: &mut State, token: FencingToken) -> Status {
        if state.token != token {
            return Status::GivenUp;
        }
        if state.status == Status::Held {
            let now = Instant::now();
            if now >= state.valid_until {
                self.end(state, End::Lost(LostReason::Expired));
            } else if let Some(limit) = self.terms.max_hold
                && now.duration_since(state.held_since) >= limit
            {
                self.end(state, End::MaxHold(limit));
            }
        }
        state.status
    }

    fn end(&self, state: &mut State, end: End) {
        state.status = Status::Ended(end);
        self.ended.notify_waiters();
    }

    fn error(&self, end: End, state: &State) -> LockError {
        let key = self.key.clone();
        match end {
            End::MaxHold(limit) => LockError::MaxHold { key, limit },
            End::Lost(reason) => LockError::Lost {
                key,
                reason,
                held: state.held_since.elapsed(),
            },
        }
    }
}

impl State {
    fn take_spare(&mut self) -> Option<FencingToken> {
        let FenceBlock { first, last } = self.spare?;
        self.spare = (first < last).then(|| FenceBlock {
            first: FencingToken::new(first.as_u64() + 1),
            last,
        });
        Some(first)
    }
}
