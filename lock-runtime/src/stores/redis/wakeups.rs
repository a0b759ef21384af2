//! What Redis tells of the claims of this process that wait, on its way to those who want to hear
//! it.

use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_protocol::{Card, Claim, Grant, Instant, LockKey, News, Note, OwnerToken};
use lock_protocol::{Sinks, Told};
use rustc_hash::FxHashMap;

use super::link::Link;
use super::scripts::Named;
use crate::backoff::jittered;
use crate::clock::{now, to_seam};
use crate::sync::lock;

/// How long after a lease should have ended a waiter looks, at the most.
const AFTER_EXPIRY: Duration = Duration::from_millis(4);

/// A claim is withdrawn for no longer than its ttl, but for the last answer.
const AFTER_TTL: Duration = Duration::from_secs(60);
/// With fewer claims than this nothing is looked for that could be forgotten.
const FEW: usize = 64;

/// The sinks of a backend, and the claims that they may have to be told of.
#[derive(Default)]
pub(super) struct Wakeups {
    sinks: Sinks,
    /// The claims that are queued, as far as is known here.
    ///
    /// A std mutex, since nothing waits while it is held. Only claims of this process get in, so
    /// nobody fills it with equal hashes.
    queued: Mutex<Queued>,
}

#[derive(Default)]
struct Queued {
    claims: FxHashMap<OwnerToken, MaybeQueued>,
    /// With how many claims to look for those of which nothing will be heard any more.
    sweeps_at: usize,
}

/// A claim that may be queued.
struct MaybeQueued {
    /// An announcement names only the claim.
    key: LockKey,
    place: Place,
    /// Whether it was told that it is its turn.
    is_told: bool,
    /// When to forget it, once its withdrawal has begun. No answer may come to that.
    forget_at: Option<Instant>,
}

/// By whom a claim is told, which is a part of its place in the queue.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) listener: Listener,
    /// By whom it was to be told before. It may stand in the queue with that name.
    pub(super) earlier: Option<Listener>,
}

/// What was known of a claim when it was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    Nothing,
    /// It was to be told by another link until now; and whether it was.
    Moved { is_told: bool },
    /// It is told as it was.
    Same,
}

/// The link that is told of a claim.
#[derive(Clone)]
pub(super) struct Listener {
    link: Weak<Link>,
    /// Its channel is a part of the claim's place in the queue.
    pub(super) channel: Arc<str>,
}

impl Listener {
    /// `None` if it listens to nothing for now.
    pub(super) fn new(link: &Arc<Link>) -> Option<Listener> {
        let channel = link.channel()?;
        let link = Arc::downgrade(link);
        Some(Listener { link, channel })
    }

    /// A claim was told too late by this, or had to ask whose turn it is.
    pub(super) fn was_late(&self) {
        if let Some(link) = self.link.upgrade() {
            link.heard_late();
        }
    }
}

impl Place {
    /// Of a claim that has been asked for by this name alone.
    pub(super) fn first(listener: Listener) -> Place {
        Place {
            listener,
            earlier: None,
        }
    }

    /// As the scripts are told.
    pub(super) fn named(&self) -> Named<'_> {
        let earlier = self.earlier.as_ref();
        Named {
            channel: &self.listener.channel,
            earlier: earlier.map(|earlier| &*earlier.channel),
        }
    }
}

impl Wakeups {
    /// Tells `news` from now on too.
    pub(super) fn attach(&self, news: Weak<dyn News>) {
        self.sinks.attach(news);
    }

