//! One key: who holds it, and who waits.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::fence::Fence;
use super::{Message, Messages, Moment, Word, withdrawn};
use crate::claim::{
    Acquired, Claim, Extension, Grant, Holder, LostReason, Release, Released, Renewal, Renewed,
};
use crate::mistakes::{Mistake, made};
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::{FenceBlock, OwnerToken};

#[derive(Clone, Debug, Hash)]
pub(super) struct Lock<W> {
    pub(super) lease: Option<Lease>,
    /// In the order in which the store first heard of the claims.
    pub(super) queue: VecDeque<Waiter<W>>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Lease {
    pub(super) owner: OwnerToken,
    /// `None`: never.
    pub(super) ends: Option<Instant>,
    pub(super) is_foreign: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Waiter<W> {
    pub(super) claim: Claim,
    way: W,
    /// When the claim last asked.
    heard: Instant,
}

/// A verb that is done to one key.
pub(super) struct Turn<'a, W> {
    pub(super) key: &'a LockKey,
    pub(super) lock: &'a mut Lock<W>,
    pub(super) fence: &'a mut Fence,
    pub(super) at: Moment,
    pub(super) messages: Messages<W>,
}

impl<W: Clone> Turn<'_, W> {
    /// Notices what has happened since the last verb.
    pub(super) fn begin(&mut self, theft: Option<&Lease>) {
        self.lock.settle(self.at.now);
        if let Some(theft) = theft {
            self.lock.lease = Some(theft.clone());
        }
        self.hand_over();
    }

    pub(super) fn acquire(&mut self, claim: &Claim, way: &W, is_gone: bool) -> Acquired {
        let answer = if is_gone {
            withdrawn()
        } else {
            self.take_or_queue(claim, way)
        };
        if let Acquired::Queued(_) = answer {
            // It looks after the owner itself.
            return answer;
        }
        // What has been handed to the asker is in the answer.
        let (messages, owner) = (&mut self.messages, &claim.owner);
        messages.retain(|message| message.owner != *owner);
        if !messages.is_empty() {
            self.announce();
        }
        answer
    }

    fn take_or_queue(&mut self, claim: &Claim, way: &W) -> Acquired {
        let now = self.at.now;
        if made(Mistake::FreeForAnyone) && !self.messages.is_empty() {
            self.messages.clear();
            self.lock.lease = None;
        }
        let Some(lease) = &mut self.lock.lease else {
            return Acquired::Granted(self.grant(claim, claim.ttl));
        };
        if lease.owner == claim.owner && !made(Mistake::OwnerNotRecognised) {
            lease.extend(claim.ttl, now);
            if made(Mistake::LateAcquireShortens) {
                lease.ends = Some(now + claim.ttl);
            }
            // New ones, since nobody kept which it had.
            let last = self.fence.last();
            let tokens = if made(Mistake::RepeatGivesLastToken) {
                FenceBlock { first: last, last }
            } else {
                self.fence.draw(claim.tokens, self.at.micros)
            };
            return Acquired::Granted(Grant::new(tokens, claim.ttl));
        }
        let holder = lease.seen_by_others(now);
        if let Some(waiter) = self.lock.waiter(&claim.owner)
            && !made(Mistake::RepeatQueuesAgain)
        {
            waiter.heard = now;
            waiter.way = way.clone();
            Acquired::Queued(holder)
        } else if claim.queue {
            self.lock.queue.push_back(Waiter {
                claim: claim.clone(),
                way: way.clone(),
                heard: now,
            });
            Acquired::Queued(holder)
        } else {
            Acquired::Taken(holder)
        }
    }

    pub(super) fn renew(&mut self, renewal: &Renewal) -> Renewed {
        let (now, micros) = (self.at.now, self.at.micros);
        self.announce_if_told();
        if made(Mistake::RenewWithoutCompare)
            && let Some(lease) = &mut self.lock.lease
        {
            lease.owner = renewal.owner.clone();
        }
        match &mut self.lock.lease {
            Some(lease) if lease.owner == renewal.owner => {
                // All renewals of an owner have the same ttl, so that a late one shortens nothing
                // that its holder counts on.
                lease.ends = lease.ends.map(|_| now + renewal.ttl);
                let wanted = renewal.tokens;
                let further = (wanted > 0).then(|| self.fence.draw(wanted, micros));
                Renewed::Held(Extension::with_tokens(further))
            }
            Some(_) => Renewed::Lost(LostReason::TakenOver),
            None => Renewed::Lost(LostReason::Deleted),
        }
    }

    pub(super) fn release(&mut self, release: &Release, way: &W, next_is_gone: bool) -> Released {
        if let Some(keep) = release.keep
            && !made(Mistake::KeepHandsOver)
        {
            return self.keep(release, keep);
        }
        if made(Mistake::ReleaseWithoutCompare) {
            self.lock.lease = None;
        } else if !self.lock.end_lease_of(&release.owner) {
            self.announce_if_told();
            return Released::NotHeld;
        }
        if !made(Mistake::ReleaseForgetsQueue) {
            self.hand_over();
        }
        match &release.next {
            Some(next) => Released::Released(Some(self.acquire(next, way, next_is_gone))),
            None => {
                self.announce_if_told();
                Released::Released(None)
            }
        }
    }

