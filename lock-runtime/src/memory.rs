//! The in-memory backend: locks within one process, and the store of unit tests.
//!
//! It does what the Redis backend does, verb by verb, with a map behind a mutex in place of scripts: leases run out on
//! [`tokio::time::Instant`] (a test that pauses tokio's clock decides when), and nothing runs in between. What has run out is noticed by
//! whoever touches the key next.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime};

use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Extension, FenceBlock, FencingToken, Grant,
    Holder, LockKey, News, OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::time::{Instant, sleep};

use crate::clock::to_seam;
use crate::numbers::{Numbers, Overtaken};
use crate::sinks::{Sinks, Told};
use crate::sync::lock;

/// How long a claim that was withdrawn before the store knew it is remembered.
const GONE: Duration = Duration::from_secs(30);

/// Locks held in the memory of this process.
///
/// Use it where one process is all there is, and in unit tests: a clone is a further handle to the same store, so a test keeps one and
/// gives the other to the runtime, then plays the rest of the world by the methods below. Every verb is done at its first poll, and all
/// time is tokio's, so that a test under a paused clock takes no time.
///
/// Methods that take a key want it as the annotated function forms it, without the prefix of the runtime.
///
/// # Examples
///
/// ```
/// use lock_runtime::{LockRuntime, MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// let store = MemoryBackend::new();
/// let locks = LockRuntime::backend(store.clone()).build().await?;
///
/// let guard = locks.lock("coupon:42").acquire().await?;
/// assert_eq!(store.owner("coupon:42").as_ref(), Some(guard.owner_token()));
///
/// guard.release().await?;
/// assert!(store.is_idle());
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct MemoryBackend {
    /// A `std` mutex, since it is held for a few map operations and never across an await.
    store: Arc<Mutex<Store>>,
    /// Whether this handle is closed; others to the same store stay open, as the connections of other processes would.
    closed: AtomicBool,
    /// Who hears of the claims that this handle queued.
    sinks: Arc<Sinks>,
    /// Of the questions of this handle.
    numbers: Mutex<Numbers>,
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    /// Whether anybody holds the lock.
    pub fn is_held(&self, key: &str) -> bool {
        self.owner(key).is_some()
    }

    /// Who holds the lock.
    pub fn owner(&self, key: &str) -> Option<OwnerToken> {
        self.store().owner(key, Instant::now())
    }

    /// How many claims wait for the lock in the store.
    ///
    /// Where several tasks of one runtime wait, one claim waits here for all of them.
    pub fn queue_len(&self, key: &str) -> usize {
        self.store().queue_len(key, Instant::now())
    }

    /// Whether the store is empty: no lock is held, and no claim waits.
    ///
    /// What a test asserts in the end: nothing was left behind.
    pub fn is_idle(&self) -> bool {
        self.store().is_idle(Instant::now())
    }

    /// Ends the lease now, as if its ttl had run out.
    ///
    /// The holder learns of it by its next renewal, or by the end of the lease on its own clock. Also ends what [`steal`](Self::steal)
    /// began. Does nothing if nobody holds the lock.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::{LockRuntime, MemoryBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let store = MemoryBackend::new();
    /// let locks = LockRuntime::backend(store.clone()).build().await?;
    /// let guard = locks.lock("coupon:42").acquire().await?;
    ///
    /// store.expire("coupon:42");
    /// guard.lost().await;
    /// assert!(guard.release().await.unwrap_err().is_lost());
    /// # Ok(())
    /// # }
    /// ```
    pub fn expire(&self, key: &str) {
        self.store().expire(key);
    }

    /// Gives the lock to a foreign owner, whether it is free or held, until [`expire`](Self::expire).
    ///
    /// The owner is foreign as another language's library is: it shows no ttl and hands the lock to nobody.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::{LockRuntime, MemoryBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let store = MemoryBackend::new();
    /// let locks = LockRuntime::backend(store.clone()).build().await?;
    ///
    /// store.steal("coupon:42");
    /// assert!(locks.lock("coupon:42").try_acquire().await?.is_none());
    ///
    /// store.expire("coupon:42");
    /// assert!(locks.lock("coupon:42").try_acquire().await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn steal(&self, key: &str) {
        self.store().steal(key);
    }

    /// Lets the next `verbs` verbs of any handle end in `fault`, after those that earlier calls doomed.
    ///
    /// A batch of renewals is one verb. `usize::MAX` means: until [`heal`](Self::heal).
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::{Fault, LockRuntime, MemoryBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let store = MemoryBackend::new();
    /// let locks = LockRuntime::backend(store.clone()).build().await?;
    ///
    /// store.fail_next(usize::MAX, Fault::Unavailable);
    /// assert!(locks.lock("coupon:42").acquire().await.unwrap_err().is_unavailable());
    ///
    /// store.heal();
    /// assert!(locks.lock("coupon:42").acquire().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next(&self, verbs: usize, fault: Fault) {
        self.store().faults.push_back((verbs, fault));
    }

    /// Forgets the faults that are still to come.
    pub fn heal(&self) {
        self.store().faults.clear();
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Each verb changes the maps by single calls.
        lock(&self.store)
    }

    /// Takes in the number of a question.
    fn admit(&self, key: &LockKey, number: AskNumber) -> Result<(), Refusal> {
        lock(&self.numbers).admit(key, number)?;
        Ok(())
    }

    /// Runs a verb, unless a fault comes in between.
    async fn run<T>(&self, verb: impl FnOnce(&mut Store, Instant) -> T) -> Result<T, Refusal> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::Closed);
        }
        let fault = self.store().next_fault();
        let execute = || verb(&mut self.store(), Instant::now());
        match fault {
            None => Ok(execute()),
            Some(Fault::Unavailable) => Err(Refusal::Unavailable),
            Some(Fault::Denied) => Err(Refusal::Denied),
            Some(Fault::AnswerLost) => {
                execute();
                Err(Refusal::Unavailable)
            }
            Some(Fault::Slow(delay)) => {
                let answer = execute();
                sleep(delay).await;
                Ok(answer)
            }
            Some(Fault::Hang(delay)) => {
                sleep(delay).await;
                Err(Refusal::Unavailable)
            }
        }
    }
}

