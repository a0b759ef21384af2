//! The control of the conformance suite: for each promise a backend that breaks it, which the suite must find.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_runtime::FencingToken;
use lock_runtime::backend::{
    Acquired, AskNumber, Backend, BackendError, Claim, FenceBlock, Grant, Holder, Instant, LockKey,
    News, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::memory::MemoryBackend;
use lock_tests::conformance::{self, Store};
use lock_tests::memory_store::MemoryStore;
use tokio::time::sleep;

/// One way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    /// None: the wrapper itself breaks nothing.
    Sound,
    GrantsTwice,
    OneLockForAll,
    LeasesNeverEnd,
    HidesRemaining,
    HidesForeigners,
    SameFenceAlways,
    FenceRestartsAfterExpiry,
    BlockNotReserved,
    RenewedBlockNotReserved,
    HugeFence,
    RefusesRepeats,
    RepeatsWithoutExtending,
    QueuesTwice,
    AskingCostsThePlace,
    ForgetsWaiters,
    QueuesOnceInALife,
    AnyoneReleases,
    ReleaseForgetsQueue,
    AbandonDoesNothing,
    AbandonWithoutHandOver,
    AbandonOfUnknownFails,
    AbandonEndsAnyLease,
    AcquireOutlivesItsFuture,
    ForgetsWithdrawals,
    ForgetsDoubts,
    LateAcquireShortens,
    ErrorsAreRefusals,
    NeverCloses,
    LatestFirst,
    Barging,
    GraceIsTtl,
    NextIsForgotten,
    NextIsAlwaysTaken,
    NoNews,
    AttachesLate,
    TellsNoLateSink,
    TellsOnce,
    TellsTheFirstSink,
    GivesNothingBack,
    NewsPromiseTooMuch,
    LaterVerbsOvertake,
    OverlooksNumbers,
    NumbersAllKeysAlike,
    DroppedVerbsPoison,
    RenewalDoesNothing,
    RenewalIsAlwaysHeld,
    RenewalCreates,
    AnyoneRenews,
    BatchIsReversed,
}

