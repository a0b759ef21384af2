//! One key: who holds it, and who waits.

use alloc::collections::VecDeque;
use core::time::Duration;

use smallvec::{SmallVec, smallvec};

use super::fence::Fence;
use super::{Message, Messages, Moment, Word, withdrawn};
use crate::claim::{
    Acquired, Claim, Contended, Extension, Grant, Holder, LostReason, Release, Released, Renewal,
    Renewed,
};
use crate::mistakes::{Mistake, made};
use crate::mode::{Kind, Mode};
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::{FenceBlock, FencingToken, OwnerToken};

#[derive(Clone, Debug, Hash)]
pub(super) struct Lock<W> {
    /// All of one kind, each with a life of its own. Of the exclusive kind there is one.
    pub(super) leases: SmallVec<[StoredLease; 1]>,
    /// In the order in which the store first heard of the claims.
    pub(super) queue: VecDeque<QueuedClaim<W>>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct StoredLease {
    pub(super) owner: OwnerToken,
    /// `None`: never.
    pub(super) ends: Option<Instant>,
    pub(super) is_foreign: bool,
    pub(super) mode: Mode,
    /// Which part of the key it is.
    pub(super) shard: u8,
    /// The first of its tokens; all who share a key have the same.
    pub(super) token: FencingToken,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct QueuedClaim<W> {
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
    pub(super) fn begin(&mut self, theft: Option<&StoredLease>) {
        self.lock.settle(self.at.now);
        if let Some(theft) = theft {
            self.lock.leases = smallvec![theft.clone()];
        }
        self.serve();
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
            self.lock.leases.clear();
        }
        if let Some(lease) = self.lock.lease_of(&claim.owner)
            && !made(Mistake::OwnerNotRecognised)
        {
            lease.extend(claim.ttl, now);
            if made(Mistake::LateAcquireShortens) {
                lease.ends = Some(now + claim.ttl);
            }
            let (shard, token) = (lease.shard, lease.token);
            // New ones, since nobody kept which it had.
            let last = self.fence.last();
            let tokens = if claim.mode == Mode::Shared {
                FenceBlock {
                    first: token,
                    last: token,
                }
            } else if made(Mistake::RepeatGivesLastToken) {
                FenceBlock { first: last, last }
            } else {
                self.fence.draw(claim.tokens, self.at.micros)
            };
            return Acquired::Granted(self.granted(claim, tokens, claim.ttl, shard));
        }
        let passes = made(Mistake::ReaderPassesWriter) && claim.mode == Mode::Shared
            || made(Mistake::FreeForAnyone);
        if (self.lock.queue.is_empty() || passes)
            && let Some(shard) = self.lock.place_for(&claim.mode)
        {
            return Acquired::Granted(self.grant(claim, claim.ttl, shard));
        }
        if let Some(waiter) = self.lock.waiter(&claim.owner)
            && !made(Mistake::RepeatQueuesAgain)
        {
            waiter.heard = now;
            waiter.way = way.clone();
            Acquired::Queued(self.lock.seen_by(claim, now))
        } else if claim.queue {
            self.lock.queue.push_back(QueuedClaim {
                claim: claim.clone(),
                way: way.clone(),
                heard: now,
            });
            Acquired::Queued(self.lock.seen_by(claim, now))
        } else {
            Acquired::Taken(self.lock.seen_by(claim, now))
        }
    }

    pub(super) fn renew(&mut self, renewal: &Renewal) -> Renewed {
        let (now, micros) = (self.at.now, self.at.micros);
        self.announce_if_told();
        if made(Mistake::RenewWithoutCompare)
            && let Some(lease) = self.lock.leases.first_mut()
        {
            lease.owner = renewal.owner.clone();
        }
        if made(Mistake::RenewsOthers) {
            for lease in &mut self.lock.leases {
                lease.extend(renewal.ttl, now);
            }
        }
        if made(Mistake::ExpiredPermitRevived)
            && let Mode::Permits { .. } = renewal.mode
            && self.lock.lease_of(&renewal.owner).is_none()
        {
            self.lock.leases.push(StoredLease {
                owner: renewal.owner.clone(),
                ends: Some(now),
                is_foreign: false,
                mode: renewal.mode,
                shard: 0,
                token: self.fence.last(),
            });
        }
        // Nothing is known of a lease that has run out.
        let is_free = self.lock.leases.is_empty();
        match self.lock.lease_of(&renewal.owner) {
            Some(lease) => {
                // All renewals of an owner have the same ttl, so that a late one shortens nothing
                // that its holder counts on.
                lease.ends = lease.ends.map(|_| now + renewal.ttl);
                self.lock.end_as_one();
                let wanted = renewal.tokens;
                let further = (wanted > 0).then(|| self.fence.draw(wanted, micros));
                Renewed::Held(Extension::with_tokens(further))
            }
            None if is_free => Renewed::Lost(LostReason::Deleted),
            None => Renewed::Lost(LostReason::TakenOver),
        }
    }

    pub(super) fn release(&mut self, release: &Release, way: &W, next_is_gone: bool) -> Released {
        if let Some(keep) = release.keep
            && !made(Mistake::KeepHandsOver)
        {
            return self.keep(release, keep);
        }
        let is_permit = matches!(release.mode, Mode::Permits { .. });
        if made(Mistake::ReleaseWithoutCompare) {
            self.lock.leases.clear();
        } else if made(Mistake::PermitsNotOwned) && is_permit && !self.lock.leases.is_empty() {
            self.lock.leases.remove(0);
        } else if !self.lock.end_lease_of(&release.owner) {
            self.announce_if_told();
            return Released::NotHeld;
        }
        let is_company = release.mode != Mode::Exclusive;
        let forgets = made(Mistake::ReleaseForgetsQueue)
            || made(Mistake::LastReaderForgetsQueue) && is_company;
        if !forgets {
            self.serve();
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
        match self.lock.lease_of(&release.owner) {
            Some(lease) => {
                // What the owner asked for before may come yet, and must not find it.
                lease.owner = lease.owner.kept();
                // No longer than it was: this may be an old question.
                lease.ends = lease.ends.map(|ends| ends.min(now + keep));
            }
            None => {
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
            self.serve();
        }
        if was_waiting || !self.messages.is_empty() {
            // The claim does not look after the owner any more.
            self.announce();
        }
        was_waiting || was_owner
    }

    /// Makes the claims that have waited longest the owners of what there is for them, for their
    /// grace. Nobody passes a head that does not fit yet.
    fn serve(&mut self) {
        let served = self.messages.len();
        while let Some(head) = self.lock.queue.front()
            && let Some(shard) = self.lock.place_for(&head.claim.mode)
            && let Some(QueuedClaim { claim, way, .. }) = self.lock.queue.pop_front()
        {
            let last = self.fence.last();
            let mut grant = self.grant(&claim, claim.grace, shard);
            let lease = self.lock.leases.last_mut();
            if made(Mistake::HandOverKeepsToken) {
                grant.tokens = FenceBlock { first: last, last };
            } else if let Some(lease) = lease
                && made(Mistake::HandOverWithoutLease)
            {
                lease.ends = None;
            }
            self.tell(claim.owner, way, Word::Granted(grant, self.at.now));
            let served = self.messages.len() - served;
            if made(Mistake::BatchOfOne) || made(Mistake::BatchTailForgotten) && served > 1 {
                return;
            }
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
        if let Some(first) = self.lock.queue.front()
            && let Some(ends) = self.lock.ends_for(&first.claim)
        {
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

    fn grant(&mut self, claim: &Claim, valid_for: Duration, shard: u8) -> Grant {
        let tokens = match (claim.mode, self.lock.leases.first()) {
            (Mode::Shared, Some(other)) => FenceBlock {
                first: other.token,
                last: other.token,
            },
            (Mode::Shared, None) if made(Mistake::PhaseTokenReused) => FenceBlock {
                first: self.fence.last(),
                last: self.fence.last(),
            },
            (Mode::Shared, None) => self.fence.draw(1, self.at.micros),
            _ => self.fence.draw(claim.tokens, self.at.micros),
        };
        self.lock.leases.push(StoredLease {
            owner: claim.owner.clone(),
            ends: Some(self.at.now + valid_for),
            is_foreign: false,
            mode: claim.mode,
            shard,
            token: tokens.first,
        });
        self.lock.end_as_one();
        self.granted(claim, tokens, valid_for, shard)
    }

    fn granted(&self, claim: &Claim, tokens: FenceBlock, valid_for: Duration, shard: u8) -> Grant {
        let mut grant = Grant::new(tokens, valid_for);
        grant.shard = shard;
        if claim.mode != Mode::Exclusive {
            grant.contended = match self.lock.queue.is_empty() {
                true => Contended::No,
                false => Contended::Yes,
            };
        }
        grant
    }
}

impl<W> Default for Lock<W> {
    fn default() -> Lock<W> {
        Lock {
            leases: SmallVec::new(),
            queue: VecDeque::new(),
        }
    }
}

impl<W> Lock<W> {
    /// Drops what has run out.
    pub(super) fn settle(&mut self, now: Instant) {
        self.leases.retain(|lease| lease.is_live(now));
        self.queue.retain(|waiter| waiter.is_remembered(now));
    }

    /// Whether all that there is has run out.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        !self.leases.iter().any(|lease| lease.is_live(now))
            && !self.queue.iter().any(|waiter| waiter.is_remembered(now))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.queue.is_empty()
    }

    fn lease_of(&mut self, owner: &OwnerToken) -> Option<&mut StoredLease> {
        self.leases.iter_mut().find(|lease| lease.owner == *owner)
    }

    /// Whether there was a lease of `owner` to end.
    fn end_lease_of(&mut self, owner: &OwnerToken) -> bool {
        let leases = self.leases.len();
        self.leases.retain(|lease| lease.owner != *owner);
        self.leases.len() < leases
    }

    /// What leases do that have one ttl for all of them: a mistake.
    fn end_as_one(&mut self) {
        if made(Mistake::WholeSetTtl) {
            let latest = self.leases.iter().filter_map(|lease| lease.ends).max();
            for lease in &mut self.leases {
                lease.ends = latest;
            }
        }
    }

    /// Which part of the key there is for a claim of this mode beside the leases, 0 if the key has
    /// no parts; `None` if there is nothing for it.
    fn place_for(&self, mode: &Mode) -> Option<u8> {
        if !self
            .leases
            .iter()
            .all(|lease| lease.mode.kind() == mode.kind())
        {
            return None;
        }
        let taken = |lease: &StoredLease| match lease.mode {
            Mode::Permits { take, .. } => u32::from(take),
            _ => 0,
        };
        match mode {
            Mode::Exclusive => self.leases.is_empty().then_some(0),
            Mode::Shared => Some(0),
            Mode::Permits { take, of } => {
                let taken: u32 = self.leases.iter().map(taken).sum();
                let taken = taken.saturating_sub(u32::from(made(Mistake::OnePermitMore)));
                (taken.saturating_add(u32::from(*take)) <= *of).then_some(0)
            }
            Mode::Shard { .. } if made(Mistake::ShardTwice) => mode.shard_beside(0),
            Mode::Shard { .. } => {
                let shards = self.leases.iter().map(|lease| 1_u64 << (lease.shard % 64));
                mode.shard_beside(shards.fold(0, |all, one| all | one))
            }
        }
    }

    /// When the claim, which is the first, should ask, if nobody tells it before: when one of its
    /// kind ends, since that may be enough, else when all have ended. `None` if that is never.
    fn ends_for(&self, claim: &Claim) -> Option<Instant> {
        let kind = claim.mode.kind();
        let one_is_enough = matches!(kind, Kind::Permits | Kind::Shard)
            && self.leases.iter().any(|lease| lease.mode.kind() == kind);
        let ends = self.leases.iter().filter_map(|lease| lease.ends);
        if one_is_enough {
            ends.min()
        } else {
            // One that never ends is alone.
            ends.max()
        }
    }

    /// What a claim that has to wait is told of the owners.
    fn seen_by(&self, claim: &Claim, now: Instant) -> Holder {
        // Of those behind the first, nobody has to look before the first is gone.
        let is_behind = self
            .queue
            .front()
            .is_some_and(|first| first.claim.owner != claim.owner);
        let ends = if is_behind {
            self.leases.iter().filter_map(|lease| lease.ends).max()
        } else {
            self.ends_for(claim)
        };
        let remaining = ends.map(|ends| ends.since(now));
        if self.leases.iter().any(|lease| lease.is_foreign) {
            return Holder::foreign(remaining);
        }
        let mut holder = Holder::of_ours(remaining.unwrap_or(Duration::MAX));
        // Of several, none is the one.
        holder.process = match self.leases.as_slice() {
            [lease] => lease.owner.process(),
            _ => None,
        };
        holder
    }

    /// Whether `owner` stood there.
    fn leave_queue(&mut self, owner: &OwnerToken) -> bool {
        let waiters = self.queue.len();
        self.queue.retain(|waiter| waiter.claim.owner != *owner);
        self.queue.len() < waiters
    }

    fn waiter(&mut self, owner: &OwnerToken) -> Option<&mut QueuedClaim<W>> {
        let mut queue = self.queue.iter_mut();
        queue.find(|waiter| waiter.claim.owner == *owner)
    }
}

impl StoredLease {
    /// Gives it its ttl from now on, unless it has more: a question that comes late must not
    /// shorten what a younger one got.
    fn extend(&mut self, ttl: Duration, now: Instant) {
        self.ends = self.ends.map(|ends| ends.max(now + ttl));
    }

    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }
}

impl<W> QueuedClaim<W> {
    pub(super) fn is_remembered(&self, now: Instant) -> bool {
        now.since(self.heard) <= self.claim.heartbeat.saturating_mul(2)
    }
}