/// A further handle to the same store.
impl Clone for MemoryBackend {
    fn clone(&self) -> MemoryBackend {
        MemoryBackend {
            store: Arc::clone(&self.store),
            ..MemoryBackend::default()
        }
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").finish_non_exhaustive()
    }
}

impl Backend for MemoryBackend {
    fn attach(&self, news: Weak<dyn News>) {
        self.sinks.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.admit(&claim.key, claim.number)?;
        let answer = self.run(|store, now| {
            let gone = store.gone.has(&claim.owner, now);
            store.on(&claim.key, now, |lock, fence| match gone {
                true => withdrawn(),
                false => lock.acquire(claim, &self.sinks, now, fence),
            })
        });
        Ok(answer.await?)
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let answers = self.run(|store, now| {
            let renew = |lease: &Renewal| {
                store.on(&lease.key, now, |lock, fence| lock.renew(lease, now, fence))
            };
            leases.iter().map(renew).collect::<Vec<_>>()
        });
        match answers.await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(refusal) => leases.iter().map(|_| Err(refusal.into())).collect(),
        }
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.admit(&release.key, release.number)?;
        let answer = self.run(|store, now| {
            let next = release.next.as_ref();
            let gone = next.is_some_and(|next| store.gone.has(&next.owner, now));
            store.on(&release.key, now, |lock, fence| {
                if !lock.end_lease_of(&release.owner) {
                    return Released::NotHeld;
                }
                lock.hand_over(now, fence);
                Released::Released(next.map(|next| match gone {
                    true => withdrawn(),
                    false => lock.acquire(next, &self.sinks, now, fence),
                }))
            })
        });
        Ok(answer.await?)
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.admit(&claim.key, claim.number)?;
        let answer = self.run(|store, now| {
            let is_known = store.on(&claim.key, now, |lock, fence| {
                let waiters = lock.queue.len();
                lock.queue
                    .retain(|waiter| waiter.claim.owner != claim.owner);
                let is_known = lock.end_lease_of(&claim.owner) || lock.queue.len() < waiters;
                lock.hand_over(now, fence);
                is_known
            });
            if !is_known {
                store.gone.add(&claim.owner, now);
            }
        });
        Ok(answer.await?)
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// How a verb of the in-memory backend fails, as [`MemoryBackend::fail_next`] arranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is done, and the error says that the store is unavailable.
    Unavailable,
    /// Nothing is done, and the error says that the store refuses for good.
    Denied,
    /// The verb is done, but its answer is lost: the error says that the store is unavailable.
    AnswerLost,
    /// The verb is done at once, and its answer comes after this long.
    Slow(Duration),
    /// Nothing is done, and the error that the store is unavailable comes after this long.
    Hang(Duration),
}