/// What breaks each promise.
fn saboteur_of(promise: &str) -> Sabotage {
    use Sabotage::*;
    match promise {
        "a_key_has_one_owner" => GrantsTwice,
        "different_keys_do_not_exclude_each_other" => OneLockForAll,
        "of_claims_that_race_one_is_granted" => GrantsTwice,
        "contending_claims_are_all_served_one_at_a_time" => GrantsTwice,
        "a_lease_ends_with_its_ttl" => LeasesNeverEnd,
        "a_refusal_tells_what_is_left_of_the_lease" => HidesRemaining,
        "a_foreign_owner_is_told_from_our_own" => HidesForeigners,
        "a_lease_that_a_foreign_owner_took_is_lost" => RenewalIsAlwaysHeld,
        "fences_grow_with_every_grant" => SameFenceAlways,
        "fences_grow_over_an_expiry" => FenceRestartsAfterExpiry,
        "fences_grow_over_a_hand_over" => SameFenceAlways,
        "fences_grow_over_a_whole_block" => BlockNotReserved,
        "a_renewal_reserves_fences" => RenewedBlockNotReserved,
        "fences_survive_json" => HugeFence,
        "a_repeated_acquire_is_granted_again" => RefusesRepeats,
        "a_repeated_acquire_gives_the_full_ttl" => RepeatsWithoutExtending,
        "a_repeated_acquire_never_queues_twice" => QueuesTwice,
        "a_waiter_that_asks_keeps_its_place" => AskingCostsThePlace,
        "a_waiter_that_asks_in_time_is_not_forgotten" => ForgetsWaiters,
        "a_claim_that_the_store_forgot_is_queued_again" => QueuesOnceInALife,
        "a_repeated_release_does_nothing" => AnyoneReleases,
        "a_release_by_another_does_nothing" => AnyoneReleases,
        "an_abandoned_waiter_is_skipped" => AbandonDoesNothing,
        "an_abandoned_grant_is_free" => AbandonDoesNothing,
        "an_abandoned_grant_is_handed_on" => AbandonWithoutHandOver,
        "an_abandoned_hand_over_is_handed_on" => AbandonWithoutHandOver,
        "an_abandon_may_come_twice_or_first" => AbandonOfUnknownFails,
        "an_abandon_touches_no_other_claim" => AbandonEndsAnyLease,
        "an_abandon_undoes_an_acquire_that_was_dropped" => AcquireOutlivesItsFuture,
        "an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire" => ForgetsWithdrawals,
        "an_abandon_in_doubt_leaves_nothing_to_a_late_acquire" => ForgetsDoubts,
        "a_late_acquire_shortens_no_lease" => LateAcquireShortens,
        "a_dark_store_is_an_error_and_never_a_refusal" => ErrorsAreRefusals,
        "a_closed_backend_answers_with_errors" => NeverCloses,
        "waiters_are_served_in_the_order_of_their_first_asking" => LatestFirst,
        "a_hand_over_wakes_the_head_of_the_queue" => NoNews,
        "a_hand_over_leaves_no_gap" => ReleaseForgetsQueue,
        "a_handed_over_lease_lives_for_the_grace" => GraceIsTtl,
        "a_renewal_turns_the_grace_into_the_full_ttl" => RenewalDoesNothing,
        "a_poll_turns_the_grace_into_the_full_ttl" => RepeatsWithoutExtending,
        "a_waiter_that_is_gone_costs_the_grace" => GraceIsTtl,
        "nobody_barges_in_after_an_expiry" => Barging,
        "an_owner_that_expired_stands_behind_the_waiters" => Barging,
        "after_an_expiry_any_waiter_that_asks_serves_the_head" => Barging,
        "a_release_grants_the_next_claim_if_nobody_waits" => NextIsForgotten,
        "a_release_queues_the_next_claim_behind_those_who_wait" => NextIsForgotten,
        "a_release_of_nothing_ignores_the_next_claim" => NextIsAlwaysTaken,
        "a_hand_over_is_told_to_a_sink_attached_before" => AttachesLate,
        "a_sink_attached_late_hears_of_earlier_claims" => TellsNoLateSink,
        "a_sink_hears_of_every_hand_over" => TellsOnce,
        "several_sinks_each_hear_of_their_own_claims" => TellsTheFirstSink,
        "a_claim_that_nobody_expects_is_given_back" => GivesNothingBack,
        "a_wake_up_tells_the_lease_as_it_is" => NewsPromiseTooMuch,
        "verbs_take_effect_in_the_order_of_their_first_polls" => LaterVerbsOvertake,
        "a_verb_behind_a_larger_number_takes_no_effect" => OverlooksNumbers,
        "numbers_order_the_verbs_of_one_key_and_one_process" => NumbersAllKeysAlike,
        "a_dropped_verb_breaks_nothing" => DroppedVerbsPoison,
        "a_renewal_extends_the_lease" => RenewalDoesNothing,
        "a_renewal_never_creates_a_lease" => RenewalCreates,
        "a_renewal_by_another_does_nothing" => AnyoneRenews,
        "a_batch_of_renewals_is_answered_in_order" => BatchIsReversed,
        "nothing_is_left_behind" => AbandonDoesNothing,
        _ => panic!("`{promise}` has no control"),
    }
}

macro_rules! controls {
    ($context:tt $($promise:ident)+) => {
        const PROMISES: &[&str] = &[$(stringify!($promise)),+];
        $(
            #[tokio::test(start_paused = true)]
            async fn $promise() {
                async fn is_kept(sabotage: Sabotage) -> bool {
                    let store = SabotagedStore::new(sabotage);
                    let promise = async move { conformance::$promise(&store).await };
                    tokio::spawn(promise).await.is_ok()
                }
                let sabotage = saboteur_of(stringify!($promise));
                assert!(is_kept(Sabotage::Sound).await, "the wrapper breaks it already");
                assert!(!is_kept(sabotage).await, "{sabotage:?} was not found");
            }
        )+
    };
}

lock_tests::for_each_promise! { controls, {} }

