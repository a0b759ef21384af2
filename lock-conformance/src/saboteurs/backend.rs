//! The backend that breaks one clause of the contract.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Executor, FenceBlock, FencingToken, GraceBy,
    Grant, Holder, Instant, Limits, LockKey, Mode, News, OwnerToken, Release, Released, Renewal,
    Renewed,
};
use tokio::time::sleep;

use super::{Memo, Sabotage, Sabotaged, Waiters, lock, modes};
use crate::store::Store;

/// How late is what comes late.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// A backend that breaks one clause of the contract.
pub struct Saboteur<S: Store> {
    pub(super) inner: Arc<S::Backend>,
    pub(super) sabotage: Sabotage,
    pub(super) store: Arc<S>,
    pub(super) memo: Arc<Mutex<Memo>>,
    pub(super) waiters: Waiters<S>,
    /// What stands between the store and the sinks of this backend.
    pub(super) sinks: Mutex<Vec<Arc<Censor>>>,
    /// The sinks that the store has not been told of yet.
    late: Mutex<Vec<Weak<dyn News>>>,
    has_asked: AtomicBool,
}

/// Changes the news on their way to a sink.
pub(super) struct Censor {
    sink: Weak<dyn News>,
    sabotage: Sabotage,
    memo: Arc<Mutex<Memo>>,
    grants: AtomicU64,
}

impl News for Censor {
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let before = self.grants.fetch_add(1, Ordering::Relaxed);
        let since = match self.sabotage {
            Sabotage::TellsOnce if before > 0 => return true,
            Sabotage::TellsSixteen if before >= modes::TOLD => return true,
            Sabotage::NewsPromiseTooMuch => since + Duration::from_secs(1),
            _ => since,
        };
        lock(&self.memo)
            .owners
            .insert(key.clone(), OwnerToken::new(owner));
        let sink = self.sink.upgrade();
        let expected = sink.is_some_and(|sink| sink.granted(key, owner, grant, since));
        let keeps = matches!(
            self.sabotage,
            Sabotage::GivesNothingBack | Sabotage::GivesNoShareBack
        );
        expected || keeps
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        let told = self.grants.load(Ordering::Relaxed);
        if self.sabotage == Sabotage::TellsSixteen && told >= modes::TOLD {
            return;
        }
        if let Some(sink) = self.sink.upgrade() {
            sink.ask_at(key, owner, at);
        }
    }

    fn ask_all(&self) {
        if let Some(sink) = self.sink.upgrade() {
            sink.ask_all();
        }
    }
}

impl<S: Store> Saboteur<S> {
    pub(super) fn new(inner: S::Backend, of: &Sabotaged<S>) -> Saboteur<S> {
        Saboteur {
            inner: Arc::new(inner),
            sabotage: of.sabotage,
            store: Arc::clone(&of.store),
            memo: Arc::clone(&of.memo),
            waiters: Arc::clone(&of.waiters),
            sinks: Mutex::default(),
            late: Mutex::default(),
            has_asked: AtomicBool::new(false),
        }
    }

    pub(super) fn does(&self, sabotage: Sabotage) -> bool {
        self.sabotage == sabotage
    }

