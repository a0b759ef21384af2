//! The server: the pure store, and an onlooker beside it who keeps a list of its own of who waits.

use std::collections::HashSet;
use std::hash::Hash;

use lock_protocol::store::{Messages, Moment, Store};
use lock_protocol::{
    Acquired, Claim, FenceBlock, Instant, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};

use crate::clock::{MS, Time, nanos};
use crate::promise::{Promise, Violation};
use crate::sum::Sum;

/// A process, and which of its lives.
pub type Way = (usize, u32);

/// The owner that is none of ours.
pub const THIEF: &str = "another program";

/// What is asked of the store.
#[derive(Clone, Debug, Hash)]
pub enum Body {
    /// A claim asks for the lock.
    Acquire(Claim),
    /// A lease is ended.
    Release(Release),
    /// A claim is withdrawn, and whether it is in doubt.
    Abandon(OwnerToken, bool),
    /// The lock was handed to a claim that its process does not know.
    GiveBack(OwnerToken),
    /// The process to which the lock was handed has no connection.
    Skip(OwnerToken),
    /// A lease is extended.
    Renew(Renewal),
}

/// What the store answers.
#[derive(Clone, Debug, Hash)]
pub enum Reply {
    /// What became of a claim.
    Acquired(Acquired),
    /// What became of a release.
    Released(Released),
    /// A claim was withdrawn.
    Abandoned,
    /// What became of a renewal.
    Renewed(Renewed),
}

impl Reply {
    /// The tokens that it gives.
    pub(crate) fn tokens(&self) -> Option<FenceBlock> {
        match self {
            Reply::Acquired(Acquired::Granted(grant))
            | Reply::Released(Released::Released(Some(Acquired::Granted(grant)))) => {
                Some(grant.tokens)
            }
            Reply::Renewed(Renewed::Held(extension)) => extension.tokens,
            _ => None,
        }
    }
}

impl Body {
    /// The claims that it is about.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &OwnerToken> {
        let (first, second) = match self {
            Body::Acquire(claim) => (&claim.owner, None),
            Body::Release(release) => (
                &release.owner,
                release.next.as_ref().map(|next| &next.owner),
            ),
            Body::Abandon(owner, _) | Body::GiveBack(owner) | Body::Skip(owner) => (owner, None),
            Body::Renew(renewal) => (&renewal.owner, None),
        };
        [Some(first), second].into_iter().flatten()
    }

    /// The claim that may be granted by it.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match self {
            Body::Acquire(claim) => Some(claim),
            Body::Release(release) => release.next.as_ref(),
            _ => None,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) keys: Vec<LockKey>,
    store: Store<Way>,
    ledgers: Vec<Ledger>,
    /// The data as it was some time ago.
    older: Option<Box<(Store<Way>, Vec<Ledger>)>>,
    /// By how many microseconds its clock is behind, and the latest that it has shown.
    micros_behind: u64,
    latest_micros: u64,
    /// Whether nothing was drawn since data was lost.
    is_behind: bool,
}

impl Server {
    pub(crate) fn new(keys: usize) -> Server {
        let key = |number| LockKey::new("", &format!("k{number}")).expect("a valid key");
        Server {
            keys: (0..keys).map(key).collect(),
            store: Store::new(),
            ledgers: (0..keys).map(|_| Ledger::default()).collect(),
            older: None,
            micros_behind: 0,
            latest_micros: 0,
            is_behind: false,
        }
    }

    pub(crate) fn add_to(&self, sum: &mut Sum<'_>) {
        self.store.hash(sum);
        for Ledger { waiting, withdrawn } in &self.ledgers {
            waiting.hash(sum);
            sum.add_unordered(withdrawn);
        }
    }

    pub(crate) fn lose_data(&mut self) {
        self.is_behind = true;
        self.store = Store::new();
        for ledger in &mut self.ledgers {
            *ledger = Ledger::default();
        }
    }

    /// Copies what there is to a replica.
    pub(crate) fn copy(&mut self) {
        let copy = (self.store.clone(), self.ledgers.clone());
        self.older = Some(Box::new(copy));
    }