    /// Ends the lease, and leaves the key taken for a while.
    fn keep(&mut self, release: &Release, keep: Duration) -> Released {
        let now = self.at.now;
        match &mut self.lock.lease {
            Some(lease) if lease.owner == release.owner => {
                // What the owner asked for before may come yet, and must not find it.
                lease.owner = lease.owner.kept();
                // No longer than it was: this may be an old question.
                lease.ends = lease.ends.map(|ends| ends.min(now + keep));
            }
            _ => {
                self.announce_if_told();
                return Released::NotHeld;
            }
        }
        self.announce();
        Released::Released(None)
    }

    /// Whether there was anything of the claim.
    pub(super) fn abandon(&mut self, owner: &OwnerToken) -> bool {
        let was_waiting = self.lock.leave_queue(owner);
        let was_owner = !made(Mistake::AbandonOnlyLeavesQueue) && self.lock.end_lease_of(owner);
        // It is not told any more what it was just handed.
        self.messages.retain(|message| message.owner != *owner);
        if !made(Mistake::AbandonForgetsQueue) {
            self.hand_over();
        }
        if was_waiting || !self.messages.is_empty() {
            // The claim does not look after the owner any more.
            self.announce();
        }
        was_waiting || was_owner
    }

    /// Makes the claim that has waited longest the owner of a free lock, for its grace.
    fn hand_over(&mut self) {
        if self.lock.lease.is_some() {
            return;
        }
        if let Some(Waiter { claim, way, .. }) = self.lock.queue.pop_front() {
            let last = self.fence.last();
            let mut grant = self.grant(&claim, claim.grace);
            let lease = self.lock.lease.as_mut();
            if made(Mistake::HandOffKeepsToken) {
                grant.tokens = FenceBlock { first: last, last };
            } else if let Some(lease) = lease
                && made(Mistake::HandOffWithoutLease)
            {
                lease.ends = None;
            }
            self.tell(claim.owner, way, Word::Granted(grant, self.at.now));
        }
    }

    fn announce_if_told(&mut self) {
        if !self.messages.is_empty() {
            self.announce();
        }
    }

    /// Tells the first waiter when to look whether the owner is alive: one that died as it was
    /// handed the lock tells nobody.
    fn announce(&mut self) {
        let ends = self.lock.lease.as_ref().and_then(|lease| lease.ends);
        if let (Some(ends), Some(first)) = (ends, self.lock.queue.front()) {
            let (owner, way) = (first.claim.owner.clone(), first.way.clone());
            self.tell(owner, way, Word::AskAt(ends));
        }
    }

    fn tell(&mut self, owner: OwnerToken, way: W, word: Word) {
        self.messages.push(Message {
            key: self.key.clone(),
            owner,
            way,
            word,
        });
    }

    fn grant(&mut self, claim: &Claim, valid_for: Duration) -> Grant {
        let tokens = self.fence.draw(claim.tokens, self.at.micros);
        self.lock.lease = Some(Lease {
            owner: claim.owner.clone(),
            ends: Some(self.at.now + valid_for),
            is_foreign: false,
        });
        Grant::new(tokens, valid_for)
    }
}

impl<W> Default for Lock<W> {
    fn default() -> Lock<W> {
        Lock {
            lease: None,
            queue: VecDeque::new(),
        }
    }
}

impl<W> Lock<W> {
    /// Drops what has run out.
    pub(super) fn settle(&mut self, now: Instant) {
        self.lease.take_if(|lease| !lease.is_live(now));
        self.queue.retain(|waiter| waiter.is_remembered(now));
    }

    /// Whether all that there is has run out.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        !self.lease.as_ref().is_some_and(|lease| lease.is_live(now))
            && !self.queue.iter().any(|waiter| waiter.is_remembered(now))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lease.is_none() && self.queue.is_empty()
    }

    /// Whether there was a lease of `owner` to end.
    fn end_lease_of(&mut self, owner: &OwnerToken) -> bool {
        self.lease.take_if(|lease| lease.owner == *owner).is_some()
    }

    /// Whether `owner` stood there.
    fn leave_queue(&mut self, owner: &OwnerToken) -> bool {
        let waiters = self.queue.len();
        self.queue.retain(|waiter| waiter.claim.owner != *owner);
        self.queue.len() < waiters
    }

    fn waiter(&mut self, owner: &OwnerToken) -> Option<&mut Waiter<W>> {
        let mut queue = self.queue.iter_mut();
        queue.find(|waiter| waiter.claim.owner == *owner)
    }
}

impl Lease {
    /// Gives it its ttl from now on, unless it has more: a question that comes late must not
    /// shorten what a younger one got.
    fn extend(&mut self, ttl: Duration, now: Instant) {
        self.ends = self.ends.map(|ends| ends.max(now + ttl));
    }

    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    fn seen_by_others(&self, now: Instant) -> Holder {
        if self.is_foreign {
            Holder::foreign(self.ends.map(|ends| ends.since(now)))
        } else {
            let left = self.ends.map_or(Duration::MAX, |ends| ends.since(now));
            let mut holder = Holder::of_ours(left);
            holder.process = self.owner.process();
            holder
        }
    }
}

impl<W> Waiter<W> {
    pub(super) fn is_remembered(&self, now: Instant) -> bool {
        now.since(self.heard) <= self.claim.heartbeat.saturating_mul(2)
    }
}