/// Why a verb was not done, or not answered.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Refusal {
    #[error("the in-memory backend is closed")]
    Closed,
    #[error("the test made the in-memory backend unavailable")]
    Unavailable,
    #[error("the test made the in-memory backend refuse")]
    Denied,
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> BackendError {
        match refusal {
            Refusal::Unavailable | Refusal::Overtaken(_) => BackendError::unavailable(refusal),
            Refusal::Closed | Refusal::Denied => BackendError::denied(refusal),
        }
    }
}

/// The answer to a claim that was withdrawn before it was asked for. Nobody waits for it.
fn withdrawn() -> Acquired {
    Acquired::Taken(Holder::of_ours(Duration::ZERO))
}

/// The claims that were withdrawn before the store knew them.
#[derive(Default)]
struct Gone {
    /// Until when each is remembered.
    until: HashMap<OwnerToken, Instant>,
    /// How many there may be before those that are not remembered any more are looked for.
    sweep_at: usize,
}

impl Gone {
    fn has(&self, owner: &OwnerToken, now: Instant) -> bool {
        self.until.get(owner).is_some_and(|until| now < *until)
    }

    fn add(&mut self, owner: &OwnerToken, now: Instant) {
        const FEW: usize = 64;
        self.until.insert(owner.clone(), now + GONE);
        if self.until.len() > self.sweep_at.max(FEW) {
            self.until.retain(|_, until| now < *until);
            self.sweep_at = self.until.len() * 2;
        }
    }
}

/// What all handles share.
#[derive(Default)]
struct Store {
    /// The locks that are held or waited for, and some that have run out and were not touched since.
    locks: HashMap<LockKey, Lock>,
    /// The leases of those who stole, by the key without prefix, since the key may have been unknown.
    stolen: HashMap<String, Lease>,
    gone: Gone,
    fence: Fence,
    faults: VecDeque<(usize, Fault)>,
    /// How many locks there may be before those that have run out are looked for.
    sweep_at: usize,
}

impl Store {
    /// Runs `verb` on the lock as it is now, and keeps of it what is worth keeping.
    fn on<T>(
        &mut self,
        key: &LockKey,
        now: Instant,
        verb: impl FnOnce(&mut Lock, &mut Fence) -> T,
    ) -> T {
        self.sweep(now);
        let lock = self.locks.entry(key.clone()).or_default();
        lock.settle(now);
        if let Some(theft) = self.stolen.get(key.as_str()) {
            lock.lease = Some(theft.clone());
        }
        lock.hand_over(now, &mut self.fence);
        let answer = verb(lock, &mut self.fence);
        if lock.is_idle() {
            self.locks.remove(key);
        }
        answer
    }

    /// Drops the locks that ran out unnoticed, whenever there are twice as many as the last time.
    fn sweep(&mut self, now: Instant) {
        const FEW: usize = 64;
        if self.locks.len() < self.sweep_at.max(FEW) {
            return;
        }
        self.locks.retain(|_, lock| {
            lock.settle(now);
            !lock.is_idle()
        });
        self.sweep_at = self.locks.len() * 2;
    }

    fn next_fault(&mut self) -> Option<Fault> {
        while let Some((verbs, fault)) = self.faults.front_mut() {
            if let Some(left) = verbs.checked_sub(1) {
                *verbs = left;
                return Some(*fault);
            }
            self.faults.pop_front();
        }
        None
    }

