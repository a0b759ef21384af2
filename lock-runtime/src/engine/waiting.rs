//! The future of a caller: for a lock, or for the end of a release.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use lock_protocol::machine::{Ask, Event, LeaseId, Outcome, Waiter, WaiterId};
use lock_protocol::{FencingToken, Instant, LockKey, Mode};
use tokio::time::timeout_at;

use super::entry::Entry;
use super::seats::{ReleaserTold, Seated, WaiterTold};
use super::table::Turn;
use super::watch::Asker;
use super::{Begins, Engine, Hold, MARGIN, Wish, asking, timer, within_tokio};
use crate::clock;
use crate::error::{Holding, LockError};
use crate::observe::Refusal;

/// Somebody who waits to be told. Dropped before, it leaves: a place in the line is given up, and a
/// lock that came in this instant is handed on.
pub(super) struct Waiting<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) key: &'a LockKey,
    /// `None` once it has been told, or is not seated yet.
    pub(super) seat: Option<Seated>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        match self.seat {
            Some(Seated::Waiter(id)) => self.engine.turn(self.key, |entry, turn| {
                // After it, so that it is known who leaves.
                turn.feed(entry, Event::Left(id));
                entry.leave_waiter(turn, id);
            }),
            Some(Seated::Releaser(id)) => self
                .engine
                .turn(self.key, |entry, turn| entry.leave_release(turn, id)),
            None => {}
        }
    }
}

/// Gets the lock for a caller: see [`Engine::acquire`].
pub(super) async fn acquire(
    engine: &Arc<Engine>,
    wish: Wish<'_>,
    wait: Duration,
    begins: Begins,
) -> Result<Hold, LockError> {
    within_tokio()?;
    let Wish { key, name, terms } = wish;
    if !engine.rules.modes && terms.mode != Mode::Exclusive {
        engine
            .settings
            .observers
            .granted_alone(name, terms.mode.kind());
    }
    let once = wait.is_zero();
    // Who does not wait for the lock still waits for the answer.
    let patience = if once {
        engine.settings.command_timeout + 2 * MARGIN
    } else {
        wait.min(clock::AGES)
    };
    // A function of the user: no mutex is held.
    let owner = engine.settings.own_owner(key);
    let joining = |id: WaiterId, now: Instant| Waiter {
        id,
        terms,
        once,
        begins: begins == Begins::Now,
        // A caller who is just about to leave can still be told.
        deadline: now + patience + MARGIN,
        owner,
    };
    let mut waiting = Waiting {
        engine,
        key,
        seat: None,
    };
    let Joined {
        id,
        at: joined_at,
        question,
        told,
    } = waiting.join(name, false, joining).await?;
    let deadline = joined_at + patience;
    let WaiterTold { outcome, holder } = match told {
        Some(told) => {
            waiting.seat = None;
            told
        }
        None => waiting.outcome(id, question, joined_at, deadline).await,
    };
    match outcome {
        Outcome::Granted(granted) => Ok(Hold::new(engine, key, name, granted, terms.mode)),
        Outcome::Taken(remaining) => Err(LockError::Taken {
            key: key.clone(),
            remaining,
            holder,
        }),
        Outcome::TimedOut => Err(LockError::Timeout {
            key: key.clone(),
            waited: clock::now().since(joined_at),
            holding: Holding::default(),
            holder,
        }),
        Outcome::Failed(error) => Err(LockError::from(error)),
        Outcome::NoAnswer => Err(LockError::Unavailable(
            "the store did not answer within the wait".into(),
        )),
        Outcome::ShutDown => Err(LockError::ShutDown),
    }
}

/// Ends a hold, and waits for what becomes of it. Dropping the future loses the answer and nothing
/// else.
pub(super) async fn release(
    engine: &Arc<Engine>,
    key: &LockKey,
    lease: LeaseId,
    token: FencingToken,
) -> ReleaserTold {
    let mut waiting = Waiting {
        engine,
        key,
        seat: Some(Seated::Releaser(lease)),
    };
    let begun = poll_fn(|context| {
        Poll::Ready(engine.turn(key, |entry, turn| {
            turn.looker = Some(Seated::Releaser(lease));
            turn.feed(entry, Event::Ended(lease, token));
            // Nothing that the store says will change what it has been told.
            turn.release_told(entry, lease).ok_or_else(|| {
                entry.seat_release(turn, lease, context.waker());
                (turn.take_question(), turn.now)
            })
        }))
    });
    let told = match begun.await {
        Ok(told) => told,
        Err((question, now)) => waiting.release_outcome(lease, question, now).await,
    };
    waiting.seat = None;
    told
}

/// A waiter that has taken a seat in the line.
pub(super) struct Joined {
    pub(super) id: WaiterId,
    pub(super) at: Instant,
    /// What is to be asked for it, if anything.
    pub(super) question: Option<Box<Ask>>,
    /// What it has been told at once; nobody wakes it then.
    pub(super) told: Option<WaiterTold>,
}