#[test]
fn every_promise_is_mounted() {
    let written = include_str!("../src/conformance.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('<'))
        .map(|(promise, _)| promise)
        .collect::<HashSet<_>>();
    assert_eq!(written, PROMISES.iter().copied().collect());
}

/// A store in memory that all saboteurs of a test share.
struct SabotagedStore {
    store: MemoryStore,
    sabotage: Sabotage,
    memo: Arc<Mutex<Memo>>,
}

impl SabotagedStore {
    fn new(sabotage: Sabotage) -> SabotagedStore {
        SabotagedStore {
            store: MemoryStore::default(),
            sabotage,
            memo: Arc::default(),
        }
    }
}

impl Store for SabotagedStore {
    type Backend = Saboteur;

    async fn connect(&self) -> Saboteur {
        Saboteur {
            inner: self.store.connect().await,
            sabotage: self.sabotage,
            memo: Arc::clone(&self.memo),
            sinks: Mutex::default(),
            late: Mutex::default(),
            has_asked: AtomicBool::new(false),
        }
    }

    async fn expire(&self, key: &LockKey) {
        self.memo.lock().unwrap().grants = 0;
        self.store.expire(key).await;
    }

    async fn seize(&self, key: &LockKey) {
        self.store.seize(key).await;
    }

    async fn go_dark(&self) {
        self.store.go_dark().await;
    }

    async fn leftovers(&self) -> Vec<String> {
        self.store.leftovers().await
    }
}

/// What saboteurs need to remember.
#[derive(Default)]
struct Memo {
    /// The claims that were told to wait, in that order.
    waiters: Vec<Claim>,
    heard: HashSet<OwnerToken>,
    /// The largest number of a question.
    number: AskNumber,
    /// Grants since the last expiry.
    grants: u64,
    acquires: u64,
    poisoned: bool,
}

/// A backend that breaks one clause of the contract.
struct Saboteur {
    inner: MemoryBackend,
    sabotage: Sabotage,
    memo: Arc<Mutex<Memo>>,
    /// What stands between the store and the sinks of this backend.
    sinks: Mutex<Vec<Arc<Censor>>>,
    /// The sinks that the store has not been told of yet.
    late: Mutex<Vec<Weak<dyn News>>>,
    has_asked: AtomicBool,
}

/// Changes the news on their way to a sink.
struct Censor {
    sink: Weak<dyn News>,
    sabotage: Sabotage,
    grants: AtomicU64,
}

impl News for Censor {
    fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let before = self.grants.fetch_add(1, Ordering::Relaxed);
        let since = match self.sabotage {
            Sabotage::TellsOnce if before > 0 => return true,
            Sabotage::NewsPromiseTooMuch => since + Duration::from_secs(1),
            _ => since,
        };
        let sink = self.sink.upgrade();
        let expected = sink.is_some_and(|sink| sink.granted(key, owner, grant, since));
        expected || self.sabotage == Sabotage::GivesNothingBack
    }

    fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
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

impl Saboteur {
    fn does(&self, sabotage: Sabotage) -> bool {
        self.sabotage == sabotage
    }

    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap()
    }

    fn sinks(&self) -> MutexGuard<'_, Vec<Arc<Censor>>> {
        self.sinks.lock().unwrap()
    }

    fn attach_now(&self, sink: Weak<dyn News>) {
        let censor = Arc::new(Censor {
            sink,
            sabotage: self.sabotage,
            grants: AtomicU64::new(0),
        });
        let news: Weak<Censor> = Arc::downgrade(&censor);
        self.sinks().push(censor);
        self.inner.attach(news);
    }

    fn attach_late(&self) {
        for sink in self.late.lock().unwrap().drain(..) {
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

    /// The claim with the number that the store is to see.
    fn numbered(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        if self.does(Sabotage::OverlooksNumbers) || self.does(Sabotage::NumbersAllKeysAlike) {
            claim.number = 0;
        }
        claim
    }

    fn owner(&self, key: &LockKey) -> Option<OwnerToken> {
        self.inner.owner(key.as_str())
    }

    fn owns(&self, claim: &Claim) -> bool {
        self.owner(&claim.key).as_ref() == Some(&claim.owner)
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
        if self.does(Sabotage::HidesForeigners) {
            holder.foreign = false;
            holder.silent = false;
        }
        holder
    }

    fn acquired(&self, answer: Acquired, claim: &Claim) -> Acquired {
        match answer {
            Acquired::Granted(grant) => Acquired::Granted(Grant::new(
                self.tokens(grant.tokens, claim.tokens),
                grant.valid_for.min(claim.ttl),
            )),
            _ if self.does(Sabotage::GrantsTwice) => fake_grant(claim),
            Acquired::Queued(holder) => Acquired::Queued(self.holder(holder)),
            Acquired::Taken(holder) => Acquired::Taken(self.holder(holder)),
            other => other,
        }
    }

    /// The claim as the sabotaged store understands it.
    fn misunderstood(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        match self.sabotage {
            Sabotage::OneLockForAll => claim.key = LockKey::new("", "all").unwrap(),
            Sabotage::LeasesNeverEnd => claim.ttl = Duration::from_secs(86_400),
            Sabotage::GraceIsTtl => claim.grace = claim.ttl,
            Sabotage::ForgetsWaiters => claim.heartbeat /= 10,
            Sabotage::BlockNotReserved => claim.tokens = 1,
            _ => {}
        }
        claim
    }

    /// Answers in place of the store, or gets it into the wrong state first.
    async fn before_acquire(&self, claim: &Claim) -> Option<Acquired> {
        let waiters = self.memo().waiters.clone();
        match self.sabotage {
            Sabotage::RefusesRepeats if self.owns(claim) => {
                return Some(Acquired::Taken(somebody()));
            }
            Sabotage::LateAcquireShortens if self.owns(claim) => {
                self.inner.expire(claim.key.as_str());
            }
            Sabotage::RepeatsWithoutExtending if self.owns(claim) => {
                return Some(fake_grant(claim));
            }
            Sabotage::QueuesOnceInALife
                if !self.owns(claim) && self.memo().heard.contains(&claim.owner) =>
            {
                return Some(Acquired::Queued(somebody()));
            }
            Sabotage::AskingCostsThePlace if !self.owns(claim) => {
                self.inner.abandon(claim).await.unwrap();
            }
            Sabotage::Barging if self.owner(&claim.key).is_none() => {
                for waiter in &waiters {
                    self.inner.abandon(waiter).await.unwrap();
                }
                let granted = self.inner.acquire(claim).await.unwrap();
                self.requeue(&waiters, claim).await;
                return Some(granted);
            }
            Sabotage::LaterVerbsOvertake => {
                let before = self.memo().acquires;
                self.memo().acquires += 1;
                sleep(Duration::from_millis(10_u64.saturating_sub(before))).await;
            }
            Sabotage::DroppedVerbsPoison => {
                let poison = Poison(&self.memo, true);
                tokio::task::yield_now().await;
                poison.disarm();
            }
            _ => {}
        }
        None
    }

    async fn after_queueing(&self, claim: &Claim) {
        let waiters = self.memo().waiters.clone();
        let again = waiters.iter().any(|waiter| waiter.owner == claim.owner);
        if again && self.does(Sabotage::QueuesTwice) {
            let mut twin = claim.clone();
            twin.owner = OwnerToken::unique("twin");
            self.inner.acquire(&twin).await.unwrap();
        }
        if !again && self.does(Sabotage::LatestFirst) {
            self.requeue(&waiters, claim).await;
        }
        if !again {
            self.memo().waiters.push(claim.clone());
        }
    }

    /// Puts all `waiters` but `first` to the end of the queue.
    async fn requeue(&self, waiters: &[Claim], first: &Claim) {
        for waiter in waiters.iter().filter(|waiter| waiter.owner != first.owner) {
            self.inner.abandon(waiter).await.unwrap();
            self.inner.acquire(waiter).await.unwrap();
        }
    }
}

fn somebody() -> Holder {
    Holder::of_ours(Duration::from_secs(1))
}

fn fake_grant(claim: &Claim) -> Acquired {
    let token = FencingToken::new(1);
    let tokens = FenceBlock {
        first: token,
        last: token,
    };
    Acquired::Granted(Grant::new(tokens, claim.ttl))
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
            self.0.lock().unwrap().poisoned = true;
        }
    }
}

