//! The in-memory backend: locks within one process, and the store of unit tests.
//!
//! It is a shell over a store as plain data ([`lock_protocol::store`]), which does what the Redis
//! backend does, verb by verb. Leases run out on tokio's clock, so that a test that pauses it
//! decides when.

mod faults;
mod lesser;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use lock_protocol::store::{Messages, Moment, Store, Word};
use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Card, Claim, Condition, Grant, Inspected, Limits,
    LockKey, Member, News, OwnerToken, Release, Released, Renewal, Renewed,
};

pub use self::faults::Fault;
use lock_protocol::Numbers;
use lock_protocol::{Sinks, Told};

use self::faults::{Faults, Refusal};
use self::lesser::Lesser;
use crate::clock;
use crate::sync::lock;

/// Locks held in the memory of this process.
///
/// Use it for a single process, and in unit tests. A clone is another handle to the same store: a
/// test keeps one, gives the other to the runtime, and plays the rest of the world by the methods
/// below. Every verb is done at its first poll, and all time is tokio's, so a test under a paused
/// clock takes no time.
///
/// Methods that take a key expect it as the annotated function forms it, without the prefix of the
/// runtime; `key!` makes it.
///
/// # Examples
///
/// ```
/// use lock_runtime::memory::MemoryBackend;
/// use lock_runtime::LockRuntime;
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
    shared: Arc<Shared>,
    /// Whether this handle is closed; others to the same store stay open, as the connections of
    /// other processes would.
    closed: AtomicBool,
    /// Who hears of the claims that this handle queued.
    sinks: Arc<Sinks>,
    /// The numbers of the questions that this handle was asked.
    numbers: Mutex<Numbers>,
}

