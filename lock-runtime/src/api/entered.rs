//! The right to run a body: the locks that it holds, and nested calls that run under the lock they
//! already have.

use std::future::{Future, poll_fn};
use std::iter::successors;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lock_protocol::{LockKey, Mode, Process, Terms};
use smallvec::{SmallVec, smallvec};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::api::frame::Frame;
use crate::api::guard::LockHandle;
use crate::api::min_hold;
use crate::api::once_per::OncePer;
use crate::api::options::{LockOptions, OnLost};
use crate::backend::BoxFuture;
use crate::clock;
use crate::engine::{Begins, Engine, Hold, Wish};
use crate::error::{Holding, LockError};
use crate::observe::{HoldSpan, LockEvent, LockRef, NAMELESS, Taking};

/// The keys of one call, checked; most often one.
pub(crate) type Keys = SmallVec<[LockKey; 1]>;

/// The right to run one body.
pub(crate) struct Entered {
    /// The innermost of the frames, of which there are as many as rights.
    frame: Arc<Frame>,
    rights: SmallVec<[Right; 1]>,
    on_lost: OnLost,
    span: HoldSpan,
    /// The ttl of the locks; `None` if that is not known.
    ttl: Option<Duration>,
    /// Resolves when a lock is lost; made when the body first has to wait.
    lost: Option<BoxFuture<'static, ()>>,
    /// What is to be kept after a body that ended well; boxed, since it is rare.
    once: Option<Box<(OncePer, lock_protocol::Instant)>>,
}

/// A hold of its own, the turn of a nested call under the hold of a body around it, or that of a
/// guard of the user's.
enum Right {
    Own(Hold),
    Lent,
    /// Held for its drop; readers within a reader need no turn.
    Nested(
        #[expect(dead_code, reason = "gives the turn to the next when dropped")]
        Option<OwnedSemaphorePermit>,
    ),
}

/// The checked key of each of `keys`.
pub(crate) fn checked<K: AsRef<str>>(
    engine: &Engine,
    keys: impl IntoIterator<Item = K>,
) -> Result<Keys, LockError> {
    let prefix = &engine.settings.key_prefix;
    let keys = keys.into_iter();
    let keys = keys.map(|key| LockKey::new(prefix, key.as_ref()));
    let keys = keys.collect::<Result<Keys, _>>()?;
    if keys.is_empty() {
        return Err(LockError::Config(
            "there is no key, and so nothing to lock".to_owned(),
        ));
    }
    Ok(keys)
}

/// The order in which several locks are taken, the same for everybody: two who took them in
/// different orders could wait for each other. Each is there once.
pub(crate) fn ordered(keys: &Keys) -> Keys {
    let mut keys = keys.clone();
    keys.sort_unstable_by(|one, other| one.stored().cmp(other.stored()));
    keys.dedup();
    keys
}