impl Waiting<'_> {
    /// Takes a seat in the line, for the waiter that is made with its id and the time.
    /// It is of a lock that is called `name`, and `tries` to get it together with others.
    pub(super) async fn join(
        &mut self,
        name: &'static str,
        tries: bool,
        joining: impl FnOnce(WaiterId, Instant) -> Waiter,
    ) -> Result<Joined, LockError> {
        let engine = self.engine;
        let mut joining = Some(joining);
        poll_fn(|context| {
            let joined = engine.turn(self.key, |entry, turn| {
                // Read under the mutex of the shard, which a shutdown takes after it set the flag:
                // nobody joins behind its back.
                let asker = Asker {
                    name,
                    joined_at: turn.now,
                    tries,
                };
                if engine.is_shut_down.load(Ordering::Acquire) {
                    turn.refuse(entry, asker, Refusal::ShutDown);
                    return None;
                }
                let joining = joining.take()?;
                // Under the mutex as well, so that ids grow in the order of arrival.
                let id = engine.table.new_waiter();
                entry.seat_waiter(turn, id, asker, context.waker());
                turn.looker = Some(Seated::Waiter(id));
                turn.feed(entry, Event::Joined(joining(id, turn.now)));
                let told = entry.waiter_told(id);
                took(entry, turn, id, told.as_ref());
                // Whoever has been told asks nothing more.
                let question = match told {
                    None => turn.take_question(),
                    Some(_) => None,
                };
                let at = turn.now;
                Some(Joined {
                    id,
                    at,
                    question,
                    told,
                })
            });
            Poll::Ready(joined.ok_or(LockError::ShutDown))
        })
        .await
        .inspect(|joined| self.seat = Some(Seated::Waiter(joined.id)))
    }

    /// What the waiter that joined `now` is told by its deadline. Asks `question` first, if it has
    /// one to ask.
    pub(super) async fn outcome(
        self,
        id: WaiterId,
        question: Option<Box<Ask>>,
        now: Instant,
        deadline: Instant,
    ) -> WaiterTold {
        let (engine, key) = (self.engine, self.key);
        let limit = match question {
            Some(_) => asking::limit(engine, now).min(deadline),
            None => deadline,
        };
        let asker = Some(Seated::Waiter(id));
        let mut asking = pin!(question.map(|question| {
            asking::asking(engine, question, now, asker, |entry, turn| {
                let told = entry.waiter_told(id);
                took(entry, turn, id, told.as_ref());
                told
            })
        }));
        // Made after the question, and so dropped before: the line is left before the question is
        // cut off, which is then not asked again.
        let mut waiting = self;
        let told = || {
            poll_fn(|context| {
                engine.turn(key, |entry, turn| {
                    let told = entry.poll_waiter(turn, id, context);
                    if let Poll::Ready(told) = &told {
                        took(entry, turn, id, Some(told));
                    }
                    told
                })
            })
        };
        // One timer, not two.
        let first = first_answer(asking.as_mut(), told());
        let outcome = timeout_at(timer(limit), first).await.ok().flatten();
        if limit < deadline {
            // It has its answer, or will get none.
            asking.set(None);
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => match timeout_at(timer(deadline), told()).await {
                Ok(outcome) => outcome,
                Err(_) => waiting.give_up(id),
            },
        };
        waiting.seat = None;
        outcome
    }

    /// Leaves when the wait is used up; with the lock, if it came in that instant.
    fn give_up(&mut self, id: WaiterId) -> WaiterTold {
        let told = self.engine.turn(self.key, |entry, turn| {
            turn.looker = Some(Seated::Waiter(id));
            turn.feed(entry, Event::GaveUp(id));
            let told = entry.waiter_told(id);
            took(entry, turn, id, told.as_ref());
            told
        });
        told.unwrap_or(WaiterTold {
            outcome: Outcome::NoAnswer,
            holder: None,
        })
    }

    /// What becomes of a release. Asks `question` first, if it has one to ask.
    /// The hold was ended `now`.
    async fn release_outcome(
        &self,
        lease: LeaseId,
        question: Option<Box<Ask>>,
        now: Instant,
    ) -> ReleaserTold {
        let (engine, key) = (self.engine, self.key);
        let told = || {
            poll_fn(|context| {
                engine.turn(key, |entry, turn| entry.poll_release(turn, lease, context))
            })
        };
        if let Some(question) = question {
            let limit = timer(asking::limit(engine, now));
            let look = |entry: &mut Entry, turn: &mut Turn<'_>| turn.release_told(entry, lease);
            let asker = Some(Seated::Releaser(lease));
            let asking = pin!(Some(asking::asking(engine, question, now, asker, look)));
            let first = first_answer(asking, told());
            if let Ok(Some(told)) = timeout_at(limit, first).await {
                return told;
            }
        }
        told().await
    }
}

/// Tells the machine that its grant has reached the waiter.
pub(super) fn took(
    entry: &mut Entry,
    turn: &mut Turn<'_>,
    id: WaiterId,
    told: Option<&WaiterTold>,
) {
    if let Some(Outcome::Granted(_)) = told.map(|told| &told.outcome) {
        turn.feed(entry, Event::Took(id));
    }
}

/// What the answer to one's own question tells, if there is one, or what one is told before; `None`
/// if the answer tells nothing.
async fn first_answer<T>(
    mut asking: Pin<&mut Option<impl Future<Output = Option<T>>>>,
    told: impl Future<Output = T>,
) -> Option<T> {
    let mut told = pin!(told);
    let mut is_first = true;
    poll_fn(|context| {
        if let Some(asking) = asking.as_mut().as_pin_mut()
            && let Poll::Ready(told) = asking.poll(context)
        {
            return Poll::Ready(told);
        }
        // The seat was taken in this poll, with the same waker.
        if std::mem::replace(&mut is_first, false) {
            return Poll::Pending;
        }
        told.as_mut().poll(context).map(Some)
    })
    .await
}
