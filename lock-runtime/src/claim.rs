//! The driver of a key: what goes on with the store while nobody in this process holds the lock.
//!
//! One driver at a time is at work for a key. It carries one claim from the first question until the claim is granted or withdrawn,
//! and whatever happens meanwhile (answers lost, waiters gone, wake-ups missed) it asks again with the same owner token until it knows.
//! Waiters come and go without it; each has a deadline of its own, so the driver has none.
//!
//! The first question is asked where the caller is (`here`): most locks are free, and need no task then. Whatever the answer does not
//! settle, and whatever the caller drops or does not get to, a task goes on with.

mod here;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{Acquired, BackendError, Claim, Grant, Holder, LockKey, OwnerToken, Released};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::{Backoff, Retry, jittered};
use crate::clock;
use crate::error::LockError;
use crate::front::{Front, Hold, not_known};
use crate::hold::{Lease, Terms};
use crate::mailbox::{Wakeup, next_number};
use crate::queue::Answer;

/// How often to look whether a holder that is none of ours has freed the lock, which it does without a word.
const FOREIGN: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(1),
};

/// How long after a lease should have ended a waiter looks, at the most, so that not all look at once.
const AFTER_EXPIRY: Duration = Duration::from_millis(4);

/// What a driver begins with.
pub(crate) enum Start {
    /// Get the lock for those who wait.
    Claim,
    /// The same, after the claim has been asked for.
    Heard(Heard),
    /// End a lease, then get the lock for those who wait.
    Release(Release),
}

/// What becomes known of a release.
type Reply = oneshot::Sender<Result<(), LockError>>;

/// Where it becomes known.
type Outcome = oneshot::Receiver<Result<(), LockError>>;

/// A lease to be ended in the store.
pub(crate) struct Release {
    lease: Arc<Lease>,
    /// What its holder is to be told whatever the store says, because the lease had been lost before.
    lost: Option<LockError>,
    /// Where its holder waits for the outcome.
    reply: Option<Reply>,
    /// When it was first to be ended.
    started: Instant,
    /// Why the first attempt did not do it.
    failed: Option<BackendError>,
}

impl Release {
    pub(crate) fn new(lease: Arc<Lease>, lost: Option<LockError>) -> Release {
        Release {
            lease,
            lost,
            reply: None,
            started: Instant::now(),
            failed: None,
        }
    }
}

/// Dropped at work, when the tokio runtime that it runs on ends, it leaves the key to the next who wants it.
pub(crate) struct Driver {
    front: Arc<Front>,
    key: LockKey,
    nudge: Arc<Notify>,
    /// The claim that the store may know of.
    claim: Option<Claim>,
    at_work: bool,
}

/// An answer to the claim, and an instant before it was given.
pub(crate) type Heard = (Result<Acquired, BackendError>, Instant);

impl Driver {
    /// The driver of `key`, which the entry of the key knows by `nudge`.
    pub(crate) fn new(front: &Arc<Front>, key: LockKey, nudge: Arc<Notify>) -> Driver {
        Driver {
            front: front.clone(),
            key,
            nudge,
            claim: None,
            at_work: true,
        }
    }

    /// Works as a task.
    pub(crate) fn start(self, start: Start) {
        let front = self.front.clone();
        front.executor.spawn(self.run(start));
    }

    async fn run(mut self, start: Start) {
        let mut heard = match start {
            Start::Claim => None,
            Start::Heard(heard) => Some(heard),
            Start::Release(release) => self.release(release).await,
        };
        let (mut failures, mut foreign) = (0, 0);
        while self.at_work {
            let Some((answer, since)) = (match heard.take() {
                Some(heard) => Some(heard),
                None => self.acquire(None).await,
            }) else {
                continue;
            };
            match answer {
                Ok(Acquired::Granted(grant)) => self.deliver(grant, since, false),
                Ok(Acquired::Queued(holder)) => {
                    failures = 0;
                    foreign = if holder.foreign { foreign + 1 } else { 0 };
                    self.tell(Answer::held(&holder));
                    if let Wakeup::Granted { grant, since } = self.wait(&holder, foreign).await {
                        self.deliver(grant, since, true);
                    }
                }
                Ok(Acquired::Taken(holder)) => {
                    failures = 0;
                    // Nothing of the claim is left in the store.
                    self.claim = None;
                    self.tell(Answer::held(&holder));
                }
                unknown => {
                    failures += 1;
                    self.failed(not_known(unknown), failures).await;
                }
            }
        }
    }