    fn steal(&mut self, key: &str) {
        self.expire(key);
        let theft = Lease {
            owner: OwnerToken::unique("stolen"),
            ends: None,
            tokens: self.fence.reserve(1),
            foreign: true,
        };
        self.stolen.insert(key.to_owned(), theft);
    }

    fn expire(&mut self, key: &str) {
        self.stolen.remove(key);
        for (_, lock) in self.locks.iter_mut().filter(|(k, _)| k.as_str() == key) {
            lock.lease = None;
        }
    }

    fn owner(&self, key: &str, now: Instant) -> Option<OwnerToken> {
        let mut leases = self.locks_named(key).filter_map(|lock| lock.lease.as_ref());
        let lease = self
            .stolen
            .get(key)
            .or_else(|| leases.find(|lease| lease.is_live(now)));
        lease.map(|lease| lease.owner.clone())
    }

    fn queue_len(&self, key: &str, now: Instant) -> usize {
        self.locks_named(key)
            .flat_map(|lock| &lock.queue)
            .filter(|waiter| waiter.is_remembered(now))
            .count()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let settled = |lock: &Lock| {
            !lock.lease.as_ref().is_some_and(|lease| lease.is_live(now))
                && !lock.queue.iter().any(|waiter| waiter.is_remembered(now))
        };
        self.stolen.is_empty() && self.locks.values().all(settled)
    }

    /// The locks with this key, whatever the prefix.
    fn locks_named(&self, key: &str) -> impl Iterator<Item = &Lock> {
        self.locks
            .iter()
            .filter(move |(k, _)| k.as_str() == key)
            .map(|(_, lock)| lock)
    }
}

/// One key: who holds it, and who waits.
#[derive(Default)]
struct Lock {
    lease: Option<Lease>,
    /// In the order in which the store first heard of the claims.
    queue: VecDeque<Waiter>,
}

impl Lock {
    /// Drops what has run out.
    fn settle(&mut self, now: Instant) {
        self.lease.take_if(|lease| !lease.is_live(now));
        self.queue.retain(|waiter| waiter.is_remembered(now));
    }

    /// Makes the claim that has waited longest the owner of a free lock, for its grace; the next one if
    /// nobody expects it any more.
    fn hand_over(&mut self, now: Instant, fence: &mut Fence) {
        while self.lease.is_none()
            && let Some(Waiter { claim, sinks, .. }) = self.queue.pop_front()
        {
            let grant = self.grant(&claim, claim.grace, now, fence);
            let told = sinks.granted(&claim.key, claim.owner.as_str(), grant, to_seam(now));
            if told == Told::Unexpected {
                self.lease = None;
            }
        }
    }

    /// `sinks` hear of the claim if it is queued.
    fn acquire(
        &mut self,
        claim: &Claim,
        sinks: &Arc<Sinks>,
        now: Instant,
        fence: &mut Fence,
    ) -> Acquired {
        let Some(lease) = &mut self.lease else {
            return Acquired::Granted(self.grant(claim, claim.ttl, now, fence));
        };
        if lease.owner == claim.owner {
            lease.extend(claim.ttl, now);
            return Acquired::Granted(Grant::new(lease.tokens, claim.ttl));
        }
        let holder = lease.seen_by_others(now);
        if let Some(waiter) = self.waiter(claim) {
            waiter.heard = now;
            Acquired::Queued(holder)
        } else if claim.queue {
            self.queue.push_back(Waiter {
                claim: claim.clone(),
                heard: now,
                sinks: Arc::clone(sinks),
            });
            Acquired::Queued(holder)
        } else {
            Acquired::Taken(holder)
        }
    }

    fn renew(&mut self, renewal: &Renewal, now: Instant, fence: &mut Fence) -> Renewed {
        match &mut self.lease {
            Some(lease) if lease.owner == renewal.owner => {
                lease.ends = now.checked_add(renewal.ttl);
                let further = (renewal.tokens > 0).then(|| fence.reserve(renewal.tokens));
                // A repeated acquire must not fall back behind tokens that are in use by now.
                lease.tokens = further.unwrap_or(lease.tokens);
                Renewed::Held(Extension::with_tokens(further))
            }
            _ => Renewed::lost(),
        }
    }