impl Entered {
    /// Gets the locks of `keys`, all or none, within one wait.
    pub(crate) async fn enter(
        engine: &Arc<Engine>,
        keys: &Keys,
        options: &LockOptions,
        on_lost: OnLost,
    ) -> Result<Box<Entered>, LockError> {
        let (terms, wait) = options.resolve(&engine.settings)?;
        if let Some(once_per) = &options.once_per {
            engine.can_keep("once_per", once_per.period)?;
        }
        let several = (keys.len() > 1).then(|| ordered(keys));
        let mut waiting = Entering {
            one_wait: OneWait::new(engine, terms, wait),
            call: (keys, options),
            handles: SmallVec::new(),
            rights: SmallVec::new(),
        };
        if let Some(keys) = &several
            && keys.iter().all(|key| Frame::holding(engine, key).is_none())
        {
            for key in keys {
                note_order(engine, options.name_of(key, waiting.call.0), options);
            }
            let holds = waiting
                .one_wait
                .acquire_together(keys, waiting.call)
                .await?;
            holds.into_iter().for_each(|hold| waiting.enter_with(hold));
        }
        if waiting.rights.is_empty() {
            let begins = match several {
                Some(_) => Begins::Later,
                None => Begins::Now,
            };
            for key in several.as_ref().unwrap_or(keys) {
                let holding = Frame::holding(engine, key);
                waiting.enter_one(key, holding, begins).await?;
            }
        }
        let Entering {
            handles, rights, ..
        } = waiting;
        if several.is_some() {
            // The first may have been lost while the last was waited for; and that would be no end
            // of a body that goes on when a lock is lost.
            handles.iter().try_for_each(LockHandle::check)?;
            for right in &rights {
                if let Right::Own(hold) = right {
                    hold.begin();
                }
            }
        }
        let mut frame = Frame::current();
        let mut span = HoldSpan::default();
        for (handle, right) in handles.into_iter().zip(&rights) {
            if let Right::Own(_) = right {
                let name = options.name_of(handle.key(), keys);
                let (observers, token) = (&engine.settings.observers, handle.fencing_token());
                span = span.and(observers, name, handle.key(), token);
            }
            let handle = match right {
                Right::Own(_) | Right::Lent => handle,
                // Its limit counts from when all are there, too.
                Right::Nested(_) => handle.nested(options.max_hold),
            };
            frame = Some(Frame::new(handle, options.function(), frame));
        }
        let Some(frame) = frame else {
            unreachable!("there is a key, which made a frame");
        };
        let mut entered = Entered {
            frame,
            rights,
            on_lost,
            span,
            ttl: Some(terms.ttl),
            lost: None,
            once: None,
        };
        if let Some(least) = options.min_hold {
            min_hold::begin(&entered.handles().cloned().collect::<Vec<_>>(), least).await?;
        }
        let once_per = options.once_per.clone();
        entered.once = once_per.map(|once_per| Box::new((once_per, clock::now())));
        Ok(Box::new(entered))
    }

    /// The right to run a body under a lock that its caller goes on to hold.
    pub(crate) fn within(handle: LockHandle) -> Box<Entered> {
        let span = handle.span();
        Box::new(Entered {
            frame: Frame::new(handle, NAMELESS, Frame::current()),
            rights: smallvec![Right::Lent],
            on_lost: OnLost::Cancel,
            span,
            ttl: None,
            lost: None,
            once: None,
        })
    }

    /// The handle of the lock of `key`, which is one of those that were entered.
    pub(crate) fn handle_of(&self, key: &LockKey) -> LockHandle {
        let handle = self.handles().find(|handle| handle.key() == key);
        handle.unwrap_or_else(|| self.frame.handle()).clone()
    }

    /// The handles of `keys`, in their order.
    pub(crate) fn handles_of(&self, keys: &Keys) -> Vec<LockHandle> {
        keys.iter().map(|key| self.handle_of(key)).collect()
    }

    fn handles(&self) -> impl Iterator<Item = &LockHandle> {
        let frames = successors(Some(&self.frame), |frame| frame.outer());
        let own = frames.take(self.rights.len());
        own.map(|frame| frame.handle())
    }

