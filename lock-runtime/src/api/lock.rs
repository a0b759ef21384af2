//! Locks asked for by code that is not an annotated function.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::LockKey;

use crate::api::body::{Call, Run};
use crate::api::entered::{self, Entered};
use crate::api::guard::{LockGuard, LockHandle};
use crate::api::lock_done::LockDone;
use crate::api::min_hold;
use crate::api::once_per::{Once, OncePer};
use crate::api::options::{LockOptions, Names, OnLost, Renew};
use crate::api::runtime::LockRuntime;
use crate::clock;
use crate::engine::{Begins, Engine, Wish};
use crate::error::LockError;

/// How long a leader pauses before it stands again, where the runtime's own pauses have an end.
const STANDS_AGAIN: Duration = Duration::from_secs(1);

/// A lock to be acquired, made by [`LockRuntime::lock`](crate::LockRuntime::lock).
///
/// It is acquired and released within a tokio runtime that has its timers enabled, whichever of
/// them: elsewhere the answer is [`LockError::Config`]. A guard may be dropped anywhere.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_runtime::LockError> {
/// let locks = lock_runtime::LockRuntime::in_memory().build().await?;
/// let guard = locks
///     .lock("report:2026-11")
///     .ttl(Duration::from_secs(5))
///     .wait(Duration::from_secs(2))
///     .acquire()
///     .await?;
/// println!("writing with {}", guard.fencing_token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock {
    engine: Arc<Engine>,
    key: String,
    options: LockOptions,
}

impl LockRuntime {
    /// A lock on `key`, to be acquired.
    ///
    /// The key is taken as it is. To share a lock with an annotated function whose key is a
    /// template, make the key by `key!("file:<name>")`: values are escaped in a template.
    pub fn lock(&self, key: impl Into<String>) -> Lock {
        Lock::new(self.engine.clone(), key.into())
    }
}

impl Lock {
    pub(crate) fn new(engine: Arc<Engine>, key: String) -> Lock {
        Lock {
            engine,
            key,
            options: LockOptions::default(),
        }
    }

    /// How long the lease lives unless it is renewed: what a crash of this process costs those who
    /// wait. From 10 ms to 24 h; the runtime's `default_ttl` if not set.
    pub fn ttl(mut self, ttl: Duration) -> Lock {
        self.options.ttl = Some(ttl);
        self
    }

    /// How long [`acquire`](Lock::acquire) waits for the lock; zero tries once. The runtime's
    /// `default_wait` if not set.
    pub fn wait(mut self, wait: Duration) -> Lock {
        self.options.wait = Some(wait);
        self
    }

    /// How often the watchdog renews the lease: a period from 1 ms to half of the ttl, or `false`
    /// for never. The runtime's `renew_every` if not set.
    ///
    /// A lease that is never renewed lives for the ttl, or up to a sixteenth less where a store
    /// uses leases again, as etcd does. Only one that is much shorter, as after a hand-over, is
    /// extended to it once.
    pub fn renew(mut self, renew: impl Into<Renew>) -> Lock {
        self.options.renew = renew.into();
        self
    }

    /// How long the lock may be held, renewals included. After that it is no longer renewed, and
    /// every answer about it is the error with [`is_max_hold`](LockError::is_max_hold).
    pub fn max_hold(mut self, limit: Duration) -> Lock {
        self.options.max_hold = Some(limit);
        self
    }

    /// How long the key stays taken at least, counted from when the lock is acquired: whenever the
    /// guard or the body ends, and also if this process dies. What is left of it nobody holds, and
    /// nobody is handed. At most 24 h, and not longer than [`max_hold`](Lock::max_hold).
    pub fn min_hold(mut self, least: Duration) -> Lock {
        self.options.min_hold = Some(least);
        self
    }

