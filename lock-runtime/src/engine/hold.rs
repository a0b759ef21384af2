//! What a holder has in hand.

use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::machine::{End, Event, Granted, ReleaseOutcome};
use lock_protocol::{FencingToken, Instant, LockKey, LostReason, Mode, OwnerToken};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;

use super::effects::Renewing;
use super::seats::ReleaserTold;
use super::{Begins, Engine, asking, waiting, within_tokio};
use crate::clock;
use crate::error::LockError;
use crate::observe::RenewalFailures;

/// A view of one hold of a lease, which may outlive it.
#[derive(Clone)]
pub(crate) struct View {
    engine: Arc<Engine>,
    key: LockKey,
    /// What the lock is called.
    name: &'static str,
    granted: Granted,
    mode: Mode,
    /// That of a nested body, which is rare; the hold's own limit is the lease's.
    limit: Option<Box<Limit>>,
    /// Of one who may share the lease with others, which goes on when this hold has ended. It has
    /// no permits, and is closed when the hold ends.
    share: Option<Arc<Semaphore>>,
}

/// The `max_hold` of a nested body.
#[derive(Clone, Copy)]
struct Limit {
    ends: Instant,
    max_hold: Duration,
}

/// The right of one holder to one lease. Dropping it ends the hold, in the background.
#[derive(Debug)]
pub(crate) struct Hold {
    view: Arc<View>,
    /// Whether the hold has been ended by [`Hold::release`].
    is_released: bool,
}

