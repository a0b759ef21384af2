//! A process that uses a store, as the promises play it.

use std::fmt::Debug;
use std::future::Future;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, FenceBlock, GraceBy, Grant, Holder, Limits,
    LockKey, Order, OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::inbox::{Inbox, Told};
use crate::store::{Remaining, Store};

pub(crate) const HEALTHY: &str = "a healthy store answers";

/// A ttl that never runs out during a test.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What is enough for things to happen that should not.
pub(crate) const MOMENT: Duration = Duration::from_millis(100);

/// A backend, where its news go, and what can be expected of it.
pub(crate) struct Process<B> {
    pub(crate) backend: B,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) limits: Limits,
    pub(crate) ttl_changes: bool,
    remaining: Remaining,
    deadline: Duration,
}

impl<B> Deref for Process<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.backend
    }
}

pub(crate) async fn connect<S: Store>(store: &S) -> Process<S::Backend> {
    let backend = store.connect().await;
    Process {
        inbox: Inbox::of(&backend),
        limits: backend.limits(),
        ttl_changes: S::TTL_CHANGES,
        remaining: S::REMAINING,
        deadline: S::DEADLINE,
        backend,
    }
}

/// What the store can do, and times that follow from it.
impl<B: Backend> Process<B> {
    /// The ttl that the store makes of `ttl`.
    pub(crate) fn kept(&self, ttl: Duration) -> Duration {
        let step = self.limits.ttl_step.as_nanos().max(1);
        let ttl = ttl.max(self.limits.min_ttl).as_nanos();
        let kept = ttl.div_ceil(step) * step;
        Duration::from_nanos(u64::try_from(kept).expect("leases are shorter than centuries"))
    }

    /// How long a lease of `ttl` keeps others out at most.
    pub(crate) fn at_most(&self, ttl: Duration) -> Duration {
        let delay = if self.limits.lock_delay {
            ttl
        } else {
            Duration::ZERO
        };
        self.kept(ttl) + self.limits.lateness + delay
    }

    /// A ttl that runs out during a test.
    pub(crate) fn short(&self) -> Duration {
        self.kept(MOMENT)
    }

    /// A ttl that runs out during a test, and of which a quarter is more than the store may add.
    pub(crate) fn medium(&self) -> Duration {
        self.kept(2 * self.short() + 4 * (self.limits.lateness + self.limits.ttl_step))
    }

    /// A ttl of which can be seen how much is left: where the store does not tell, its end has to
    /// be waited for.
    pub(crate) fn visible(&self) -> Duration {
        match self.remaining {
            Remaining::Exact(_) => LONG,
            Remaining::AtMost => self.medium(),
        }
    }

    pub(crate) fn is_fifo(&self) -> bool {
        self.limits.order == Order::Fifo
    }

    /// Whether what is left of a grace can be seen without waiting for its end.
    pub(crate) fn tells_graces(&self) -> bool {
        self.limits.grace == GraceBy::Store && self.tells_remaining()
    }

    /// A pause in which a lease of `ttl`, which is [visible](Self::visible), gets visibly older.
    pub(crate) fn while_it_runs(&self, ttl: Duration) -> Duration {
        match self.remaining {
            Remaining::Exact(rounding) => 3 * MOMENT + rounding,
            Remaining::AtMost => ttl / 2,
        }
    }

    fn tells_remaining(&self) -> bool {
        matches!(self.remaining, Remaining::Exact(_))
    }

    /// What the store may be wrong by about what is left.
    pub(crate) fn rounding(&self) -> Duration {
        match self.remaining {
            Remaining::Exact(rounding) => rounding,
            Remaining::AtMost => Duration::from_millis(20),
        }
    }

    /// No verb and no news may keep a test for ever.
    pub(crate) async fn answer<T>(&self, verb: impl Future<Output = T>) -> T {
        self.answer_after(Duration::ZERO, verb).await
    }

    /// The same for what takes `time`.
    async fn answer_after<T>(&self, time: Duration, verb: impl Future<Output = T>) -> T {
        let answer = timeout(time + self.deadline, verb).await;
        answer.expect("an answer before the deadline")
    }
}

/// More fencing tokens than the clock can step over between two verbs.
pub(crate) const MANY: u32 = 10_000_000;

/// A key that no other promise uses.
pub(crate) fn key() -> LockKey {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    LockKey::new("lock:", &format!("conformance:{number}")).expect("a valid key")
}

pub(crate) fn claim(key: &LockKey) -> Claim {
    Claim::new(key.clone(), OwnerToken::unique("conformance"), LONG)
}

pub(crate) fn waiter(key: &LockKey) -> Claim {
    let mut claim = claim(key).queued();
    // Nor does a lease that was handed over run out, unless that is the point.
    claim.grace = LONG;
    claim
}

pub(crate) fn with_ttl(mut claim: Claim, ttl: Duration) -> Claim {
    claim.ttl = ttl;
    claim.grace = ttl;
    claim
}