/// What all handles share.
#[derive(Default)]
struct Shared {
    /// A `std` mutex, since it is held for a few map operations and never across an await.
    store: Mutex<Store<Arc<Sinks>>>,
    faults: Mutex<Faults>,
    /// Those who use it, of all handles.
    users: Mutex<Vec<Weak<Sinks>>>,
    /// What it plays, if it is to do less than it can.
    lesser: Option<Lesser>,
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    /// An empty store with the limits of another store, such as etcd, for tests of code that will
    /// use that store.
    ///
    /// A lease lives in the store for `ttl` as these limits keep it, and for `lateness` longer; its
    /// holder counts the ttl that it asked for. A ttl beyond `max_ttl` is refused. Without
    /// `hand_over`, or with an order of none, waiters are notified, and whoever asks first gets the
    /// lock. If the process keeps the grace, a process that ends as it is handed the lock costs the
    /// others its ttl; a dropped handle to this store is such a process. Without `foreign_holders`,
    /// the owner that [stole](Self::steal) a lock looks like one of ours. `modes` are not
    /// simulated.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use lock_runtime::LockRuntime;
    /// use lock_runtime::backend::{Backend, GraceBy};
    /// use lock_runtime::memory::MemoryBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// let mut limits = MemoryBackend::new().limits();
    /// limits.min_ttl = Duration::from_secs(2);
    /// limits.ttl_step = Duration::from_secs(1);
    /// limits.lateness = Duration::from_millis(1_100);
    /// limits.grace = GraceBy::Process;
    /// limits.keep = false;
    /// let locks = LockRuntime::backend(MemoryBackend::with_limits(limits)).build().await?;
    ///
    /// let ttl = Duration::from_millis(2_500);
    /// assert_eq!(locks.takeover_after(ttl), Duration::from_millis(4_100));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_limits(limits: Limits) -> MemoryBackend {
        let shared = Shared {
            lesser: Some(Lesser::new(limits)),
            ..Shared::default()
        };
        MemoryBackend {
            shared: Arc::new(shared),
            ..MemoryBackend::default()
        }
    }

    fn lesser(&self) -> Option<&Lesser> {
        self.shared.lesser.as_ref()
    }

    /// Whether anybody holds the lock.
    pub fn is_held(&self, key: &str) -> bool {
        self.owner(key).is_some()
    }

    /// The owner token of the holder.
    pub fn owner(&self, key: &str) -> Option<OwnerToken> {
        lock(&self.shared.store).owner(key, clock::now()).cloned()
    }

    /// Number of claims that wait for the lock in the store.
    ///
    /// If several tasks of one runtime wait, one claim waits here for all of them.
    pub fn queue_len(&self, key: &str) -> usize {
        let told = self.lesser().map_or(0, |lesser| lesser.waiting(Some(key)));
        told + lock(&self.shared.store).queue(key, clock::now()).count()
    }

    /// Whether the store is empty: no lock is held, and no claim waits.
    ///
    /// A test asserts it at its end: nothing was left behind.
    pub fn is_idle(&self) -> bool {
        let none_is_told = self.lesser().is_none_or(|lesser| lesser.waiting(None) == 0);
        none_is_told && lock(&self.shared.store).is_idle(clock::now())
    }

    /// Ends the lease now, as if its ttl had run out.
    ///
    /// The holder learns of it at its next renewal, or when the lease ends on its own clock. It
    /// also ends the lease of [`steal`](Self::steal). It does nothing if nobody holds the lock.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::memory::MemoryBackend;
    /// use lock_runtime::LockRuntime;
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
        lock(&self.shared.store).expire(key);
    }

    /// Gives the lock to a foreign owner, whether it is free or held, until
    /// [`expire`](Self::expire).
    ///
    /// The owner is like a library of another language: it shows no ttl and hands the lock to
    /// nobody.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::memory::MemoryBackend;
    /// use lock_runtime::LockRuntime;
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
        let thief = OwnerToken::unique("stolen");
        lock(&self.shared.store).steal(key, thief);
    }

    /// Lets the next `verbs` verbs of any handle fail with `fault`, after those of earlier calls.
    ///
    /// A batch of renewals is one verb. `usize::MAX` means: until [`heal`](Self::heal).
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::memory::{Fault, MemoryBackend};
    /// use lock_runtime::LockRuntime;
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
        lock(&self.shared.faults).add(verbs, fault);
    }

    /// Cancels the faults that are still to come.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Takes in the number of a question.
    fn admit(&self, key: &LockKey, number: AskNumber) -> Result<(), Refusal> {
        lock(&self.numbers).admit(key, number)?;
        Ok(())
    }

    /// Runs a verb, unless a fault comes in between, and tells what it makes the store tell.
    async fn run<T>(
        &self,
        verb: impl FnOnce(&mut Store<Arc<Sinks>>, Moment) -> (T, Messages<Arc<Sinks>>),
    ) -> Result<T, Refusal> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::Closed);
        }
        let fault = lock(&self.shared.faults).next();
        faults::run(fault, || {
            let (answer, messages) = verb(&mut lock(&self.shared.store), moment());
            self.tell(messages);
            answer
        })
        .await
    }

    /// Tells `messages`. What a claim was handed that nobody expects is given back.
    fn tell(&self, messages: Messages<Arc<Sinks>>) {
        let mut messages = messages.into_vec();
        while let Some(message) = messages.pop() {
            let (key, owner) = (&message.key, &message.owner);
            match message.word {
                Word::AskAt(at) => message.way.ask_at(key, owner, at),
                Word::Granted(mut grant, since) => {
                    if let Some(lesser) = self.lesser() {
                        grant = lesser.handed_over(owner, grant);
                        self.look_after(lesser, key, owner, &message.way);
                    }
                    let told = message.way.granted(key, owner.as_str(), grant, since);
                    if let Told::Unexpected = told {
                        let mut store = lock(&self.shared.store);
                        messages.extend(store.abandon(key, owner, false, moment()));
                    }
                }
            }
        }
    }
}