    fn grant(
        &mut self,
        claim: &Claim,
        valid_for: Duration,
        now: Instant,
        fence: &mut Fence,
    ) -> Grant {
        let tokens = fence.reserve(claim.tokens);
        self.lease = Some(Lease {
            owner: claim.owner.clone(),
            ends: now.checked_add(valid_for),
            tokens,
            foreign: false,
        });
        Grant::new(tokens, valid_for)
    }

    /// Whether there was a lease of `owner` to end.
    fn end_lease_of(&mut self, owner: &OwnerToken) -> bool {
        self.lease.take_if(|lease| lease.owner == *owner).is_some()
    }

    fn waiter(&mut self, claim: &Claim) -> Option<&mut Waiter> {
        self.queue
            .iter_mut()
            .find(|waiter| waiter.claim.owner == claim.owner)
    }

    fn is_idle(&self) -> bool {
        self.lease.is_none() && self.queue.is_empty()
    }
}

#[derive(Clone)]
struct Lease {
    owner: OwnerToken,
    /// `None`: never.
    ends: Option<Instant>,
    /// The tokens that were reserved last.
    tokens: FenceBlock,
    foreign: bool,
}

impl Lease {
    /// Gives it its ttl from now on, unless it has more: a question that comes late must not
    /// shorten what a younger one got.
    fn extend(&mut self, ttl: Duration, now: Instant) {
        if let Some(ends) = self.ends {
            self.ends = now.checked_add(ttl).map(|until| until.max(ends));
        }
    }

    fn is_live(&self, now: Instant) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    fn seen_by_others(&self, now: Instant) -> Holder {
        let remaining = self.ends.map(|ends| ends - now);
        if self.foreign {
            return Holder::foreign(remaining);
        }
        let mut holder = Holder::of_ours(Duration::ZERO);
        holder.remaining = remaining;
        holder
    }
}

struct Waiter {
    claim: Claim,
    /// When the claim last asked.
    heard: Instant,
    /// Those of the handle that made the claim.
    sinks: Arc<Sinks>,
}

impl Waiter {
    fn is_remembered(&self, now: Instant) -> bool {
        now.duration_since(self.heard) <= self.claim.heartbeat.saturating_mul(2)
    }
}

/// The source of fencing tokens: one for all keys, so that nothing need be kept for a key that nobody holds.
#[derive(Default)]
struct Fence {
    last: u64,
}

impl Fence {
    /// The next tokens, as many as wanted or fewer.
    ///
    /// No smaller than the time in microseconds, so that a resource which outlives this process accepts the tokens of the next one. Where
    /// they run ahead of the clock it gets one token only, lest they outrun what makes them grow after a restart.
    fn reserve(&mut self, wanted: u32) -> FenceBlock {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
            });
        let first = now.max(self.last + 1);
        let further = if first > now {
            0
        } else {
            wanted.saturating_sub(1)
        };
        self.last = first + u64::from(further);
        FenceBlock {
            first: FencingToken::new(first),
            last: FencingToken::new(self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(number: usize) -> Claim {
        let key = LockKey::new("", &format!("k{number}")).expect("a valid key");
        let ttl = Duration::from_millis(100);
        Claim::new(key, OwnerToken::unique("test"), ttl)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_nobody_holds_takes_no_memory() {
        let backend = MemoryBackend::new();
        for number in 0..1000 {
            let claim = claim(number);
            backend.acquire(&claim).await.expect("it is free");
            assert_eq!(backend.store().locks.len(), 1);
            let renewal = Renewal::new(claim.key.clone(), OwnerToken::unique("x"), claim.ttl);
            backend.renew(&[renewal]).await;
            backend.abandon(&claim).await.expect("no fault");
            assert_eq!(backend.store().locks.len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn locks_that_ran_out_unnoticed_do_not_pile_up() {
        let backend = MemoryBackend::new();
        let mut most = 0;
        for number in 0..10_000 {
            backend.acquire(&claim(number)).await.expect("it is free");
            sleep(Duration::from_millis(1)).await;
            most = most.max(backend.store().locks.len());
        }
        // 100 are alive at a time.
        assert!(most <= 400, "{most} locks in memory");
    }
}