    /// Asks for the lock on behalf of those who wait, until `deadline` if there is one. If nobody waits any more, withdraws the claim and
    /// ends the work.
    async fn acquire(&mut self, deadline: Option<Instant>) -> Option<Heard> {
        let Some(wanted) = self.wanted() else {
            self.withdraw().await;
            // Somebody may have come meanwhile.
            self.at_work = !self.front.leave_if_idle(&self.key);
            return None;
        };
        let mut claim = self.claim.take().unwrap_or_else(|| self.new_claim(&wanted));
        claim.queue |= wanted.waits;
        claim.number = next_number();
        let claim = self.claim.insert(claim).clone();
        let since = Instant::now();
        let question = self.front.backend.acquire(&claim);
        let mut asking = pin!(self.front.ask_until(deadline, since, question));
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => return Some((answer?, since)),
                () = self.nudge.notified() => {
                    // Nobody wants it any more: the withdrawal goes right behind the question, while there is a way.
                    self.wanted()?;
                }
            }
        }
    }

    /// Ends a lease, and in the same round trip claims the lock anew for those who wait. Tells what became of the new claim, if it is known.
    async fn release(&mut self, release: Release) -> Option<Heard> {
        let Release {
            lease,
            lost,
            mut reply,
            started,
            mut failed,
        } = release;
        let next = self.claim_anew();
        let tell = |reply: &mut Option<Reply>, outcome: Result<(), LockError>| {
            if let Some(reply) = reply.take() {
                // Who dropped the future of its release does not ask.
                let _ = reply.send(outcome);
            }
        };
        if let Some(lost) = lost {
            tell(&mut reply, Err(lost));
        }
        let mut failures = 0;
        let (outcome, heard) = loop {
            let since = Instant::now();
            let attempt = async {
                let backend = &self.front.backend;
                let question = backend.release(&lease.key, &lease.owner, next.as_ref());
                match failed.take() {
                    Some(error) => Err(error),
                    None => self.front.ask(since, question).await,
                }
            };
            let answer = tokio::select! {
                biased;
                answer = attempt => answer,
                // This try has done it, or another.
                (grant, since) = self.handed_over() => {
                    self.deliver(grant, since, true);
                    break (Ok(()), None);
                }
            };
            match answer {
                Ok(Released::Released(answer)) => {
                    break (Ok(()), answer.map(|answer| (Ok(answer), since)));
                }
                // An earlier try may have done it.
                Ok(Released::NotHeld) if failures > 0 => break (Ok(()), None),
                Ok(Released::NotHeld) => break (Err(lease.was_not_held()), None),
                unknown => {
                    let error = not_known(unknown);
                    failures += 1;
                    let limit = self.front.settings.command_timeout;
                    let pause = self.front.settings.pause(failures);
                    // As long as the lease may live in the store, others wait for it in vain.
                    let again = !error.is_denied() && started.elapsed() < lease.terms.ttl;
                    let Some(pause) = pause.filter(|_| again) else {
                        break (Err(error.into()), None);
                    };
                    let error = Arc::new(error);
                    self.tell(Answer::Failed(error.clone()));
                    if started.elapsed() >= limit {
                        // Its holder is not kept any longer by a store that is down.
                        tell(&mut reply, Err(LockError::from(error)));
                    }
                    sleep(pause.min(limit)).await;
                }
            }
        };
        tell(&mut reply, outcome);
        heard
    }

    /// Gives a granted claim to the head of the queue, unless it has to be confirmed by the store first.
    fn deliver(&mut self, granted: Grant, since: Instant, handed_over: bool) {
        let front = self.front.clone();
        let mut shard = front.table.shard(&self.key);
        let Some(entry) = shard.get_mut(&self.key) else {
            return;
        };
        let Some(head) = entry.waiters.front() else {
            return;
        };
        let Some(claim) = &mut self.claim else { return };

        // The next question is answered by a full lease of the ttl that it asks for.
        let valid_until = clock::valid_until(since, granted.valid_for);
        let least = if handed_over {
            granted.valid_for / 2
        } else {
            Duration::ZERO
        };
        let now = Instant::now();
        if head.terms.ttl != claim.ttl || valid_until <= now + least {
            claim.ttl = head.terms.ttl;
            return;
        }

        let grace = granted.valid_for < claim.ttl || (handed_over && head.terms.renew.is_none());
        let renew_at = if grace {
            // The holder asked for more. With others behind, it is extended at once, so that the lease can be passed on to them.
            let others = entry.waiters.len() > 1 && front.settings.local_passes > 0;
            Some(if others {
                since
            } else {
                since + granted.valid_for / 2
            })
        } else {
            head.terms
                .renew
                .map(|period| front.watchdog.renewal_at(since, period))
        };
        let (Some(claim), Some(head)) = (self.claim.take(), entry.waiters.pop_front()) else {
            return;
        };
        let lease = Arc::new(Lease::new(
            claim,
            head.terms,
            granted.tokens,
            now,
            valid_until,
            renew_at,
        ));
        entry.hold(&self.key, lease.clone(), now);
        self.at_work = false;
        let undelivered = head.tell(Ok(Hold::new(&front, &lease, granted.tokens.first)));
        drop(shard);
        // A hold that did not arrive ends here, where no lock is held.
        drop(undelivered);
        front.watchdog.watch(&front, &lease);
    }

    /// Waits for news of the queued claim, or until it is time to ask.
    async fn wait(&self, holder: &Holder, foreign: u32) -> Wakeup {
        let Some(claim) = &self.claim else {
            return Wakeup::Ask;
        };
        let mut patience = self.front.settings.heartbeat;
        if let Some(remaining) = holder.remaining {
            patience = patience.min(remaining.saturating_add(jittered(AFTER_EXPIRY)));
        }
        if foreign > 0
            && let Some(pause) = FOREIGN.pause(foreign)
        {
            patience = patience.min(pause);
        }
        let until = Instant::now() + patience;
        loop {
            tokio::select! {
                biased;
                news = self.front.backend.changed(claim) => return news,
                () = sleep_until(until) => return Wakeup::Ask,
                () = self.nudge.notified() => {
                    if self.wanted().is_none() {
                        return Wakeup::Ask;
                    }
                }
            }
        }
    }

    /// Tells those who wait that the store could not be asked, and pauses.
    async fn failed(&mut self, error: BackendError, failures: u32) {
        let denied = error.is_denied();
        let error = Arc::new(error);
        self.tell(Answer::Failed(error.clone()));
        // A refusal has been told to all who had asked by then; for whoever has come since, it is asked again.
        if denied || self.wanted().is_none() {
            return;
        }
        match self.front.settings.pause(failures) {
            Some(pause) => {
                tokio::select! {
                    biased;
                    (grant, since) = self.handed_over() => self.deliver(grant, since, true),
                    () = sleep(pause) => {}
                    () = self.nudge.notified() => {}
                }
            }
            None => {
                let mut shard = self.front.table.shard(&self.key);
                if let Some(entry) = shard.get_mut(&self.key) {
                    entry.tell_all(|| LockError::from(error.clone()));
                }
            }
        }
    }

    /// Resolves when the lock is handed over to the claim, which may be queued although questions fail: a server whose memory is full
    /// refuses to queue a claim again, and serves it all the same.
    async fn handed_over(&self) -> (Grant, Instant) {
        if let Some(claim) = self.claim.as_ref().filter(|claim| claim.queue)
            && let Wakeup::Granted { grant, since } = self.front.backend.changed(claim).await
        {
            return (grant, since);
        }
        // Asking is what the pause is for.
        std::future::pending().await
    }

    /// Takes the claim back from the store. From then on it is not asked for any more, whoever comes: the withdrawal may be late, on a
    /// connection that was given up, and would free the lock that had been granted to the same claim meanwhile.
    async fn withdraw(&mut self) {
        let Some(claim) = self.claim.clone() else {
            return;
        };
        let mut withdrawal = Withdrawal::new(&self.front, claim);
        while let Some(pause) = withdrawal.ask().await {
            sleep(pause).await;
            if self.wanted().is_some() {
                self.front.executor.spawn(withdrawal.finish());
                break;
            }
        }
        self.claim = None;
    }

    fn tell(&self, answer: Answer) {
        let mut shard = self.front.table.shard(&self.key);
        if let Some(entry) = shard.get_mut(&self.key) {
            entry.take_in(&self.key, answer);
        }
    }

    fn wanted(&self) -> Option<Wanted> {
        let shard = self.front.table.shard(&self.key);
        let waiters = &shard.get(&self.key)?.waiters;
        let head = waiters.front()?;
        Some(Wanted {
            terms: head.terms,
            waits: waiters.iter().any(|waiter| !waiter.once),
        })
    }

    /// The claim of those who wait, from now on: the one that the store may know of already, if there is one.
    fn claim_anew(&mut self) -> Option<Claim> {
        if self.claim.is_none() {
            self.claim = self.wanted().map(|wanted| self.new_claim(&wanted));
        }
        self.claim.clone()
    }

    fn new_claim(&self, wanted: &Wanted) -> Claim {
        let settings = &self.front.settings;
        let owner = OwnerToken::unique(&settings.owner_text(&self.key));
        let mut claim = Claim::new(self.key.clone(), owner, wanted.terms.ttl);
        claim.queue = wanted.waits;
        claim.grace = settings.grace.min(wanted.terms.ttl);
        claim.tokens = settings.tokens();
        claim.heartbeat = settings.heartbeat;
        claim
    }
}