impl Hold {
    pub(super) fn new(
        engine: &Arc<Engine>,
        key: &LockKey,
        name: &'static str,
        granted: Granted,
        mode: Mode,
    ) -> Hold {
        let view = View {
            engine: engine.clone(),
            key: key.clone(),
            name,
            granted,
            mode,
            limit: None,
            share: (mode == Mode::Shared).then(|| Arc::new(Semaphore::new(0))),
        };
        Hold {
            view: Arc::new(view),
            is_released: false,
        }
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Begins the hold anew: it has waited for others until now.
    pub(crate) fn begin(&self) {
        let View {
            engine,
            key,
            granted,
            ..
        } = &*self.view;
        engine.happened(key, Event::Began(granted.lease, granted.token));
    }

    /// Ends the hold and waits for the answer of the store. Dropping the future loses the answer
    /// and nothing else.
    pub(crate) async fn release(mut self) -> Result<(), LockError> {
        // If not, the drop ends it.
        within_tokio()?;
        self.is_released = true;
        let view = &self.view;
        view.give_up_share();
        let Granted { lease, token, .. } = view.granted;
        let ReleaserTold { outcome, cause } =
            waiting::release(&view.engine, &view.key, lease, token).await;
        match outcome {
            ReleaseOutcome::Released => Ok(()),
            ReleaseOutcome::Ended(end, held) => Err(view.error(end, held, cause)),
            ReleaseOutcome::Failed(error) => Err(LockError::from(error)),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_released {
            let View {
                engine,
                key,
                granted,
                ..
            } = &*self.view;
            self.view.give_up_share();
            engine.happened(key, Event::Ended(granted.lease, granted.token));
        }
    }
}

impl View {
    /// Whether the lease is long enough to keep the key for `least` from now on; if it is, and that
    /// `begins` now, the key is kept. If not, the next renewal asks for more.
    pub(crate) fn keep(&self, least: Duration, begins: Begins) -> bool {
        let Granted { lease, token, .. } = self.granted;
        self.engine.turn(&self.key, |entry, turn| {
            let covers = entry.machine.covers(lease, token, least, turn.now);
            let event = Event::Keep {
                lease,
                token,
                least,
                begins: begins == Begins::Now,
            };
            turn.feed(entry, event);
            covers
        })
    }

    /// The view of a body that begins now, nested in that of this one, and ends after `max_hold`.
    pub(crate) fn limited(&self, max_hold: Duration) -> View {
        let ends = clock::now() + max_hold;
        let outer = self.limit.as_deref().copied();
        let outer = outer.filter(|outer| outer.ends <= ends);
        View {
            limit: Some(Box::new(outer.unwrap_or(Limit { ends, max_hold }))),
            ..self.clone()
        }
    }

    /// The view of a body that wants the key in this `mode`, nested in that of this one: the part
    /// of the key that is its, if it has parts.
    pub(crate) fn as_part(&self, mode: Mode, shard: u8) -> View {
        let mut view = self.clone();
        view.mode = mode;
        view.granted.shard = shard;
        view
    }

    /// What was wanted of the key.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Which part of the key it is; 0 where a key has no parts.
    pub(crate) fn shard(&self) -> u8 {
        self.granted.shard
    }

    pub(crate) fn key(&self) -> &LockKey {
        &self.key
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn owner(&self) -> &OwnerToken {
        &self.granted.owner
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.granted.token
    }

    /// How long the holder may still rely on the lease; zero if it may not.
    pub(crate) fn remaining(&self) -> Duration {
        if self.has_given_up_share() {
            return Duration::ZERO;
        }
        let Granted { lease, token, .. } = self.granted;
        let remaining = self.engine.table.look(&self.key, |machine, now| {
            machine.remaining(lease, token, now)
        });
        let left = remaining.unwrap_or_default();
        match &self.limit {
            Some(limit) => left.min(limit.ends.since(clock::now())),
            None => left,
        }
    }

    /// `Ok` while the holder may rely on the lease, else why it may not.
    pub(crate) fn check(&self) -> Result<(), LockError> {
        let Granted { lease, token, .. } = self.granted;
        let fault = self.engine.table.look_at(&self.key, |entry, now| {
            let (end, held) = entry.machine.fault(lease, token, now)?;
            Some((end, held, entry.failures(lease, token)))
        });
        let released = (End::Lost(LostReason::NotHeld), Duration::ZERO, None);
        let fault = fault.filter(|_| !self.has_given_up_share());
        match fault.unwrap_or(Some(released)) {
            None => self.check_limit(),
            Some((end, held, cause)) => Err(self.error(end, held, cause)),
        }
    }

    /// `Ok` while the body may run, as far as its own limit goes.
    fn check_limit(&self) -> Result<(), LockError> {
        match &self.limit {
            Some(limit) if clock::now() >= limit.ends => {
                Err(self.error(End::MaxHold(limit.max_hold), Duration::ZERO, None))
            }
            _ => Ok(()),
        }
    }

    /// Resolves once the holder does not hold the lease any more.
    pub(crate) async fn ended(&self) {
        // Registered before the look, so that an end in between is not missed.
        while let Some(ended) = self.engine.table.watch(&self.key) {
            let mut ended = pin!(ended.notified());
            ended.as_mut().enable();
            let left = self.remaining();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = ended => {}
                () = self.share_given_up() => {}
                // The watchdog tells it too, if nothing keeps it from its work.
                () = sleep(left) => {}
            }
        }
    }

    /// Says that the hold has ended, also if others go on to share its lease.
    fn give_up_share(&self) {
        if let Some(share) = &self.share {
            share.close();
        }
    }

    /// Whether the hold has ended, as far as a lease that may be shared does not tell it.
    fn has_given_up_share(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.is_closed())
    }

    /// Resolves when that is so.
    async fn share_given_up(&self) {
        match &self.share {
            // An error is all that comes of it.
            Some(share) => drop(share.acquire().await),
            None => pending().await,
        }
    }

    /// Extends the lease now, because its holder asks for it.
    pub(crate) async fn renew(&self) -> Result<(), LockError> {
        self.check()?;
        let (engine, lease) = (self.engine.clone(), self.granted.lease);
        let renewal = engine.table.look(&self.key, |machine, now| {
            machine.renewal(&engine.rules, lease, now)
        });
        if let Some((renewal, patience)) = renewal.flatten() {
            let renewing = Renewing {
                lease,
                renewal: Box::new(renewal),
                patience,
            };
            let (told, outcome) = oneshot::channel();
            let asker = engine.clone();
            engine.executor.spawn(async move {
                let _ = told.send(asking::renew_now(&asker, renewing).await);
            });
            outcome.await.map_err(|_| LockError::ShutDown)??;
        }
        self.check()
    }

    /// The engine that the lock is of.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Whether this is a lock of that runtime.
    pub(crate) fn is_of(&self, engine: &Arc<Engine>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }

    fn error(&self, end: End, held: Duration, cause: Option<Arc<RenewalFailures>>) -> LockError {
        let key = self.key.clone();
        let reason = match end {
            End::MaxHold(limit) => return LockError::MaxHold { key, limit },
            End::Lost(reason) => reason,
        };
        let held = match held {
            Duration::ZERO => clock::now().since(self.granted.since),
            held => held,
        };
        LockError::Lost {
            key,
            reason,
            held,
            cause: cause.filter(|_| reason == LostReason::Expired),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockHandle")
            .field("key", &self.key)
            .field("fencing_token", &self.granted.token)
            .field("remaining", &self.remaining())
            .finish()
    }
}