    pub(super) fn memo(&self) -> MutexGuard<'_, Memo> {
        lock(&self.memo)
    }

    fn attach_now(&self, sink: Weak<dyn News>) {
        let censor = Arc::new(Censor {
            sink,
            sabotage: self.sabotage,
            memo: Arc::clone(&self.memo),
            grants: AtomicU64::new(0),
        });
        let news: Weak<Censor> = Arc::downgrade(&censor);
        lock(&self.sinks).push(censor);
        self.inner.attach(news);
    }

    fn attach_late(&self) {
        for sink in lock(&self.late).drain(..) {
            self.attach_now(sink);
        }
    }

    /// Refuses a question that was overtaken by any other.
    fn overtaken(&self, number: AskNumber) -> Result<(), BackendError> {
        if self.does(Sabotage::NumbersAllKeysAlike) && number > 0 {
            let mut memo = self.memo();
            if number < memo.number {
                return Err(BackendError::unavailable("overtaken"));
            }
            memo.number = number;
        }
        Ok(())
    }

    /// The number that the store is to see.
    fn number(&self, number: AskNumber) -> AskNumber {
        match self.sabotage {
            Sabotage::OverlooksNumbers | Sabotage::NumbersAllKeysAlike => 0,
            _ => number,
        }
    }

    /// The lease of `owner` has ended.
    fn forget_owner(&self, key: &LockKey, owner: &OwnerToken) {
        let mut memo = self.memo();
        if memo.owners.get(key) == Some(owner) {
            memo.owners.remove(key);
        }
    }

    /// Who was granted the lock last, as far as that is known.
    pub(super) fn owner(&self, key: &LockKey) -> Option<OwnerToken> {
        self.memo().owners.get(key).cloned()
    }

    /// Whether the claim owns the lock, by a renewal: news of it may be on their way.
    pub(super) async fn owns(&self, claim: &Claim) -> bool {
        let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
        let answers = self.inner.renew(&[renewal]).await;
        matches!(answers[..], [Ok(Renewed::Held(_))])
    }

    pub(super) fn has_heard(&self, owner: &OwnerToken) -> bool {
        self.memo().heard.contains_key(owner)
    }

    pub(super) fn is_waiting(&self, owner: &OwnerToken) -> bool {
        let waiters = lock(&self.waiters);
        waiters.iter().any(|(waiter, _)| waiter.owner == *owner)
    }

    /// Those who wait, each with what reaches the store from its process.
    pub(super) fn waiters(&self) -> Vec<(Claim, Arc<S::Backend>)> {
        let waiters = lock(&self.waiters);
        let alive = waiters.iter().map(|(claim, process)| {
            let process = process.upgrade();
            (
                claim.clone(),
                process.unwrap_or_else(|| Arc::clone(&self.inner)),
            )
        });
        alive.collect()
    }

    fn tokens(&self, mut block: FenceBlock, wanted: u32) -> FenceBlock {
        let token = FencingToken::new;
        match self.sabotage {
            Sabotage::SameFenceAlways => block.first = token(1),
            Sabotage::HugeFence => block.first = token(1 << 53),
            Sabotage::FenceRestartsAfterExpiry => {
                let mut memo = self.memo();
                memo.grants += 1;
                block.first = token(memo.grants);
            }
            Sabotage::BlockNotReserved | Sabotage::RenewedBlockNotReserved => {
                block.last = token(block.first.as_u64() + u64::from(wanted) - 1);
                return block;
            }
            _ => return block,
        }
        block.last = block.first;
        block
    }

    fn holder(&self, mut holder: Holder) -> Holder {
        if self.does(Sabotage::HidesRemaining) {
            holder.remaining = Some(Duration::ZERO);
        }
        if self.does(Sabotage::HidesForeigners) || self.does(Sabotage::InventsForeigners) {
            holder.foreign = self.does(Sabotage::InventsForeigners);
            holder.silent = holder.foreign;
        }
        holder
    }

    pub(super) fn acquired(&self, answer: Acquired, claim: &Claim) -> Acquired {
        match answer {
            Acquired::Granted(mut grant) => {
                let grants = self.memo().heard.len() as u64;
                if claim.mode != Mode::Exclusive {
                    let renewal = modes::renewal(claim, &grant);
                    let mut memo = self.memo();
                    let company = memo.company.entry(claim.key.clone());
                    company.or_default().push(renewal);
                }
                modes::spoil(self.sabotage, claim, &mut grant, grants);
                let owner = claim.owner.clone();
                self.memo().owners.insert(claim.key.clone(), owner);
                grant.tokens = self.tokens(grant.tokens, claim.tokens);
                if let Sabotage::RepeatsWithoutExtending
                | Sabotage::GrantsForAMoment
                | Sabotage::LeasesNeverEnd = self.sabotage
                {
                    grant.valid_for = claim.ttl;
                }
                Acquired::Granted(grant)
            }
            _ if self.does(Sabotage::GrantsTwice)
                || self.does(Sabotage::SharesPassWaiters) && claim.mode != Mode::Exclusive =>
            {
                Acquired::Granted(fake_grant(claim))
            }
            Acquired::Queued(holder) => Acquired::Queued(self.holder(holder)),
            Acquired::Taken(holder) => Acquired::Taken(self.holder(holder)),
            other => other,
        }
    }

    /// The claim as the sabotaged store understands it.
    fn misunderstood(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        claim.number = self.number(claim.number);
        claim.mode = modes::misread(self.sabotage, claim.mode);
        let limits = self.inner.limits();
        match self.sabotage {
            Sabotage::OneLockForAll => {
                claim.key = LockKey::new("", "all").expect("a valid key");
            }
            Sabotage::LeasesNeverEnd => claim.ttl = limits.max_ttl,
            Sabotage::GrantsForAMoment => {
                claim.ttl = limits.min_ttl;
                claim.grace = limits.min_ttl;
            }
            Sabotage::RepeatsWithoutExtending if self.has_heard(&claim.owner) => {
                claim.ttl = limits.min_ttl;
            }
            Sabotage::GraceIsTtl => claim.grace = claim.ttl,
            Sabotage::BlockNotReserved => claim.tokens = 1,
            _ => {}
        }
        claim
    }

    /// Whether a question with a shorter ttl leaves a lease as it is.
    pub(super) fn keeps_ttls(&self) -> bool {
        !S::TTL_CHANGES || self.inner.limits().grace == GraceBy::Process
    }
}