impl MemoryBackend {
    /// Gives back what a claim was handed, after its grace, where the process does that: one that
    /// has ended does not.
    fn look_after(&self, lesser: &Lesser, key: &LockKey, owner: &OwnerToken, way: &Arc<Sinks>) {
        let Some(grace) = lesser.gives_back_after(owner) else {
            return;
        };
        let (shared, process) = (Arc::clone(&self.shared), Arc::downgrade(way));
        let (key, owner) = (key.clone(), owner.clone());
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            let Some(sinks) = process.upgrade() else {
                return;
            };
            let lesser = shared.lesser.as_ref();
            if lesser.is_some_and(|lesser| lesser.is_silent(&owner)) {
                let handle = MemoryBackend {
                    shared: Arc::clone(&shared),
                    sinks,
                    ..MemoryBackend::default()
                };
                let withdrawn = lock(&shared.store).abandon(&key, &owner, false, moment());
                handle.tell(withdrawn);
            }
        });
    }

    /// What all who use the store with this prefix say of themselves: nobody has to leave a card.
    fn left_cards(&self, prefix: &str) -> Vec<Card> {
        let users = lock(&self.shared.users).clone();
        let users = users.iter().filter_map(Weak::upgrade);
        let mut cards: Vec<_> = users.flat_map(|sinks| sinks.cards()).collect();
        cards.retain(|card| card.prefix == prefix);
        cards
    }

    /// What a verb has ended may be free for others.
    fn ended(&self, key: &LockKey, owner: &OwnerToken) {
        if let Some(lesser) = self.lesser() {
            lesser.hears_of(owner);
            lesser.tell(key);
        }
    }
}

/// The present, for the store.
fn moment() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Moment {
        now: clock::now(),
        micros: since_epoch.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        }),
    }
}