    /// Shares the key with all others who ask for it like this: readers, whom the plain lock of the
    /// key, as a writer, keeps out, and who keep it out. They are served in the order in which they
    /// came, so that neither waits for ever.
    ///
    /// The readers of a process share one lease, which costs two commands a second and process
    /// however many there are. All readers between two writers have the same
    /// [fencing token](LockGuard::fencing_token).
    ///
    /// Whoever holds a share cannot have all of the key within it: see
    /// [`is_upgrade`](LockError::is_upgrade).
    ///
    /// # Deadlocks
    ///
    /// A call that wants a share within the body of a reader runs under that reader's. A task that
    /// the body spawns does not, nor does a second guard: if a writer waits by then, they wait
    /// behind it, as with tokio's `RwLock`. A reader that waits for them keeps that writer waiting,
    /// so nothing goes on until the [`wait`](Lock::wait) of one of them ends.
    pub fn shared(mut self) -> Lock {
        self.options.shared = true;
        self
    }

    /// Takes one of `permits` permits of the key: so many hold it at once at the most, wherever
    /// they are. From 1 to 1,000,000.
    ///
    /// The number is not stored: each is served when there is room by its own number, so that one
    /// deployment may change it. The plain lock of the key waits until all permits are back, and
    /// keeps all others out meanwhile. Whoever comes first is served first. With
    /// [`min_hold`](Lock::min_hold) a permit stays taken for that long, so that no more than
    /// `permits` begin within any such time.
    pub fn permits(mut self, permits: u32) -> Lock {
        self.options.permits = Some(permits);
        self
    }

    /// Takes so many of the [`permits`](Lock::permits) at once, or none; from 1 to 64.
    pub fn weight(mut self, permits: u32) -> Lock {
        self.options.weight = Some(permits);
        self
    }

    /// Takes one of `shards` parts of the key, from 1 to 64: [`shard`](LockGuard::shard) says
    /// which. It is any that is free, the one that this process had last if possible.
    ///
    /// For data that can be parted, as a stock of which each shard has its share. The plain lock of
    /// the key takes all shards together.
    pub fn shards(mut self, shards: u32) -> Lock {
        self.options.shards = Some(shards);
        self
    }

    /// What locks of this kind are called in logs and metrics, in the place of `-`: one of few
    /// names, such as `report:<month>`, never a key. The attribute takes the template of the key.
    pub fn name(mut self, name: &'static str) -> Lock {
        self.options.names = Names::One(name);
        self
    }

    /// Acquires the lock, waiting for it if another holds it.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](LockError::is_timeout) if it was still held by another when the wait was used
    /// up (with a wait of zero: [`is_taken`](LockError::is_taken));
    /// [`is_unavailable`](LockError::is_unavailable) if the store did not answer;
    /// [`is_denied`](LockError::is_denied) if it refuses; an error about the key or the settings if
    /// they cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue. If the store had already granted the
    /// lock, it is released in the background.
    pub async fn acquire(self) -> Result<LockGuard, LockError> {
        let (terms, wait) = self.options.resolve(&self.engine.settings)?;
        let key = LockKey::new(&self.engine.settings.key_prefix, &self.key)?;
        let name = self.options.name_of(&key, &[]);
        entered::note_order(&self.engine, name, &self.options);
        let key = &key;
        let wish = Wish { key, name, terms };
        let acquired = self.engine.acquire(wish, wait, Begins::Now).await;
        let hold = acquired.map_err(entered::explained)?;
        if let Some(least) = terms.min_hold {
            min_hold::begin(&[LockHandle::new(hold.view())], least).await?;
        }
        Ok(LockGuard::new(hold))
    }