pub(super) fn somebody() -> Holder {
    Holder::of_ours(Duration::from_secs(1))
}

pub(super) fn fake_grant(claim: &Claim) -> Grant {
    let token = FencingToken::new(1);
    let tokens = FenceBlock {
        first: token,
        last: token,
    };
    Grant::new(tokens, claim.ttl)
}

impl<S: Store> Backend for Saboteur<S> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn attach(&self, news: Weak<dyn News>) {
        let is_first = lock(&self.sinks).is_empty();
        match self.sabotage {
            Sabotage::NoNews => {}
            Sabotage::AttachesLate => lock(&self.late).push(news),
            Sabotage::TellsNoLateSink if self.has_asked.load(Ordering::Relaxed) => {}
            Sabotage::TellsTheFirstSink if !is_first => {}
            _ => self.attach_now(news),
        }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.has_asked.store(true, Ordering::Relaxed);
        self.overtaken(claim.number)?;
        if self.memo().is_poisoned {
            return Err(BackendError::unavailable("poisoned"));
        }
        if let Some(answer) = self.before_acquire(claim).await? {
            return Ok(answer);
        }
        let understood = self.misunderstood(claim);
        let now = tokio::time::Instant::now();
        self.memo().heard.insert(claim.owner.clone(), now);
        let answer = if self.does(Sabotage::AcquireOutlivesItsFuture) {
            let inner = Arc::clone(&self.inner);
            let late = async move {
                sleep(LATE).await;
                inner.acquire(&understood).await
            };
            let answer = tokio::spawn(late).await;
            answer.map_err(BackendError::unavailable)?
        } else {
            self.inner.acquire(&understood).await
        };
        if answer.is_err() && self.does(Sabotage::ErrorsAreRefusals) {
            return Ok(Acquired::Taken(somebody()));
        }
        if matches!(answer, Ok(Acquired::Queued(_))) {
            self.after_queueing(claim).await?;
        }
        answer.map(|answer| self.acquired(answer, claim))
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let mut understood = leases.to_vec();
        for lease in &mut understood {
            lease.mode = modes::misread(self.sabotage, lease.mode);
            match self.sabotage {
                Sabotage::AnyoneRenews => {
                    lease.owner = self.owner(&lease.key).unwrap_or(lease.owner.clone());
                }
                Sabotage::RenewalIsShort => lease.ttl = self.inner.limits().min_ttl,
                Sabotage::PermitRenewalIsShort if matches!(lease.mode, Mode::Permits { .. }) => {
                    lease.ttl = self.inner.limits().min_ttl;
                }
                Sabotage::RenewedBlockNotReserved => lease.tokens = lease.tokens.min(1),
                Sabotage::RenewalCreates => {
                    let claim = Claim::new(lease.key.clone(), lease.owner.clone(), lease.ttl);
                    if let Err(error) = self.inner.acquire(&claim).await {
                        return vec![Err(error)];
                    }
                }
                _ => {}
            }
        }
        if self.does(Sabotage::RenewsOthers) {
            let company = leases.iter().flat_map(|lease| {
                let memo = self.memo();
                memo.company.get(&lease.key).cloned().unwrap_or_default()
            });
            let company: Vec<Renewal> = company.collect();
            self.inner.renew(&company).await;
        }
        if self.does(Sabotage::RenewalIsShort) && !S::TTL_CHANGES {
            let owns = |lease: &Renewal| self.owner(&lease.key).as_ref() == Some(&lease.owner);
            if leases.iter().all(owns) {
                return leases.iter().map(|_| Ok(Renewed::held())).collect();
            }
        }
        let mut answers = self.inner.renew(&understood).await;
        for (answer, lease) in answers.iter_mut().zip(leases) {
            match answer {
                Ok(Renewed::Held(extension)) => {
                    let further = extension.tokens;
                    extension.tokens = further.map(|block| self.tokens(block, lease.tokens));
                }
                Ok(Renewed::Lost(_)) if self.does(Sabotage::RenewalIsAlwaysHeld) => {
                    *answer = Ok(Renewed::held());
                }
                Err(_) if self.does(Sabotage::ErrorsAreRefusals) => *answer = Ok(Renewed::lost()),
                _ => {}
            }
        }
        if self.does(Sabotage::BatchIsReversed) {
            answers.reverse();
        }
        answers
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.attach_late();
        self.overtaken(release.number)?;
        let mut release = release.clone();
        release.number = self.number(release.number);
        if self.does(Sabotage::FirstShareEndsAll) && release.mode == Mode::Shared {
            self.store.expire(&release.key).await;
        }
        release.mode = modes::misread(self.sabotage, release.mode);
        let next = release.next.clone();
        match self.sabotage {
            Sabotage::AnyoneReleases => {
                release.owner = self.owner(&release.key).unwrap_or(release.owner);
            }
            Sabotage::ReleaseForgetsQueue => {
                for (waiter, process) in self.waiters() {
                    process.abandon(&waiter).await?;
                }
            }
            Sabotage::KeepHandsOver => release.keep = None,
            // The lease has as much left.
            Sabotage::KeepLeavesOwner if release.keep.is_some() => {
                return Ok(Released::Released(None));
            }
            Sabotage::NextIsForgotten => release.next = None,
            Sabotage::NextIsNotQueued if !lock(&self.waiters).is_empty() => release.next = None,
            _ => {}
        }
        match (self.inner.release(&release).await, next) {
            (Ok(Released::Released(None)), Some(_)) => {
                self.forget_owner(&release.key, &release.owner);
                Ok(Released::Released(Some(Acquired::Queued(somebody()))))
            }
            (Ok(Released::Released(answer)), next) => {
                self.forget_owner(&release.key, &release.owner);
                let answer = answer.zip(next);
                let answer = answer.map(|(answer, next)| self.acquired(answer, &next));
                Ok(Released::Released(answer))
            }
            (Ok(Released::NotHeld), _) if self.does(Sabotage::FreesOthersPermits) => {
                let company = self.memo().company.get(&release.key).cloned();
                for other in company.unwrap_or_default() {
                    release.owner = other.owner;
                    if let Released::Released(next) = self.inner.release(&release).await? {
                        return Ok(Released::Released(next));
                    }
                }
                Ok(Released::NotHeld)
            }
            (Ok(Released::NotHeld), Some(next)) if self.does(Sabotage::NextIsAlwaysTaken) => {
                self.inner.acquire(&next).await?;
                Ok(Released::NotHeld)
            }
            (Err(_), _) if self.does(Sabotage::ErrorsAreRefusals) => Ok(Released::NotHeld),
            (answer, _) => answer,
        }
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        if self.does(Sabotage::AllTakesSome) {
            for claim in claims {
                let mut claim = claim.clone();
                claim.queue = false;
                self.inner.acquire(&claim).await?;
            }
            return Ok(None);
        }
        self.inner.acquire_all(claims).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.overtaken(claim.number)?;
        match self.sabotage {
            Sabotage::AbandonDoesNothing => return Ok(()),
            Sabotage::AbandonLeavesWaiters if self.is_waiting(&claim.owner) => return Ok(()),
            Sabotage::AbandonWithoutHandOver if self.owns(claim).await => {
                self.store.expire(&claim.key).await;
                return Ok(());
            }
            Sabotage::ForgetsWithdrawals if !self.has_heard(&claim.owner) => return Ok(()),
            Sabotage::AcquireOutlivesItsFuture if !self.owns(claim).await => return Ok(()),
            Sabotage::AbandonOfUnknownFails if !self.has_heard(&claim.owner) => {
                return Err(BackendError::denied("never heard of it"));
            }
            Sabotage::AbandonEndsAnyLease => {
                if let Some(owner) = self.owner(&claim.key) {
                    let ending = Release::new(claim.key.clone(), owner);
                    self.inner.release(&ending).await?;
                }
            }
            _ => {}
        }
        let mut understood = claim.clone();
        understood.number = self.number(claim.number);
        understood.mode = modes::misread(self.sabotage, claim.mode);
        understood.in_doubt &= !self.does(Sabotage::ForgetsDoubts);
        let answer = self.inner.abandon(&understood).await;
        self.forget_owner(&claim.key, &claim.owner);
        match answer {
            Err(_) if self.does(Sabotage::ErrorsAreRefusals) => Ok(()),
            answer => answer,
        }
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        self.inner.executor()
    }

    async fn close(&self) {
        if !self.does(Sabotage::NeverCloses) {
            self.inner.close().await;
        }
    }
}