    /// `claim` is asked for, and so may stand in the queue. What was known of it, and by whom it is
    /// told: by a `new` listener, and once it is asked for again by the `lane`, which no caller's
    /// thread holds up.
    pub(super) fn asks(
        &self,
        claim: &Claim,
        new: impl FnOnce() -> Listener,
        lane: impl FnOnce() -> Listener,
    ) -> (Known, Place) {
        let mut queued = self.queued();
        if let Some(waiting) = queued.claims.get_mut(&claim.owner) {
            let (lane, place) = (lane(), &mut waiting.place);
            if place.listener.channel == lane.channel {
                return (Known::Same, place.clone());
            }
            place.earlier = Some(replace(&mut place.listener, lane));
            let is_told = waiting.is_told;
            return (Known::Moved { is_told }, place.clone());
        }
        let place = Place::first(new());
        let waiting = MaybeQueued {
            key: claim.key.clone(),
            place: place.clone(),
            is_told: false,
            forget_at: None,
        };
        queued.sweep();
        queued.claims.insert(claim.owner.clone(), waiting);
        (Known::Nothing, place)
    }

    /// `claim` is being withdrawn. By whom it was told, if that is known: it stays so until it is
    /// certain that it [left](Wakeups::left), or there is nothing of it any more.
    pub(super) fn leaves(&self, claim: &Claim) -> Option<Place> {
        let mut queued = self.queued();
        let waiting = queued.claims.get_mut(&claim.owner)?;
        waiting.forget_at = Some(now() + claim.ttl + AFTER_TTL);
        Some(waiting.place.clone())
    }

    /// The claim stands in no queue any more.
    pub(super) fn left(&self, owner: &str) {
        self.queued().claims.remove(owner);
    }

    /// How many claims stand in a queue, as far as is known here.
    pub(super) fn count(&self) -> usize {
        self.queued().claims.len()
    }

    /// The lock was handed over to the claim, after `since`. Whether that belongs to nobody here.
    ///
    /// A claim that is expected stays known. It may have to ask whether it has the lock still, and
    /// asks by the place that it has in the queue if it has not.
    #[must_use]
    pub(super) fn is_in_vain(
        &self,
        key: &LockKey,
        owner: &str,
        grant: Grant,
        since: Instant,
    ) -> bool {
        // Before, since the claim may ask at once.
        if let Some(waiting) = self.queued().claims.get_mut(owner) {
            waiting.is_told = true;
        }
        let is_in_vain = self.sinks.granted(key, owner, grant, since) == Told::Unexpected;
        if is_in_vain {
            let claims = &mut self.queued().claims;
            // Of one that is being withdrawn the place is still wanted.
            let is_left = |waiting: &MaybeQueued| waiting.forget_at.is_none();
            if claims.get(owner).is_some_and(is_left) {
                claims.remove(owner);
            }
        }
        is_in_vain
    }

    /// Makes everybody ask: messages may have been lost.
    pub(super) fn ask_all(&self) {
        self.sinks.ask_all();
    }

    /// Makes the claim ask when the lease before it ends, which is after `remaining`: its owner may
    /// be dead.
    pub(super) fn look_after(&self, owner: &str, remaining: Duration) {
        let known = |queued: &Queued| {
            let (owner, waiting) = queued.claims.get_key_value(owner)?;
            Some((owner.clone(), waiting.key.clone()))
        };
        let claim = known(&self.queued());
        let at = tokio::time::Instant::now().checked_add(remaining + jittered(AFTER_EXPIRY));
        if let (Some((owner, key)), Some(at)) = (claim, at) {
            self.sinks.ask_at(&key, &owner, to_seam(at));
        }
    }

    /// Tells what was noticed of a connection.
    pub(super) fn note(&self, note: &Note) {
        self.sinks.note(note);
    }

    /// What those who are told say of themselves.
    pub(super) fn cards(&self) -> Vec<Card> {
        self.sinks.cards()
    }

    fn queued(&self) -> MutexGuard<'_, Queued> {
        lock(&self.queued)
    }
}

impl Queued {
    /// Forgets what is to be forgotten, each time that there are twice as many as were left by the
    /// last time.
    fn sweep(&mut self) {
        if self.claims.len() < self.sweeps_at {
            return;
        }
        let now = now();
        let is_over = |waiting: &MaybeQueued| waiting.forget_at.is_some_and(|at| at <= now);
        self.claims.retain(|_, waiting| !is_over(waiting));
        self.sweeps_at = (2 * self.claims.len()).max(FEW);
    }
}
