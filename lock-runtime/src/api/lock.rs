//! Locks for code that is not an annotated function.

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

/// Pause of a candidate before it tries again, if the runtime's own pauses have an end.
const STANDS_AGAIN: Duration = Duration::from_secs(1);

/// A lock to be acquired, made by [`LockRuntime::lock`](crate::LockRuntime::lock).
///
/// Acquire and release within any tokio runtime with timers; elsewhere the error is
/// [`LockError::Config`]. A guard may be dropped anywhere.
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
    /// The key is used as it is. In a template values are escaped. So to share a lock with an
    /// annotated function whose key is a template, make the key by `key!("file:<name>")`.
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

    /// Lifetime of the lease unless it is renewed: what a crash of this process costs the waiters.
    /// From 10 ms to 24 h. Default: the runtime's `default_ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Lock {
        self.options.ttl = Some(ttl);
        self
    }

    /// Longest time that [`acquire`](Lock::acquire) waits for the lock. Zero tries once. Default:
    /// the runtime's `default_wait`.
    pub fn wait(mut self, wait: Duration) -> Lock {
        self.options.wait = Some(wait);
        self
    }

    /// Period at which the watchdog renews the lease, from 1 ms to half of the ttl, or `false` for
    /// never. Default: the runtime's `renew_every`.
    ///
    /// A lease that is never renewed lives for the ttl, or for up to a sixteenth less on a store
    /// that reuses leases, such as etcd. A lease that is much shorter, as after a hand-over, is
    /// extended to its ttl once.
    pub fn renew(mut self, renew: impl Into<Renew>) -> Lock {
        self.options.renew = renew.into();
        self
    }

    /// Longest time that the lock may be held, renewals included. After that it is not renewed, and
    /// every answer about it is the error with [`is_max_hold`](LockError::is_max_hold).
    pub fn max_hold(mut self, limit: Duration) -> Lock {
        self.options.max_hold = Some(limit);
        self
    }

    /// Shortest time that the key stays taken, counted from the acquisition, even if the guard or
    /// the body ends or this process dies. During the rest, nobody holds the key and nobody is
    /// handed it. At most 24 h, and not longer than [`max_hold`](Lock::max_hold).
    pub fn min_hold(mut self, least: Duration) -> Lock {
        self.options.min_hold = Some(least);
        self
    }

    /// Shares the key with other readers. The plain lock of the key is the writer: it excludes
    /// readers, and they exclude it. They are served in order of arrival, so neither waits for
    /// ever.
    ///
    /// The readers of a process share one lease. While they overlap it costs two commands a second,
    /// however many readers there are. Readers do not join while a task of the process waits for
    /// the whole key. All readers between two writers have the same
    /// [fencing token](LockGuard::fencing_token).
    ///
    /// A holder of a share cannot acquire the whole key within it: see
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

    /// Takes one of `permits` permits of the key. At most `permits` are held at once, in all
    /// processes. From 1 to 1,000,000.
    ///
    /// The number is not stored. Each claim is granted if there is room by its own number, so a
    /// deployment can change it. The plain lock of the key waits until all permits are back, and
    /// excludes all others meanwhile. Claims are served in order of arrival. With
    /// [`min_hold`](Lock::min_hold) a permit stays taken for that long, so at most `permits` start
    /// within any such time.
    pub fn permits(mut self, permits: u32) -> Lock {
        self.options.permits = Some(permits);
        self
    }

    /// Takes this many permits at once, or none; from 1 to 64.
    pub fn weight(mut self, permits: u32) -> Lock {
        self.options.weight = Some(permits);
        self
    }

    /// Takes one of `shards` parts of the key, from 1 to 64. [`shard`](LockGuard::shard) returns
    /// which. It is any free part, preferably the last one of this process.
    ///
    /// It is for data that can be divided, such as a stock of which each shard has a share. The
    /// plain lock of the key takes all shards together.
    pub fn shards(mut self, shards: u32) -> Lock {
        self.options.shards = Some(shards);
        self
    }

    /// Name of locks of this kind in logs and metrics, instead of `-`. Use few names, such as
    /// `report:<month>`, never a key. The attribute uses the template of the key.
    pub fn name(mut self, name: &'static str) -> Lock {
        self.options.names = Names::One(name);
        self
    }

    /// Acquires the lock, waiting for it if another holds it.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](LockError::is_timeout) if another still held the lock at the end of the wait
    /// (with a wait of zero: [`is_taken`](LockError::is_taken));
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

    /// Runs `body` while holding the lock, as the attribute does. If the lock is lost, `body` is
    /// dropped at its current `.await`.
    ///
    /// Annotated functions of the same key that `body` calls run under the same lease; so does
    /// `run` within such a function. In a nested call, `wait` bounds its turn and `max_hold` its
    /// body. `ttl` and `renew` are checked but have no effect.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Lock::acquire), and [`is_lost`](LockError::is_lost) if the lock was lost
    /// before `body` ended. A release that the store did not confirm is no error: the result of
    /// `body` is returned.
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

    /// Runs `body` on one of the [`shards`](Lock::shards) after another, on each at most once,
    /// until it returns [`Break`](ControlFlow::Break). The next shard is any free one. `None`: it
    /// has been on all shards.
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

    /// Elects a leader: of all callers for the key, one runs its `body` at a time, for as long as
    /// it holds the lock.
    ///
    /// The others wait until they lead, whatever the [`wait`](Lock::wait). If a leader loses the
    /// lock, its body is dropped at its current `.await`. It then becomes a candidate again, after
    /// a pause that grows while the store does not answer. The
    /// [fencing token](LockHandle::fencing_token) is the number of the term. It grows from leader
    /// to leader, so a resource can refuse former leaders.
    ///
    /// It returns when a body ends. A [shutdown](crate::LockRuntime::shutdown) drops the body, and
    /// hands the lock to the next candidate at once.
    ///
    /// # Errors
    ///
    /// Errors that another try cannot change: [`is_shut_down`](LockError::is_shut_down),
    /// [`is_denied`](LockError::is_denied), or an error about the key or the settings.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `body`, then hands the lock to the next candidate, in the
    /// background.
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
            // The policy may end a single wait, but not a candidacy.
            let pause = engine.settings.pause(failures).unwrap_or(STANDS_AGAIN);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = engine.closing() => return Err(LockError::ShutDown),
            }
        }
    }

    /// Runs `body` while holding the lock, as [`run`](Lock::run) does, if nobody holds it; `None`
    /// if another does. It corresponds to `on_taken = skip` of the attribute.
    ///
    /// # Errors
    ///
    /// As [`run`](Lock::run), but a lock held by another is no error. A store that cannot be asked
    /// is an error.
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

    /// Runs `body` as [`try_run`](Lock::try_run) does. After it succeeded, nobody runs a body for
    /// the same key until `period` is over, counted from its start. It corresponds to `once_per` of
    /// the attribute.
    ///
    /// The return value says whether it succeeded: see [`LockDone`]. If it did not, or if it panics
    /// or the lock is lost, the key is free at once.
    ///
    /// # Errors
    ///
    /// As [`try_run`](Lock::try_run), and [`LockError::Config`], before `body` starts, for a store
    /// that cannot keep a lock that nobody holds. After `body`, any error means that the store may
    /// not know of its success, so it may be run again.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Lock::run). The key is then free.
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
