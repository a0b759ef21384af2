//! The server: the pure store, and an onlooker beside it who keeps a list of its own of who waits.

use std::collections::HashSet;
use std::hash::Hash;

use lock_protocol::store::{Messages, Moment, Native, Store};
use lock_protocol::{
    Acquired, Claim, FenceBlock, Instant, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};

use crate::clock::{MS, Time, nanos};
use crate::promise::{Promise, Violation};
use crate::sum::Sum;

/// A process, and which of its lives.
pub type Way = (usize, u32);

/// The number of the counter: there is one for all keys.
pub(crate) const COUNTER: u32 = 0;

/// The owner that is none of ours.
pub const THIEF: &str = "another program";

/// What is asked of the store.
#[derive(Clone, Debug, Hash)]
pub enum Body {
    /// A claim asks for the lock.
    Acquire(Claim),
    /// A claim asks for the lock without a script.
    AcquireNatively(Claim),
    /// A claim asks that may own the lock by a question without a script.
    AcquireUnseen(Claim),
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
    /// What a question without a script found.
    Native(Native),
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
            Reply::Native(native) => native.is_set.then_some(FenceBlock {
                first: native.token,
                last: native.token,
            }),
            Reply::Renewed(Renewed::Held(extension)) => extension.tokens,
            _ => None,
        }
    }
}

impl Body {
    /// The claims that it is about.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &OwnerToken> {
        let (first, second) = match self {
            Body::Acquire(claim) | Body::AcquireNatively(claim) | Body::AcquireUnseen(claim) => {
                (&claim.owner, None)
            }
            Body::Release(release) => (
                &release.owner,
                release.next.as_ref().map(|next| &next.owner),
            ),
            Body::Abandon(owner, _) | Body::GiveBack(owner) | Body::Skip(owner) => (owner, None),
            Body::Renew(renewal) => (&renewal.owner, None),
        };
        [Some(first), second].into_iter().flatten()
    }

    /// The claim that a script is asked to acquire for.
    fn acquires(&self) -> Option<&Claim> {
        match self {
            Body::Acquire(claim) | Body::AcquireUnseen(claim) => Some(claim),
            _ => None,
        }
    }

    /// The claim that may be granted by it.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match self {
            Body::Acquire(claim) | Body::AcquireNatively(claim) | Body::AcquireUnseen(claim) => {
                Some(claim)
            }
            Body::Release(release) => release.next.as_ref(),
            _ => None,
        }
    }
}