    /// Polls the body while the locks are held. An error is the end of the body, and makes its
    /// output void.
    pub(crate) fn poll(
        &mut self,
        body: impl FnOnce(&mut Context<'_>) -> Poll<()>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LockError>> {
        // Before the body runs: it may have lost the lock while its process was stopped.
        self.check()?;
        let frame = self.frame.clone();
        let watched = self.watched();
        let polled = self.span.around(|| Frame::within(frame, || body(cx)));
        if let Some((since, ttl)) = watched {
            self.tell_blocked(since.elapsed(), ttl);
        }
        match polled {
            // A body that outran its lock did not succeed, whatever it says.
            Poll::Ready(()) => Poll::Ready(self.check()),
            Poll::Pending if self.on_lost == OnLost::Cancel => {
                let lost = match &mut self.lost {
                    Some(lost) => lost,
                    None => {
                        let handles: SmallVec<[LockHandle; 1]> = self.handles().cloned().collect();
                        self.lost.insert(Box::pin(any_lost(handles)))
                    }
                };
                ready!(lost.as_mut().poll(cx));
                self.lost = None;
                self.check()?;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Since when the body is polled, by the clock of the machine, and its ttl, if anybody wants to
    /// hear of it.
    fn watched(&self) -> Option<(std::time::Instant, Duration)> {
        let observers = &self.frame.handle().engine().settings.observers;
        let ttl = self.ttl.filter(|_| observers.wants_all())?;
        Some((std::time::Instant::now(), ttl))
    }

    /// Tells that the body has blocked its thread for so long, if it has.
    fn tell_blocked(&self, blocked: Duration, ttl: Duration) {
        if blocked < ttl / 2 {
            return;
        }
        let handle = self.frame.handle();
        handle
            .engine()
            .settings
            .observers
            .tell(&LockEvent::Blocked {
                lock: LockRef {
                    name: handle.name(),
                    key: handle.key().clone(),
                },
                fencing_token: handle.fencing_token(),
                blocked,
                ttl,
            });
    }

    /// Why the body has to end, if it has to.
    fn check(&self) -> Result<(), LockError> {
        match self.on_lost {
            OnLost::Cancel => self.handles().try_for_each(LockHandle::check),
            OnLost::Continue => Ok(()),
        }
    }

    /// Releases the locks after the body. An error only if the body cannot have been alone, or if
    /// its keys were to be kept and are not; not if the store did not answer.
    pub(crate) async fn leave(mut self: Box<Self>) -> Result<(), LockError> {
        let on_lost = self.on_lost;
        let kept = match self.once.take() {
            Some(once) => self.keep_after(once).await,
            None => Ok(()),
        };
        let holds = self.rights.into_iter().filter_map(|right| match right {
            Right::Own(hold) => Some(hold),
            Right::Nested(_) | Right::Lent => None,
        });
        let is_end = |error: &LockError| error.is_lost() || error.is_max_hold();
        match release_all(holds).await {
            Err(error) if on_lost == OnLost::Cancel && is_end(&error) => Err(error),
            _ => kept.or_else(|error| match on_lost {
                OnLost::Continue if is_end(&error) => Ok(()),
                OnLost::Cancel | OnLost::Continue => Err(error),
            }),
        }
    }

    /// Keeps the keys after a body that ended well.
    fn keep_after(
        &self,
        once: Box<(OncePer, lock_protocol::Instant)>,
    ) -> BoxFuture<'static, Result<(), LockError>> {
        let handles: Vec<LockHandle> = self.handles().cloned().collect();
        let engine = self.frame.handle().runtime().engine;
        Box::pin(async move {
            let (once_per, began) = *once;
            once_per.keep(&engine, &handles, began).await
        })
    }
}

/// The locks of one call.
pub(crate) type Holds = SmallVec<[Hold; 2]>;

/// Gets the locks of `keys`, all or none, within one wait, whatever the bodies around this call
/// hold.
pub(crate) async fn acquire_all(
    engine: &Arc<Engine>,
    as_given: &Keys,
    options: &LockOptions,
) -> Result<Holds, LockError> {
    let (terms, wait) = options.resolve(&engine.settings)?;
    let one_wait = OneWait::new(engine, terms, wait);
    let keys = ordered(as_given);
    for key in &keys {
        note_order(engine, options.name_of(key, as_given), options);
    }
    let mut holds = one_wait
        .acquire_together(&keys, (as_given, options))
        .await?;
    if holds.is_empty() {
        for key in &keys {
            let name = options.name_of(key, as_given);
            let wait = one_wait.left(holds.len());
            let hold = one_wait.acquire(key, name, wait, Begins::Later).await?;
            holds.push(hold);
        }
    }
    // The first may have been lost while the last was waited for.
    holds.iter().try_for_each(|hold| hold.view().check())?;
    if let Some(least) = options.min_hold {
        let handles = holds.iter().map(|hold| LockHandle::new(hold.view()));
        min_hold::begin(&handles.collect::<Vec<_>>(), least).await?;
    }
    holds.iter().for_each(Hold::begin);
    Ok(holds)
}

/// One wait for several locks.
struct OneWait<'a> {
    engine: &'a Arc<Engine>,
    terms: Terms,
    wait: Duration,
    started: Instant,
}

impl<'a> OneWait<'a> {
    fn new(engine: &'a Arc<Engine>, terms: Terms, wait: Duration) -> OneWait<'a> {
        OneWait {
            engine,
            terms,
            wait,
            started: Instant::now(),
        }
    }

    /// Gets all of several locks by one question, if that is possible; none if not.
    async fn acquire_together(
        &self,
        keys: &Keys,
        (as_given, options): CallOf<'_>,
    ) -> Result<Holds, LockError> {
        if keys.len() < 2 {
            return Ok(Holds::new());
        }
        let named = |key: &LockKey| (key.clone(), options.name_of(key, as_given));
        let keys: Vec<_> = keys.iter().map(named).collect();
        // Boxed, since most calls have one key, and wait in a smaller future.
        let together = Box::pin(self.engine.acquire_together(&keys, self.terms));
        Ok(together.await?.map(Holds::from_vec).unwrap_or_default())
    }

    /// What is left of the wait, once so many locks are there: before the first, all of it.
    fn left(&self, locks: usize) -> Duration {
        match locks {
            0 => self.wait,
            _ => self.wait.saturating_sub(self.started.elapsed()),
        }
    }

    /// Gets one of the locks within `wait`, a part of the whole one.
    async fn acquire(
        &self,
        key: &LockKey,
        name: &'static str,
        wait: Duration,
        begins: Begins,
    ) -> Result<Hold, LockError> {
        let terms = self.terms;
        let wish = Wish { key, name, terms };
        let acquired = self.engine.acquire(wish, wait, begins).await;
        acquired.map_err(|error| match error {
            // What is left of the wait may be too little to wait, but there was one.
            LockError::Taken { key, holder, .. } if !self.wait.is_zero() => {
                self.timed_out(key, holder)
            }
            LockError::Timeout { key, holder, .. } => self.timed_out(key, holder),
            error => error,
        })
    }

    /// The turn of a nested call.
    async fn turn(
        &self,
        key: &LockKey,
        outer: &Arc<Frame>,
    ) -> Result<OwnedSemaphorePermit, LockError> {
        match outer.turn().try_acquire_owned() {
            Ok(turn) => Ok(turn),
            Err(_) if self.wait.is_zero() => Err(LockError::Taken {
                key: key.clone(),
                remaining: Some(outer.handle().remaining()),
                holder: Some(Process::current()),
            }),
            Err(_) => timeout_at(
                self.started + self.wait.min(clock::AGES),
                outer.turn().acquire_owned(),
            )
            .await
            .map_err(|_| self.timed_out(key.clone(), Some(Process::current())))?
            .map_err(|_| LockError::ShutDown),
        }
    }

    fn timed_out(&self, key: LockKey, holder: Option<Process>) -> LockError {
        timed_out(key, self.started.elapsed(), holder)
    }
}

/// Takes in that a lock is asked for while the bodies around hold others.
pub(crate) fn note_order(engine: &Engine, name: &'static str, options: &LockOptions) {
    let mut frame = Frame::current();
    if frame.is_none() {
        return;
    }
    let function = options.function();
    let inner = Taking { name, function };
    while let Some(outer) = frame {
        engine
            .settings
            .observers
            .taken_within(outer.taking(), inner);
        frame = outer.outer().cloned();
    }
}

/// The keys of a call as they were given, and what it asks of their locks.
type CallOf<'a> = (&'a Keys, &'a LockOptions);

/// A call on its way into its body.
struct Entering<'a> {
    one_wait: OneWait<'a>,
    call: CallOf<'a>,
    /// Those of the rights; of a nested one that of the body around it.
    handles: SmallVec<[LockHandle; 1]>,
    rights: SmallVec<[Right; 1]>,
}

impl Entering<'_> {
    fn enter_with(&mut self, hold: Hold) {
        self.handles.push(LockHandle::new(hold.view()));
        self.rights.push(Right::Own(hold));
    }

    async fn enter_one(
        &mut self,
        key: &LockKey,
        holding: Option<Arc<Frame>>,
        begins: Begins,
    ) -> Result<(), LockError> {
        let (handle, right) = match holding {
            Some(outer) if riding(&outer, self.one_wait.terms.mode)? == Riding::AtOnce => {
                outer.handle().check()?;
                (outer.handle().clone(), Right::Nested(None))
            }
            Some(outer) => {
                let turn = self.one_wait.turn(key, &outer).await?;
                outer.handle().check()?;
                let handle = part_of(&outer, self.one_wait.terms.mode);
                (handle, Right::Nested(Some(turn)))
            }
            None => {
                let (keys, options) = self.call;
                let name = options.name_of(key, keys);
                note_order(self.one_wait.engine, name, options);
                let wait = self.one_wait.left(self.rights.len());
                let hold = self.one_wait.acquire(key, name, wait, begins).await?;
                (LockHandle::new(hold.view()), Right::Own(hold))
            }
        };
        self.handles.push(handle);
        self.rights.push(right);
        Ok(())
    }
}

/// How a nested call has the lock of a body around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Riding {
    AtOnce,
    InTurn,
}