impl Backend for Saboteur {
    fn attach(&self, news: Weak<dyn News>) {
        let is_first = self.sinks().is_empty();
        match self.sabotage {
            Sabotage::NoNews => {}
            Sabotage::AttachesLate => self.late.lock().unwrap().push(news),
            Sabotage::TellsNoLateSink if self.has_asked.load(Ordering::Relaxed) => {}
            Sabotage::TellsTheFirstSink if !is_first => {}
            _ => self.attach_now(news),
        }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.has_asked.store(true, Ordering::Relaxed);
        self.overtaken(claim.number)?;
        if self.memo().poisoned {
            return Err(BackendError::unavailable("poisoned"));
        }
        if let Some(answer) = self.before_acquire(claim).await {
            return Ok(answer);
        }
        self.memo().heard.insert(claim.owner.clone());
        let understood = self.misunderstood(&self.numbered(claim));
        let answer = if self.does(Sabotage::AcquireOutlivesItsFuture) {
            let inner = self.inner.clone();
            let late = async move {
                sleep(Duration::from_millis(10)).await;
                inner.acquire(&understood).await
            };
            tokio::spawn(late).await.unwrap()
        } else {
            self.inner.acquire(&understood).await
        };
        if answer.is_err() && self.does(Sabotage::ErrorsAreRefusals) {
            return Ok(Acquired::Taken(somebody()));
        }
        if matches!(answer, Ok(Acquired::Queued(_))) {
            self.after_queueing(claim).await;
        }
        answer.map(|answer| self.acquired(answer, claim))
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        if self.does(Sabotage::RenewalDoesNothing) {
            let held = |lease: &&Renewal| self.owner(&lease.key).as_ref() == Some(&lease.owner);
            return leases
                .iter()
                .map(|lease| {
                    Ok(if held(&lease) {
                        Renewed::held()
                    } else {
                        Renewed::lost()
                    })
                })
                .collect();
        }
        let mut understood = leases.to_vec();
        for lease in &mut understood {
            match self.sabotage {
                Sabotage::AnyoneRenews => {
                    lease.owner = self.owner(&lease.key).unwrap_or(lease.owner.clone());
                }
                Sabotage::RenewedBlockNotReserved => lease.tokens = lease.tokens.min(1),
                Sabotage::RenewalCreates => {
                    let claim = Claim::new(lease.key.clone(), lease.owner.clone(), lease.ttl);
                    self.inner.acquire(&claim).await.unwrap();
                }
                _ => {}
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
        if self.does(Sabotage::OverlooksNumbers) || self.does(Sabotage::NumbersAllKeysAlike) {
            release.number = 0;
        }
        let next = release.next.clone();
        match self.sabotage {
            Sabotage::AnyoneReleases => {
                release.owner = self.owner(&release.key).unwrap_or(release.owner);
            }
            Sabotage::ReleaseForgetsQueue => {
                let waiters = self.memo().waiters.clone();
                for waiter in &waiters {
                    self.inner.abandon(waiter).await?;
                }
            }
            Sabotage::NextIsForgotten => {
                release.next = None;
                self.inner.release(&release).await?;
                return Ok(Released::Released(
                    next.map(|_| Acquired::Queued(somebody())),
                ));
            }
            _ => {}
        }
        match self.inner.release(&release).await {
            Ok(Released::Released(Some(answer))) => {
                let claim = next.expect("an answer needs a question");
                Ok(Released::Released(Some(self.acquired(answer, &claim))))
            }
            Ok(Released::NotHeld) if self.does(Sabotage::NextIsAlwaysTaken) => {
                if let Some(next) = &next {
                    self.inner.acquire(next).await?;
                }
                Ok(Released::NotHeld)
            }
            Err(_) if self.does(Sabotage::ErrorsAreRefusals) => Ok(Released::NotHeld),
            answer => answer,
        }
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.overtaken(claim.number)?;
        match self.sabotage {
            Sabotage::AbandonDoesNothing => return Ok(()),
            Sabotage::AbandonWithoutHandOver if self.owns(claim) => {
                self.inner.expire(claim.key.as_str());
                return Ok(());
            }
            Sabotage::ForgetsWithdrawals if !self.memo().heard.contains(&claim.owner) => {
                return Ok(());
            }
            Sabotage::AcquireOutlivesItsFuture if !self.owns(claim) => return Ok(()),
            Sabotage::AbandonOfUnknownFails if !self.memo().heard.contains(&claim.owner) => {
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
        let mut claim = self.numbered(claim);
        claim.in_doubt &= !self.does(Sabotage::ForgetsDoubts);
        match self.inner.abandon(&claim).await {
            Err(_) if self.does(Sabotage::ErrorsAreRefusals) => Ok(()),
            answer => answer,
        }
    }

    async fn close(&self) {
        if !self.does(Sabotage::NeverCloses) {
            self.inner.close().await;
        }
    }
}
