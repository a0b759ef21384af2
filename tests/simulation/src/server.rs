//! The server: the pure store, and an onlooker beside it who keeps a list of its own of who waits.

use std::collections::HashSet;
use std::hash::Hash;

use lock_protocol::store::{Leased, Messages, Moment, Store};
use lock_protocol::{
    Acquired, Claim, FenceBlock, Grant, Instant, LockKey, Mode, OwnerToken, Release, Released,
    Renewal, Renewed,
};

use crate::clock::{MS, Time, nanos};
use crate::promise::{Promise, Violation};
use crate::sum::Sum;
use crate::together::{fit, has_room};

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
    /// The lease that it gives.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match self {
            Reply::Acquired(Acquired::Granted(grant))
            | Reply::Released(Released::Released(Some(Acquired::Granted(grant)))) => Some(grant),
            _ => None,
        }
    }

    /// The tokens that it gives.
    pub(crate) fn tokens(&self) -> Option<FenceBlock> {
        match self {
            Reply::Renewed(Renewed::Held(extension)) => extension.tokens,
            _ => self.grant().map(|grant| grant.tokens),
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

    /// The leases of a key.
    pub(crate) fn leases(&self, key: usize, now: Time) -> impl Iterator<Item = Leased<'_>> {
        self.store.leases(self.keys[key].as_str(), instant(now))
    }

    pub(crate) fn queue(&self, key: usize, now: Time) -> Vec<&OwnerToken> {
        self.store
            .queue(self.keys[key].as_str(), instant(now))
            .collect()
    }

    /// What the claim wants that stands first, if there is room for it.
    pub(crate) fn unserved(&self, key: usize, now: Time) -> Option<Mode> {
        let name = self.keys[key].as_str();
        let first = self.store.waiting(name, instant(now)).next()?;
        let leases: Vec<(Mode, u8)> = self
            .leases(key, now)
            .map(|lease| (lease.mode, lease.shard))
            .collect();
        has_room(leases.iter().copied(), first.mode).then_some(first.mode)
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

    /// All leases of a key are lost, as where an operator deletes it.
    pub(crate) fn evict(&mut self, key: usize) {
        self.store.expire(self.keys[key].as_str());
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
        let before = self.leases(key, now);
        let before: Vec<Before> = before
            .map(|lease| (lease.owner.clone(), lease.ends))
            .collect();
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
        let violation = self.check(key, body, &reply, &before, now).err();
        (reply, messages, violation)
    }

    fn check(
        &mut self,
        key: usize,
        body: &Body,
        reply: &Reply,
        before: &[Before],
        now: Time,
    ) -> Result<(), Violation> {
        let name = self.keys[key].as_str();
        let leases: Vec<Leased<'_>> = self.store.leases(name, instant(now)).collect();
        let queue: Vec<&Claim> = self.store.waiting(name, instant(now)).collect();
        check_leases(body, &leases, before)?;
        check_queue(&leases, &queue)?;
        let ledger = &mut self.ledgers[key];
        ledger.follow(body, &leases, &queue, before, now)?;
        if let Body::Renew(renewal) = body
            && let Reply::Renewed(renewed) = reply
            && matches!(renewed, Renewed::Held(_))
                != leases.iter().any(|it| *it.owner == renewal.owner)
        {
            let text = format!("{}: {renewed:?}", renewal.owner);
            return broken(Promise::RenewalTellsTruth, text);
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
        let owners = leases.iter().map(|lease| lease.owner);
        let mut known = owners.chain(queue.iter().map(|claim| &claim.owner));
        let is_gone = |claim: &&OwnerToken| {
            ledger.withdrawn.contains(*claim)
                || matches!(body, Body::Abandon(gone, _) if gone == *claim)
        };
        match known.find(is_gone) {
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

/// A lease as it was: whose, and when it ends.
type Before = (OwnerToken, Option<Instant>);

fn broken(promise: Promise, text: String) -> Result<(), Violation> {
    Err(Violation { promise, text })
}

/// Looks at the leases beside those that there were.
fn check_leases(body: &Body, leases: &[Leased<'_>], before: &[Before]) -> Result<(), Violation> {
    for lease in leases {
        if lease.ends.is_none() && lease.owner.as_str() != THIEF {
            return broken(Promise::OwnerHasLease, format!("{} has none", lease.owner));
        }
    }
    for (owner, ends) in before {
        let is_ended_by_it = match body {
            Body::Release(release) => release.owner == *owner,
            Body::Abandon(gone, _) | Body::GiveBack(gone) | Body::Skip(gone) => gone == owner,
            Body::Acquire(_) | Body::Renew(_) => false,
        };
        match leases.iter().find(|lease| lease.owner == owner) {
            None if !is_ended_by_it => {
                return broken(Promise::NoEviction, format!("{owner}, by {body:?}"));
            }
            Some(lease) if lease.ends != *ends && !body.owners().any(|it| it == owner) => {
                let text = format!("{owner} has another end, by {body:?}");
                return broken(Promise::OthersAreLeftAlone, text);
            }
            _ => {}
        }
    }
    let modes = leases.iter().map(|lease| (lease.mode, lease.shard));
    if !fit(modes) {
        return broken(Promise::MutualExclusion, format!("{leases:?}, by {body:?}"));
    }
    Ok(())
}

/// Looks whether everybody stands there once, and whether there is nothing for the first.
fn check_queue(leases: &[Leased<'_>], queue: &[&Claim]) -> Result<(), Violation> {
    for (place, claim) in queue.iter().enumerate() {
        let owner = &claim.owner;
        if leases.iter().any(|lease| lease.owner == owner)
            || queue[..place].iter().any(|other| other.owner == *owner)
        {
            return broken(Promise::ClaimStandsOnce, format!("{owner} of {queue:?}"));
        }
    }
    for (place, lease) in leases.iter().enumerate() {
        if leases[..place]
            .iter()
            .any(|other| other.owner == lease.owner)
        {
            return broken(Promise::ClaimStandsOnce, format!("{leases:?}"));
        }
    }
    let modes = leases.iter().map(|lease| (lease.mode, lease.shard));
    match queue.first() {
        Some(first) if has_room(modes, first.mode) => {
            broken(Promise::PromptHandOver, format!("{queue:?} wait"))
        }
        _ => Ok(()),
    }
}

impl Ledger {
    /// Takes those out who do not wait any more. Nobody has a lease that did not wait for it, or
    /// ask for it when nobody did.
    fn follow(
        &mut self,
        body: &Body,
        leases: &[Leased<'_>],
        queue: &[&Claim],
        before: &[Before],
        now: Time,
    ) -> Result<(), Violation> {
        let waiting = &mut self.waiting;
        waiting.retain(|(_, heard, remembered)| now - heard <= *remembered);
        if let Body::Abandon(gone, _) | Body::GiveBack(gone) | Body::Skip(gone) = body {
            waiting.retain(|(waiter, ..)| waiter != gone);
        }
        if let Body::Release(release) = body
            && queue.iter().all(|claim| claim.owner != release.owner)
        {
            // It may have been handed the lock by this very verb, which then ended that.
            waiting.retain(|(waiter, ..)| *waiter != release.owner);
        }
        // Whoever leaves the key to be kept had it, be it by this very verb.
        let is_left = |owner: &OwnerToken| matches!(body, Body::Release(release) if *owner == release.owner.kept());
        let owners = leases.iter().map(|lease| lease.owner);
        let mut new: Vec<&OwnerToken> = owners
            .filter(|owner| before.iter().all(|(other, _)| other != *owner))
            .filter(|owner| owner.as_str() != THIEF && !is_left(owner))
            .collect();
        let place = |owner: &OwnerToken| waiting.iter().position(|(waiter, ..)| waiter == owner);
        new.sort_by_key(|owner| place(owner).unwrap_or(usize::MAX));
        for owner in new {
            match waiting.first() {
                Some((first, ..)) if first != owner => {
                    return broken(Promise::NobodyOvertaken, format!("{first}, by {owner}"));
                }
                None if body.claim().is_none_or(|claim| claim.owner != *owner) => {
                    return broken(Promise::LostStaysLost, format!("{owner}, by {body:?}"));
                }
                _ => waiting.retain(|(waiter, ..)| waiter != owner),
            }
        }
        Ok(())
    }
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