    /// The replica takes over, with what it has. Whether there is one.
    pub(crate) fn roll_back(&mut self) -> bool {
        let older = self.older.take();
        let is_there = older.is_some();
        if let Some(older) = older {
            (self.store, self.ledgers) = *older;
            self.is_behind = true;
        }
        is_there
    }

    /// Whether tokens need the clock to be right: data was lost, and no draw has raised the counter
    /// to the time since.
    pub(crate) fn needs_clock(&self) -> bool {
        self.is_behind
    }

    /// Sets the clock back.
    pub(crate) fn set_back(&mut self, by: Time, now: Time) {
        self.latest_micros = self.moment(now).micros;
        self.micros_behind += by / (MS / 1_000);
    }

    /// Whether the clock has shown later times than now.
    pub(crate) fn is_set_back(&self, now: Time) -> bool {
        self.moment(now).micros <= self.latest_micros
    }

    fn moment(&self, now: Time) -> Moment {
        let mut moment = moment(now);
        moment.micros -= self.micros_behind;
        moment
    }

    pub(crate) fn owner(&self, key: usize, now: Time) -> Option<&OwnerToken> {
        self.store.owner(self.keys[key].as_str(), instant(now))
    }

    pub(crate) fn remaining(&self, key: usize, now: Time) -> Option<Time> {
        let remaining = self.store.remaining(self.keys[key].as_str(), instant(now));
        remaining.map(nanos)
    }

    pub(crate) fn queue(&self, key: usize, now: Time) -> Vec<&OwnerToken> {
        self.store
            .queue(self.keys[key].as_str(), instant(now))
            .collect()
    }

    pub(crate) fn is_idle(&self, now: Time) -> bool {
        self.store.is_idle(instant(now))
    }

    /// Whether another program could take the lock.
    pub(crate) fn steal(&mut self, key: usize, now: Time) -> bool {
        let is_free = self.owner(key, now).is_none();
        if is_free {
            let name = self.keys[key].clone();
            self.store.steal(name.as_str(), OwnerToken::new(THIEF));
        }
        is_free
    }

    /// Whether another program had it.
    pub(crate) fn end_theft(&mut self, key: usize, now: Time) -> bool {
        let owner = self.owner(key, now);
        let is_stolen = owner.is_some_and(|owner| owner.as_str() == THIEF);
        if is_stolen {
            self.store.expire(self.keys[key].as_str());
        }
        is_stolen
    }

    /// This claim must not come back.
    pub(crate) fn withdrawn(&mut self, key: usize, owner: &OwnerToken) {
        self.ledgers[key].withdrawn.insert(owner.clone());
    }

    /// Does what is asked, and checks what came of it.
    pub(crate) fn execute(
        &mut self,
        key: usize,
        body: &Body,
        way: Way,
        now: Time,
    ) -> (Reply, Messages<Way>, Option<Violation>) {
        let before = self.owner(key, now).cloned();
        let at = self.moment(now);
        let (reply, messages) = match body {
            Body::Acquire(claim) => {
                let (answer, messages) = self.store.acquire(claim, &way, at);
                (Reply::Acquired(answer), messages)
            }
            Body::Release(release) => {
                let (answer, messages) = self.store.release(release, &way, at);
                (Reply::Released(answer), messages)
            }
            Body::Abandon(owner, in_doubt) => {
                let name = &self.keys[key];
                (
                    Reply::Abandoned,
                    self.store.abandon(name, owner, *in_doubt, at),
                )
            }
            Body::GiveBack(owner) | Body::Skip(owner) => {
                let name = &self.keys[key];
                (Reply::Abandoned, self.store.abandon(name, owner, false, at))
            }
            Body::Renew(renewal) => {
                let (answer, messages) = self.store.renew(renewal, at);
                (Reply::Renewed(answer), messages)
            }
        };
        self.is_behind &= reply.tokens().is_none();
        let violation = self.check(key, body, &reply, before, now).err();
        (reply, messages, violation)
    }