/// How a call that wants `mode` rides on what the body around it holds. What that does not include
/// cannot be waited for: it is this call that keeps it away.
fn riding(outer: &Arc<Frame>, mode: Mode) -> Result<Riding, LockError> {
    let handle = outer.handle();
    let shard = u8::try_from(handle.shard()).unwrap_or(u8::MAX);
    match (handle.mode(), mode) {
        (Mode::Shared, Mode::Shared) => Ok(Riding::AtOnce),
        (Mode::Exclusive, _) | (Mode::Permits { .. }, Mode::Permits { .. }) => Ok(Riding::InTurn),
        (held @ Mode::Shard { .. }, Mode::Shard { .. }) if held.satisfies(&mode, shard) => {
            Ok(Riding::InTurn)
        }
        _ => Err(LockError::Upgrade {
            key: handle.key().clone(),
        }),
    }
}

/// The handle of a call that wants `mode` and has what the body around it holds. Who holds all of a
/// key holds each of its parts.
fn part_of(outer: &Arc<Frame>, mode: Mode) -> LockHandle {
    let handle = outer.handle();
    match (handle.mode(), mode) {
        (Mode::Exclusive, Mode::Shard { .. }) => {
            handle.as_part(mode, mode.shard_beside(0).unwrap_or_default())
        }
        _ => handle.clone(),
    }
}