pub(crate) fn numbered(claim: &Claim, number: AskNumber) -> Claim {
    let mut claim = claim.clone();
    claim.number = number;
    claim
}

pub(crate) fn with_tokens(mut claim: Claim, tokens: u32) -> Claim {
    claim.tokens = tokens;
    claim
}

pub(crate) fn renewal(claim: &Claim) -> Renewal {
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    renewal.mode = claim.mode;
    renewal
}

pub(crate) async fn acquire(process: &Process<impl Backend>, claim: &Claim) -> Acquired {
    let answer = process.answer(process.acquire(claim)).await;
    answer.expect(HEALTHY)
}

pub(crate) async fn granted(process: &Process<impl Backend>, claim: &Claim) -> Grant {
    match acquire(process, claim).await {
        Acquired::Granted(grant) => grant,
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

pub(crate) async fn queued(process: &Process<impl Backend>, claim: &Claim) -> Holder {
    match acquire(process, claim).await {
        Acquired::Queued(holder) => holder,
        other => panic!("the claim should have been queued, but: {other:?}"),
    }
}

pub(crate) async fn taken(process: &Process<impl Backend>, claim: &Claim) -> Holder {
    match acquire(process, claim).await {
        Acquired::Taken(holder) => holder,
        other => panic!("the lock should have been taken, but: {other:?}"),
    }
}

/// That the claim is granted once a lease of `ttl` has run out, as others find who ask for it.
pub(crate) async fn granted_after(process: &Process<impl Backend>, ttl: Duration, claim: &Claim) {
    let ask = async {
        while !matches!(acquire(process, claim).await, Acquired::Granted(_)) {
            sleep(MOMENT / 10).await;
        }
    };
    process.answer_after(process.at_most(ttl), ask).await;
}

/// Waits as a caller does until the claim owns the lock: by news, and by asking once a heartbeat.
pub(crate) async fn owned(process: &Process<impl Backend>, claim: &Claim) -> FenceBlock {
    let wait = async {
        loop {
            if let Acquired::Granted(grant) = acquire(process, claim).await {
                return grant.tokens;
            }
            // A missing wake-up is no fault, so ask again without one; nor is a spurious one, but
            // too many would stop a paused clock.
            if let Ok(Told::Ask) = timeout(MOMENT, process.inbox.changed(claim)).await {
                sleep(MOMENT / 100).await;
            }
        }
    };
    process.answer(wait).await
}

/// Waits until news come that make the claim the owner; tells the lease if the news did.
pub(crate) async fn woken(
    process: &Process<impl Backend>,
    claim: &Claim,
) -> Option<(Grant, Instant)> {
    news(process, &process.inbox, claim).await
}

/// The same, by the news in `inbox`.
pub(crate) async fn news(
    process: &Process<impl Backend>,
    inbox: &Inbox,
    claim: &Claim,
) -> Option<(Grant, Instant)> {
    let wait = async {
        loop {
            match inbox.changed(claim).await {
                Told::Granted { grant, since } => return Some((grant, since)),
                Told::Ask if has_turn(process, claim).await => return None,
                // Spurious; let others run, lest a store that is full of them stops the clock.
                Told::Ask => sleep(MOMENT / 10).await,
            }
        }
    };
    process.answer(wait).await
}

/// Whether the claim owns the lock, or gets it by asking where nobody hands it over.
async fn has_turn(process: &Process<impl Backend>, claim: &Claim) -> bool {
    if process.limits.hand_over {
        is_held(renewed(process, claim).await)
    } else {
        matches!(acquire(process, claim).await, Acquired::Granted(_))
    }
}

/// The release of `claim`.
pub(crate) fn ending(claim: &Claim) -> Release {
    let mut release = Release::new(claim.key.clone(), claim.owner.clone());
    release.mode = claim.mode;
    release
}

pub(crate) async fn release(process: &Process<impl Backend>, claim: &Claim) -> Released {
    let answer = process.answer(process.release(&ending(claim))).await;
    answer.expect(HEALTHY)
}

pub(crate) async fn released(process: &Process<impl Backend>, claim: &Claim) {
    assert_eq!(release(process, claim).await, Released::Released(None));
}

/// The release of `claim` that keeps the key for so long.
pub(crate) fn keeping(claim: &Claim, keep: Duration) -> Release {
    let mut release = ending(claim);
    release.keep = Some(keep);
    release
}

pub(crate) async fn kept(process: &Process<impl Backend>, claim: &Claim, keep: Duration) {
    let answer = process.answer(process.release(&keeping(claim, keep))).await;
    assert_eq!(answer.expect(HEALTHY), Released::Released(None));
}

pub(crate) async fn release_to(
    process: &Process<impl Backend>,
    claim: &Claim,
    next: &Claim,
) -> Released {
    let release = ending(claim).then(Some(next.clone()));
    process
        .answer(process.release(&release))
        .await
        .expect(HEALTHY)
}

pub(crate) async fn abandon(process: &Process<impl Backend>, claim: &Claim) {
    process.answer(process.abandon(claim)).await.expect(HEALTHY);
}

pub(crate) async fn renew_one(process: &Process<impl Backend>, renewal: &Renewal) -> Renewed {
    let renewals = std::slice::from_ref(renewal);
    let mut answers = process.answer(process.renew(renewals)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).expect(HEALTHY)
}

pub(crate) async fn renewed(process: &Process<impl Backend>, claim: &Claim) -> Renewed {
    renew_one(process, &renewal(claim)).await
}

/// By a renewal, since an `acquire` would serve the queue where a release forgot to.
pub(crate) async fn assert_owner(process: &Process<impl Backend>, claim: &Claim) {
    let answer = renewed(process, claim).await;
    assert!(is_held(answer), "the claim should own the lock");
}

/// That a claim which waited owns the lock that is free for it. Where nobody hands locks over it
/// has to ask.
pub(crate) async fn served(process: &Process<impl Backend>, claim: &Claim) {
    if process.limits.hand_over {
        assert_owner(process, claim).await;
    } else {
        owned(process, claim).await;
    }
}

/// That all who wait for a free lock get it, one at a time; in this order, if the store keeps one.
pub(crate) async fn all_served<B: Backend>(waiters: &[(&Process<B>, &Claim)]) {
    let mut left = waiters.to_vec();
    while !left.is_empty() {
        let place = if left[0].0.is_fifo() {
            served(left[0].0, left[0].1).await;
            0
        } else {
            whose_turn(&left).await
        };
        let (process, claim) = left.remove(place);
        for (process, behind) in &left {
            queued(process, behind).await;
        }
        released(process, claim).await;
    }
}

/// The place of the waiter that owns the lock.
async fn whose_turn<B: Backend>(waiters: &[(&Process<B>, &Claim)]) -> usize {
    let ask = async {
        loop {
            for (place, (process, claim)) in waiters.iter().enumerate() {
                if let Acquired::Granted(_) = acquire(process, claim).await {
                    return place;
                }
            }
            sleep(MOMENT / 10).await;
        }
    };
    waiters[0].0.answer(ask).await
}

pub(crate) fn is_held(answer: Renewed) -> bool {
    matches!(answer, Renewed::Held(_))
}

/// That a renewal for the full ttl held, and gave no tokens.
pub(crate) fn assert_held(answer: Renewed) {
    let Renewed::Held(extension) = answer else {
        panic!("the lease should have been held, but: {answer:?}");
    };
    assert_eq!(extension.tokens, None);
}

pub(crate) fn assert_lost(answer: Renewed) {
    assert!(matches!(answer, Renewed::Lost(_)), "{answer:?}");
}

/// That a question which came behind a later one was not asked.
pub(crate) fn overtaken<T: Debug>(answer: Result<T, BackendError>) {
    let error = answer.expect_err("a question that was overtaken");
    assert!(
        !error.is_denied(),
        "asking again with a larger number helps"
    );
}

/// What is left of a lease, as a stranger sees it.
pub(crate) async fn remaining(process: &Process<impl Backend>, key: &LockKey) -> Duration {
    let holder = taken(process, &claim(key)).await;
    holder.remaining.expect("the lease ends")
}

/// That a lease began to live for `ttl`, which is [visible](Process::visible), no earlier than
/// `asked`.
pub(crate) async fn assert_left_at_least(
    process: &Process<impl Backend>,
    key: &LockKey,
    ttl: Duration,
    asked: Instant,
) {
    let remaining = remaining(process, key).await;
    assert!(
        remaining + asked.elapsed() + process.rounding() >= ttl,
        "{remaining:?} is left of {ttl:?}"
    );
    if !process.tells_remaining() {
        sleep_until(asked + ttl * 9 / 10).await;
        taken(process, &claim(key)).await;
    }
}

/// That others are not told of more than is left of a lease of `ttl`, which `began` at the latest.
pub(crate) fn assert_left_at_most(
    process: &Process<impl Backend>,
    remaining: Duration,
    ttl: Duration,
    began: Instant,
) {
    let mut left = process.at_most(ttl) + process.rounding();
    if process.tells_remaining() {
        left = left.saturating_sub(began.elapsed());
    }
    assert!(remaining <= left, "{remaining:?} is more than {left:?}");
}

pub(crate) fn assert_later(later: FenceBlock, earlier: FenceBlock) {
    assert!(
        later.first > earlier.last,
        "{later:?} does not follow {earlier:?}"
    );
}

pub(crate) fn assert_block(block: FenceBlock, wanted: u32) {
    assert!(block.first <= block.last, "{block:?}");
    assert!(
        block.last.as_u64() - block.first.as_u64() < u64::from(wanted),
        "{block:?} is more than {wanted}"
    );
}

/// Polls a verb once, without a word of when to poll it again.
pub fn poll_once<T>(verb: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    verb.poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) fn drop_after_one_poll<T>(verb: impl Future<Output = T>) {
    let _ = poll_once(pin!(verb));
}