    fn check(
        &mut self,
        key: usize,
        body: &Body,
        reply: &Reply,
        before: Option<OwnerToken>,
        now: Time,
    ) -> Result<(), Violation> {
        let broken = |promise, text: String| Err(Violation { promise, text });
        let owner = self.owner(key, now).cloned();
        let queue: Vec<OwnerToken> = self.queue(key, now).into_iter().cloned().collect();
        for (place, claim) in queue.iter().enumerate() {
            if owner.as_ref() == Some(claim) || queue[..place].contains(claim) {
                return broken(Promise::ClaimStandsOnce, format!("{claim} of {queue:?}"));
            }
        }
        if let Some(owner) = &owner
            && owner.as_str() != THIEF
            && self.remaining(key, now).is_none()
        {
            return broken(Promise::OwnerHasLease, format!("{owner} has none"));
        }
        if let Some(before) = &before
            && owner.as_ref() != Some(before)
            && !matches!(body, Body::Release(release) if release.owner == *before)
            && !matches!(body, Body::Abandon(gone, _) | Body::GiveBack(gone) | Body::Skip(gone)
                if gone == before)
        {
            return broken(Promise::NoEviction, format!("{before}, by {body:?}"));
        }
        if owner.is_none() && !queue.is_empty() {
            return broken(Promise::PromptHandOver, format!("{queue:?} wait"));
        }

        let ledger = &mut self.ledgers[key];
        ledger
            .waiting
            .retain(|(_, heard, remembered)| now - heard <= *remembered);
        if let Body::Abandon(gone, _) | Body::GiveBack(gone) | Body::Skip(gone) = body {
            ledger.waiting.retain(|(waiter, ..)| waiter != gone);
        }
        if let Body::Release(release) = body
            && !queue.contains(&release.owner)
        {
            // It may have been handed the lock by this very verb, which then ended that.
            ledger
                .waiting
                .retain(|(waiter, ..)| *waiter != release.owner);
        }
        // Whoever leaves the key to be kept had it, be it by this very verb.
        let is_left = |owner: &OwnerToken| matches!(body, Body::Release(release) if *owner == release.owner.kept());
        if let Some(owner) = &owner
            && before.as_ref() != Some(owner)
            && owner.as_str() != THIEF
            && !is_left(owner)
        {
            if let Some((first, ..)) = ledger.waiting.first()
                && first != owner
            {
                return broken(Promise::NobodyOvertaken, format!("{first}, by {owner}"));
            }
            ledger.waiting.retain(|(waiter, ..)| waiter != owner);
        }
        if let (
            Some(claim),
            Reply::Acquired(Acquired::Queued(_))
            | Reply::Released(Released::Released(Some(Acquired::Queued(_)))),
        ) = (body.claim(), reply)
        {
            let mut waiting = ledger.waiting.iter_mut();
            match waiting.find(|(waiter, ..)| *waiter == claim.owner) {
                Some((_, heard, _)) => *heard = now,
                None => {
                    let remembered = 2 * nanos(claim.heartbeat);
                    ledger.waiting.push((claim.owner.clone(), now, remembered));
                }
            }
        }
        if let Body::Abandon(gone, _) = body
            && (owner.as_ref() == Some(gone) || queue.contains(gone))
        {
            return broken(Promise::WithdrawnIsGone, format!("{gone} is still there"));
        }
        let is_withdrawn = |claim: &&OwnerToken| ledger.withdrawn.contains(*claim);
        match owner.iter().chain(&queue).find(is_withdrawn) {
            Some(claim) => broken(Promise::WithdrawnIsGone, format!("{claim}, by {body:?}")),
            None => Ok(()),
        }
    }
}

/// What the onlooker knows of one key.
#[derive(Clone, Default)]
struct Ledger {
    /// Who waits, in which order, when it asked last, and for how long it is remembered.
    waiting: Vec<(OwnerToken, Time, Time)>,
    withdrawn: HashSet<OwnerToken>,
}

/// The instant of the server's clock.
pub(crate) fn instant(now: Time) -> Instant {
    Instant::from_nanos(now)
}

pub(crate) fn moment(now: Time) -> Moment {
    Moment {
        now: instant(now),
        // It counts from some day.
        micros: 1_000_000_000_000 + now / (MS / 1_000),
    }
}