/// The error of a wait that is used up. It names the locks that were held meanwhile, unless the
/// wait was for the turn of a nested call.
pub(crate) fn timed_out(key: LockKey, waited: Duration, holder: Option<Process>) -> LockError {
    let holding = Frame::held();
    let is_nested = holding.contains(&key);
    let holding = if is_nested { Vec::new() } else { holding };
    LockError::Timeout {
        key,
        waited,
        holding: Holding::new(holding),
        holder,
    }
}

/// The same error; one of a wait that is used up names the locks that were held meanwhile.
pub(crate) fn explained(error: LockError) -> LockError {
    match error {
        LockError::Timeout {
            key,
            waited,
            holder,
            ..
        } => timed_out(key, waited, holder),
        error => error,
    }
}

/// Releases all at once, and returns when the last answer has come; the first error of them.
pub(crate) async fn release_all(holds: impl Iterator<Item = Hold>) -> Result<(), LockError> {
    let mut holds: SmallVec<[Hold; 1]> = holds.collect();
    if holds.len() <= 1 {
        return match holds.pop() {
            Some(hold) => hold.release().await,
            None => Ok(()),
        };
    }
    let releases = holds.into_iter().map(|hold| Box::pin(hold.release()));
    let mut releases: Vec<_> = releases.collect();
    let mut outcome = Ok(());
    poll_fn(|cx| {
        releases.retain_mut(|release| match release.as_mut().poll(cx) {
            Poll::Ready(released) => {
                // One that was lost says most.
                let is_worse = |error: &LockError| error.is_lost() || error.is_max_hold();
                if outcome.is_ok() || released.as_ref().is_err_and(is_worse) {
                    outcome = released;
                }
                false
            }
            Poll::Pending => true,
        });
        if releases.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}

/// Resolves when one of the locks is lost.
pub(crate) async fn any_lost(handles: SmallVec<[LockHandle; 1]>) {
    if let [handle] = handles.as_slice() {
        return handle.lost().await;
    }
    let mut all: Vec<Pin<Box<_>>> = handles
        .iter()
        .map(|handle| Box::pin(handle.lost()))
        .collect();
    let any = poll_fn(|cx| {
        let is_lost = all.iter_mut().any(|lost| lost.as_mut().poll(cx).is_ready());
        if is_lost {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    pin!(any).await;
}