    /// Acquires the lock if nobody holds it; `None` if another does.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Lock::acquire), but a lock held by another is no error.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub async fn try_acquire(self) -> Result<Option<LockGuard>, LockError> {
        match self.wait(Duration::ZERO).acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Taken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body` while holding the lock, as the attribute does: it is dropped at its current
    /// `.await` if the lock is lost.
    ///
    /// Annotated functions of the same key that `body` calls run under the same lease; so does
    /// `run` within such a function. Of the nested one's settings `wait` counts, for its turn among
    /// others that are nested, and `max_hold`, for its body; the lease stays as it is, so `ttl` and
    /// `renew` are checked, and have no effect.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Lock::acquire), and [`is_lost`](LockError::is_lost) if the lock was lost
    /// before `body` ended. A release that the store did not confirm is no error: the result of
    /// `body` stands.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `body`, then releases the lock in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let token = locks.lock("report").run(async |lock| lock.fencing_token()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run<T>(self, body: impl AsyncFnOnce(LockHandle) -> T) -> Result<T, LockError> {
        let keys = entered::checked(&self.engine, [&self.key])?;
        let entered = Entered::enter(&self.engine, &keys, &self.options, OnLost::Cancel).await?;
        let body = body(entered.handle_of(&keys[0]));
        let body = std::pin::pin!(Some(async { Ok(body.await) }));
        Run::new(Call::Running(Some(entered)), body, Err).await
    }

    /// Runs `body` on one of the [`shards`](Lock::shards) after the other, whichever is free, on
    /// each once at the most, until it says [`Break`](ControlFlow::Break). `None`: it has been on
    /// all.
    ///
    /// The [`wait`](Lock::wait) is for each shard.
    ///
    /// # Errors
    ///
    /// As [`run`](Lock::run), and [`LockError::Config`] without shards.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Lock::run).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let stock = [0, 0, 5, 0];
    /// let coupon = locks.lock("coupon:42").shards(4);
    /// let from = coupon.visit(async |lock| match stock[lock.shard() as usize] {
    ///     0 => ControlFlow::Continue(()), // sold out here
    ///     _ => ControlFlow::Break(lock.shard()),
    /// });
    /// assert_eq!(from.await?, Some(2));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn visit<T, F: Future<Output = ControlFlow<T>>>(
        self,
        mut body: impl FnMut(LockHandle) -> F,
    ) -> Result<Option<T>, LockError> {
        let mut lock = self;
        let Some(shards) = lock.options.shards else {
            return Err(LockError::Config(
                "`visit` goes from shard to shard, and there are none: `.shards(16)`".to_owned(),
            ));
        };
        let keys = entered::checked(&lock.engine, [&lock.key])?;
        loop {
            let entered =
                Entered::enter(&lock.engine, &keys, &lock.options, OnLost::Cancel).await?;
            let handle = entered.handle_of(&keys[0]);
            let shard = handle.shard();
            let body = body(handle);
            let body = std::pin::pin!(Some(async { Ok(body.await) }));
            match Run::new(Call::Running(Some(entered)), body, Err).await? {
                ControlFlow::Break(output) => return Ok(Some(output)),
                ControlFlow::Continue(()) => lock.options.except |= 1 << (shard % 64),
            }
            if lock.options.except.count_ones() >= shards {
                return Ok(None);
            }
        }
    }

    /// Leads: of all who call this for the key, one runs its `body` at a time, for as long as it
    /// holds the lock. It is how a service elects a leader.
    ///
    /// Whoever does not lead stands until it does, whatever the [`wait`](Lock::wait). A leader that
    /// loses the lock is dropped at its current `.await`, and stands again, after a pause that
    /// grows while the store is away. The [fencing token](LockHandle::fencing_token) is the number
    /// of the term: it grows from leader to leader, and what a leader writes to can refuse those
    /// that were.
    ///
    /// It returns when a body ends. A [shutdown](crate::LockRuntime::shutdown) drops the body, and
    /// hands the lock to the next at once.
    ///
    /// # Errors
    ///
    /// What standing again cannot change: [`is_shut_down`](LockError::is_shut_down),
    /// [`is_denied`](LockError::is_denied), or an error about the key or the settings.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `body`, then hands the lock to the next, in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let leader = locks.lock("leader:mailer").ttl(Duration::from_secs(15));
    /// let sent = leader
    ///     .lead(async |lock| {
    ///         println!("leading in term {}", lock.fencing_token());
    ///         3 // a real one loops
    ///     })
    ///     .await?;
    /// assert_eq!(sent, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lead<T>(self, mut body: impl AsyncFnMut(LockHandle) -> T) -> Result<T, LockError> {
        let lock = self.wait(clock::AGES);
        let engine = lock.engine.clone();
        let keys = entered::checked(&engine, [&lock.key])?;
        let mut failures = 0;
        loop {
            let term = async {
                let entered = Entered::enter(&engine, &keys, &lock.options, OnLost::Cancel).await?;
                failures = 0;
                let body = body(entered.handle_of(&keys[0]));
                let body = std::pin::pin!(Some(async { Ok(body.await) }));
                Run::new(Call::Running(Some(entered)), body, Err).await
            };
            let error = tokio::select! {
                outcome = term => match outcome {
                    Ok(output) => return Ok(output),
                    Err(error) => error,
                },
                () = engine.closing() => return Err(LockError::ShutDown),
            };
            if !error.is_retryable() && !error.is_max_hold() {
                return Err(error);
            }
            failures += 1;
            // Who has no patience left for a single wait stands on all the same.
            let pause = engine.settings.pause(failures).unwrap_or(STANDS_AGAIN);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = engine.closing() => return Err(LockError::ShutDown),
            }
        }
    }

    /// Runs `body` while holding the lock, as [`run`](Lock::run) does, if nobody holds it; `None`
    /// if another does. It is what `on_taken = skip` is in the attribute.
    ///
    /// # Errors
    ///
    /// As [`run`](Lock::run), but a lock held by another is no error. One that could not be asked
    /// for is.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Lock::run).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let other = locks.lock("report").acquire().await?;
    /// assert_eq!(locks.lock("report").try_run(async |_| 1).await?, None);
    /// other.release().await?;
    /// assert_eq!(locks.lock("report").try_run(async |_| 1).await?, Some(1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_run<T>(
        self,
        body: impl AsyncFnOnce(LockHandle) -> T,
    ) -> Result<Option<T>, LockError> {
        let Some((entered, handle)) = self.try_enter().await? else {
            return Ok(None);
        };
        let body = body(handle);
        let body = std::pin::pin!(Some(async { Ok(Some(body.await)) }));
        Run::new(Call::Running(Some(entered)), body, Err).await
    }

    /// Runs `body` as [`try_run`](Lock::try_run) does; once it ended well, nobody runs one for the
    /// same key until `period` is over, counted from its beginning. It is what `once_per` is in the
    /// attribute.
    ///
    /// It ended well if what it returned says so: see [`LockDone`]. If not, or if it panics or the
    /// lock is lost, the key is free at once.
    ///
    /// # Errors
    ///
    /// As [`try_run`](Lock::try_run), and [`LockError::Config`] for a store that cannot keep a lock
    /// that nobody holds, before `body` begins. After it, any error says that the store may not
    /// know that it was done, so that it may be run again.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Lock::run): the key is free then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_runtime::LockError> {
    /// # let locks = lock_runtime::LockRuntime::in_memory().build().await?;
    /// let hour = Duration::from_secs(3600);
    /// let report = async |_| -> Result<u32, &str> { Ok(7) };
    /// assert_eq!(locks.lock("report").run_once_per(hour, report).await?, Some(Ok(7)));
    /// assert_eq!(locks.lock("report").run_once_per(hour, report).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_once_per<T: LockDone>(
        mut self,
        period: Duration,
        body: impl AsyncFnOnce(LockHandle) -> T,
    ) -> Result<Option<T>, LockError> {
        let once_per = OncePer::new(period);
        let once = once_per.once();
        self.options.once_per = Some(once_per);
        let Some((entered, handle)) = self.try_enter().await? else {
            return Ok(None);
        };
        let body = body(handle);
        let body = std::pin::pin!(Some(async {
            let output = body.await;
            Once::ended(&once, output.is_done());
            Ok(Some(output))
        }));
        Run::new(Call::Running(Some(entered)), body, Err).await
    }

    /// The right to run a body, and its view of the lock; `None` if another holds it.
    async fn try_enter(self) -> Result<Option<(Box<Entered>, LockHandle)>, LockError> {
        let lock = self.wait(Duration::ZERO);
        let keys = entered::checked(&lock.engine, [&lock.key])?;
        match Entered::enter(&lock.engine, &keys, &lock.options, OnLost::Cancel).await {
            Ok(entered) => {
                let handle = entered.handle_of(&keys[0]);
                Ok(Some((entered, handle)))
            }
            Err(error) if error.is_taken() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