/// What the onlooker knows of one key.
#[derive(Clone, Default)]
struct Ledger {
    /// Who waits, in which order, when it asked last, and for how long it is remembered.
    waiting: Vec<(OwnerToken, Time, Time)>,
    withdrawn: HashSet<OwnerToken>,
    /// The claims of which the store is to remember that they were withdrawn.
    gone: HashSet<OwnerToken>,
    /// The claims that may have taken the lock without a script, and that a script has granted or
    /// queued since: they have their place.
    seen: HashSet<OwnerToken>,
    /// Who owns the lock by a question without a script, and has not asked by one since.
    unseen: Option<OwnerToken>,
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
    /// Whether no script has raised the counter to the time since data was lost.
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
        for Ledger {
            waiting,
            withdrawn,
            gone: _,
            seen: _,
            unseen: _,
        } in &self.ledgers
        {
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

    /// Whether tokens need the clock to be right: data was lost, and no script has raised the
    /// counter to the time since.
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

    /// Whether the lock is held by a claim that was withdrawn before it took it. The next claim
    /// that asks finds it free.
    pub(crate) fn is_taken_late(&self, key: usize, owner: &OwnerToken) -> bool {
        let ledger = &self.ledgers[key];
        ledger.unseen.as_ref() == Some(owner) && ledger.gone.contains(owner)
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
            Body::AcquireNatively(claim) => {
                let native = self.store.acquire_natively(claim, at);
                (Reply::Native(native), Messages::new())
            }
            Body::AcquireUnseen(claim) => {
                let (answer, messages) = self.store.acquire_unseen(claim, &way, at);
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
        self.is_behind &= matches!(reply, Reply::Native(_)) || reply.tokens().is_none();
        let violation = self.check(key, body, &reply, before, now).err();
        (reply, messages, violation)
    }

    /// Whoever takes a lock without a script is looked at when it asks by one, and must be told that
    /// it has to.
    fn check_native(
        &mut self,
        key: usize,
        body: &Body,
        native: Native,
        queue: &[OwnerToken],
        now: Time,
    ) -> Result<(), Violation> {
        let Some(claim) = body.claim().filter(|_| native.is_set) else {
            return Ok(());
        };
        let is_owner = self.owner(key, now) == Some(&claim.owner);
        let ledger = &mut self.ledgers[key];
        ledger
            .waiting
            .retain(|(_, heard, remembered)| now - heard <= *remembered);
        ledger.unseen = Some(claim.owner.clone());
        if !is_owner {
            let text = format!("{} took it, and does not have it", claim.owner);
            return Err(Violation {
                promise: Promise::ValidLeaseIsTheStores,
                text,
            });
        }
        match ledger.waiting.first() {
            Some((first, ..)) if !native.is_contended => Err(Violation {
                promise: Promise::NobodyOvertaken,
                text: format!("{first}, by {} of {queue:?}", claim.owner),
            }),
            _ => Ok(()),
        }
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
        if let Reply::Native(native) = reply {
            return self.check_native(key, body, *native, &queue, now);
        }
        let ledger = &mut self.ledgers[key];
        let (claim, gone) = (body.acquires(), &ledger.gone);
        let asks = |unseen: &mut OwnerToken| {
            // The store does nothing for a claim that is gone.
            claim.is_some_and(|claim| claim.owner == *unseen && !gone.contains(unseen))
        };
        // By this answer it is known how it came by the lock.
        let asks_unseen = ledger.unseen.take_if(asks).is_some();
        ledger
            .unseen
            .take_if(|unseen| owner.as_ref() != Some(unseen));
        let unseen = ledger.unseen.clone();

        for (place, claim) in queue.iter().enumerate() {
            let is_owner = owner.as_ref() == Some(claim) && unseen.as_ref() != Some(claim);
            if is_owner || queue[..place].contains(claim) {
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
            && !(asks_unseen && body.claim().is_some_and(|claim| claim.owner == *before))
            && !(body.acquires().is_some() && self.ledgers[key].gone.contains(before))
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
            let is_known = before.as_ref() == Some(gone)
                || ledger.waiting.iter().any(|(waiter, ..)| waiter == gone);
            if !is_known || matches!(body, Body::Abandon(_, true)) {
                ledger.gone.insert(gone.clone());
            }
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
        let is_granted = matches!(reply, Reply::Acquired(Acquired::Granted(_)));
        let is_seen = owner
            .as_ref()
            .is_some_and(|owner| ledger.seen.contains(owner))
            && !ledger
                .waiting
                .iter()
                .any(|(it, ..)| Some(it) == owner.as_ref());
        if let Body::AcquireUnseen(claim) = body
            && !matches!(reply, Reply::Acquired(Acquired::Taken(_)))
        {
            ledger.seen.insert(claim.owner.clone());
        }
        if let Some(owner) = &owner
            && (before.as_ref() != Some(owner) || asks_unseen && is_granted && !is_seen)
            && owner.as_str() != THIEF
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
        let asks = body
            .acquires()
            .filter(|claim| !ledger.gone.contains(&claim.owner));
        let owner = owner.filter(|owner| asks.is_some() || unseen.as_ref() != Some(owner));
        match owner.iter().chain(&queue).find(is_withdrawn) {
            Some(claim) => broken(Promise::WithdrawnIsGone, format!("{claim}, by {body:?}")),
            None => Ok(()),
        }
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