/// A further handle to the same store.
impl Clone for MemoryBackend {
    fn clone(&self) -> MemoryBackend {
        MemoryBackend {
            shared: Arc::clone(&self.shared),
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
    fn limits(&self) -> Limits {
        if let Some(lesser) = self.lesser() {
            return *lesser.limits();
        }
        let mut limits = Limits::default();
        limits.keep = true;
        limits.modes = true;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.sinks.attach(news);
        let mut users = lock(&self.shared.users);
        users.retain(|sinks| {
            sinks.strong_count() > 0 && !sinks.ptr_eq(&Arc::downgrade(&self.sinks))
        });
        users.push(Arc::downgrade(&self.sinks));
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.admit(&claim.key, claim.number)?;
        let Some(lesser) = self.lesser() else {
            let verb = |store: &mut Store<_>, at| store.acquire(claim, &self.sinks, at);
            return Ok(self.run(verb).await?);
        };
        if lesser.refuses(claim.ttl) {
            return Err(Refusal::Denied.into());
        }
        let stored = lesser.stored(claim);
        let verb = |store: &mut Store<_>, at| {
            let (answer, messages) = store.acquire(&stored, &self.sinks, at);
            (lesser.answered(answer, claim, &self.sinks), messages)
        };
        Ok(self.run(verb).await?)
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let answers = self.run(|store, at| {
            let mut all = Messages::new();
            let answers = leases.iter().map(|lease| {
                let mut lease = lease.clone();
                if let Some(lesser) = self.lesser() {
                    lesser.hears_of(&lease.owner);
                    lease.ttl = lesser.kept(lease.ttl);
                }
                let (answer, messages) = store.renew(&lease, at);
                all.extend(messages);
                answer
            });
            (answers.collect::<Vec<_>>(), all)
        });
        match answers.await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(refusal) => leases.iter().map(|_| Err(refusal.into())).collect(),
        }
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.admit(&release.key, release.number)?;
        let Some(lesser) = self.lesser() else {
            let verb = |store: &mut Store<_>, at| store.release(release, &self.sinks, at);
            return Ok(self.run(verb).await?);
        };
        let mut stored = release.clone();
        stored.next = release.next.as_ref().map(|next| lesser.stored(next));
        let verb = |store: &mut Store<_>, at| {
            let (answer, messages) = store.release(&stored, &self.sinks, at);
            if let Released::Released(_) = answer {
                self.ended(&release.key, &release.owner);
            }
            let answer = match (answer, &release.next) {
                (Released::Released(Some(answer)), Some(next)) => {
                    let answer = lesser.answered(answer, next, &self.sinks);
                    Released::Released(Some(answer))
                }
                (answer, _) => answer,
            };
            (answer, messages)
        };
        Ok(self.run(verb).await?)
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.admit(&claim.key, claim.number)?;
        let verb = |store: &mut Store<_>, at| {
            let lesser = self.lesser();
            let waited = lesser.is_some_and(|lesser| lesser.hears_of(&claim.owner));
            if waited && !claim.in_doubt {
                // The store would remember a claim that it does not know.
                return ((), Messages::new());
            }
            let messages = store.abandon(&claim.key, &claim.owner, claim.in_doubt, at);
            self.ended(&claim.key, &claim.owner);
            ((), messages)
        };
        Ok(self.run(verb).await?)
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        for claim in claims {
            self.admit(&claim.key, claim.number)?;
        }
        let stored = |claim| {
            self.lesser()
                .map_or_else(|| Claim::clone(claim), |it| it.stored(claim))
        };
        let stored: Vec<Claim> = claims.iter().map(stored).collect();
        let verb = |store: &mut Store<_>, at| store.acquire_all(&stored, &self.sinks, at);
        let mut granted = self.run(verb).await?;
        for (grant, claim) in granted.iter_mut().flatten().zip(claims) {
            grant.valid_for = grant.valid_for.min(claim.ttl);
        }
        Ok(granted)
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Inspected>, BackendError> {
        let verb = |store: &mut Store<_>, at: Moment| (store.inspect(key, at.now), Messages::new());
        let Some(mut inspected) = self.run(verb).await? else {
            return Ok(None);
        };
        if let Some(process) = inspected.owner.process() {
            inspected.cards = self.left_cards(key.prefix());
            let process = process.to_string();
            inspected.cards.retain(|card| card.id.starts_with(&process));
        }
        Ok(Some(inspected))
    }

    async fn cards(&self, prefix: &str) -> Result<Vec<Card>, BackendError> {
        self.run(|_, _| ((), Messages::new())).await?;
        Ok(self.left_cards(prefix))
    }

    async fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        let verb = |store: &mut Store<_>, at| {
            let (answer, messages) = store.break_lock(key, owner, &self.sinks, at);
            if let Released::Released(_) = answer {
                self.ended(key, owner);
            }
            (answer, messages)
        };
        Ok(self.run(verb).await?)
    }

    async fn condition(&self) -> Result<Condition, BackendError> {
        let answer = self.run(|_, _| ((), Messages::new())).await;
        let memory = Member::new("memory", answer.map_err(BackendError::from));
        Ok(Condition::of(vec![memory], 1))
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

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
            assert_eq!(lock(&backend.shared.store).len(), 1);
            let renewal = Renewal::new(claim.key.clone(), OwnerToken::unique("x"), claim.ttl);
            backend.renew(&[renewal]).await;
            backend.abandon(&claim).await.expect("no fault");
            assert_eq!(lock(&backend.shared.store).len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn locks_that_ran_out_unnoticed_do_not_pile_up() {
        let backend = MemoryBackend::new();
        let mut most = 0;
        for number in 0..10_000 {
            backend.acquire(&claim(number)).await.expect("it is free");
            sleep(Duration::from_millis(1)).await;
            most = most.max(lock(&backend.shared.store).len());
        }
        // 100 are alive at a time.
        assert!(most <= 400, "{most} locks in memory");
    }
}