/// A claim on its way out of the store.
struct Withdrawal {
    front: Arc<Front>,
    claim: Claim,
    started: Instant,
    failures: u32,
}

impl Withdrawal {
    fn new(front: &Arc<Front>, claim: Claim) -> Withdrawal {
        Withdrawal {
            front: front.clone(),
            claim,
            started: Instant::now(),
            failures: 0,
        }
    }

    /// Asks for it once. Returns how long to wait before it is asked for again, if that is of any use.
    async fn ask(&mut self) -> Option<Duration> {
        let question = self.front.backend.abandon(&self.claim);
        let error = self.front.ask(Instant::now(), question).await.err()?;
        self.failures += 1;
        // After its ttl, the claim is gone by itself.
        let again = !error.is_denied() && self.started.elapsed() < self.claim.ttl;
        let settings = &self.front.settings;
        let pause = settings.pause(self.failures).filter(|_| again)?;
        Some(pause.min(settings.command_timeout))
    }

    async fn finish(mut self) {
        while let Some(pause) = self.ask().await {
            sleep(pause).await;
        }
    }
}

/// What those who wait want.
struct Wanted {
    /// The terms of the head of the queue.
    terms: Terms,
    /// Whether anybody stays when the lock is taken.
    waits: bool,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.at_work {
            return;
        }
        let mut shard = self.front.table.shard(&self.key);
        let own = shard
            .get(&self.key)
            .is_some_and(|entry| entry.is_driven_by(&self.nudge));
        // Those who wait see their channels close, and the first of them starts another driver.
        let abandoned = if own { shard.remove(&self.key) } else { None };
        drop(shard);
        drop(abandoned);
        self.front.quieter.notify_waiters();
        if let Some(claim) = self.claim.take() {
            let withdrawal = Withdrawal::new(&self.front, claim);
            self.front.executor.spawn(withdrawal.finish());
        }
    }
}
