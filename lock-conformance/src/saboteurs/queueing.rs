//! What a saboteur does to a claim before the store hears of it, and to those that wait.

use std::sync::{Arc, Mutex};

use lock_protocol::{Acquired, Backend, BackendError, Claim, News, OwnerToken};
use tokio::time::sleep;

use super::backend::{LATE, Saboteur, fake_grant, somebody};
use super::{Memo, Sabotage, lock, modes};
use crate::store::Store;

impl<S: Store> Saboteur<S> {
    /// Answers in place of the store, or gets it into the wrong state first.
    pub(super) async fn before_acquire(
        &self,
        claim: &Claim,
    ) -> Result<Option<Acquired>, BackendError> {
        match self.sabotage {
            Sabotage::RefusesRepeats if self.owns(claim).await => {
                return Ok(Some(Acquired::Taken(somebody())));
            }
            Sabotage::LateAcquireShortens if self.owns(claim).await => {
                let (store, claim) = (Arc::clone(&self.store), claim.clone());
                tokio::spawn(async move {
                    sleep(claim.ttl).await;
                    store.expire(&claim.key).await;
                });
            }
            // Elsewhere a shorter ttl does the same, also if news of the grant are on their way.
            Sabotage::RepeatsWithoutExtending
                if self.keeps_ttls() && self.owner(&claim.key).as_ref() == Some(&claim.owner) =>
            {
                return Ok(Some(Acquired::Granted(fake_grant(claim))));
            }
            Sabotage::QueuesOnceInALife
                if self.has_heard(&claim.owner) && !self.owns(claim).await =>
            {
                return Ok(Some(Acquired::Queued(somebody())));
            }
            Sabotage::StarvesWaiters if self.is_waiting(&claim.owner) => {
                return Ok(Some(Acquired::Queued(somebody())));
            }
            Sabotage::AskingCostsThePlace
                if self.is_waiting(&claim.owner) && !self.owns(claim).await =>
            {
                self.inner.abandon(claim).await?;
            }
            Sabotage::ForgetsWaiters if self.is_waiting(&claim.owner) => {
                let heard = self.memo().heard.get(&claim.owner).copied();
                if heard.is_some_and(|heard| heard.elapsed() > claim.heartbeat / 5) {
                    self.inner.abandon(claim).await?;
                }
            }
            Sabotage::Barging if self.owner(&claim.key).is_none() => {
                return self.ask_ahead_of(&self.waiters(), claim).await;
            }
            Sabotage::LightPassesHeavy => {
                let mut heavy = self.waiters();
                heavy.retain(|(waiter, _)| modes::is_heavier(waiter.mode, claim.mode));
                if !heavy.is_empty() {
                    return self.ask_ahead_of(&heavy, claim).await;
                }
            }
            Sabotage::LaterVerbsOvertake => {
                let before = self.memo().acquires;
                self.memo().acquires += 1;
                sleep(LATE * 10_u32.saturating_sub(before)).await;
            }
            Sabotage::DroppedVerbsPoison => {
                let poison = Poison(&self.memo, true);
                tokio::task::yield_now().await;
                poison.disarm();
            }
            _ => {}
        }
        Ok(None)
    }

    /// Asks the store as if these, who wait already, had come behind the claim.
    async fn ask_ahead_of(
        &self,
        waiters: &[(Claim, Arc<S::Backend>)],
        claim: &Claim,
    ) -> Result<Option<Acquired>, BackendError> {
        for (waiter, process) in waiters {
            process.abandon(waiter).await?;
        }
        let answer = self.inner.acquire(claim).await?;
        self.requeue(waiters, claim).await?;
        Ok(Some(self.acquired(answer, claim)))
    }

    pub(super) async fn after_queueing(&self, claim: &Claim) -> Result<(), BackendError> {
        let waiters = self.waiters();
        let again = self.is_waiting(&claim.owner);
        if again && self.does(Sabotage::QueuesTwice) {
            let mut twin = claim.clone();
            twin.owner = OwnerToken::unique("twin");
            self.inner.acquire(&twin).await?;
        }
        if !again && self.does(Sabotage::LatestFirst) {
            self.requeue(&waiters, claim).await?;
        }
        if !again {
            let process = Arc::downgrade(&self.inner);
            lock(&self.waiters).push((claim.clone(), process));
        }
        if self.does(Sabotage::TellsWhatIsNot) {
            let since = std::time::Instant::now().into();
            for sink in lock(&self.sinks).iter() {
                sink.granted(&claim.key, claim.owner.as_str(), fake_grant(claim), since);
            }
        }
        Ok(())
    }

    /// Puts all `waiters` but `first` to the end of the queue.
    pub(super) async fn requeue(
        &self,
        waiters: &[(Claim, Arc<S::Backend>)],
        first: &Claim,
    ) -> Result<(), BackendError> {
        for (waiter, process) in waiters {
            if waiter.owner != first.owner {
                process.abandon(waiter).await?;
                process.acquire(waiter).await?;
            }
        }
        Ok(())
    }
}

/// Breaks the backend when it is dropped before it was disarmed.
struct Poison<'a>(&'a Mutex<Memo>, bool);

impl Poison<'_> {
    fn disarm(mut self) {
        self.1 = false;
    }
}

impl Drop for Poison<'_> {
    fn drop(&mut self) {
        if self.1 {
            lock(self.0).is_poisoned = true;
        }
    }
}
