//! The future of a caller: for a lock, or for the end of a release.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use lock_protocol::machine::{Ask, Event, LeaseId, Outcome, ReleaseOutcome, Waiter, WaiterId};
use lock_protocol::{FencingToken, Instant, LockKey, Terms};
use tokio::time::timeout_at;

use super::effects::Effects;
use super::table::{Entry, Seated, Turn};
use super::{Engine, Hold, MARGIN, asking, timer, within_tokio};
use crate::clock;
use crate::error::LockError;

/// Somebody who waits to be told. Dropped before, it leaves: a place in the line is given up, and a
/// lock that came in this instant is handed on.
struct Waiting<'a> {
    engine: &'a Arc<Engine>,
    key: &'a LockKey,
    /// `None` once it has been told, or is not seated yet.
    seat: Option<Seated>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let ((), effects) = match self.seat {
            Some(Seated::Waiter(id)) => self.engine.turn(self.key, |entry, turn| {
                entry.leave_waiter(turn, id);
                turn.feed(entry, Event::Left(id));
            }),
            Some(Seated::Releaser(id)) => self
                .engine
                .turn(self.key, |entry, turn| entry.leave_release(turn, id)),
            None => return,
        };
        effects.perform(self.engine);
    }
}

/// Gets the lock for a caller: see [`Engine::acquire`].
pub(super) async fn acquire(
    engine: &Arc<Engine>,
    key: &LockKey,
    terms: Terms,
    wait: Duration,
) -> Result<Hold, LockError> {
    within_tokio()?;
    let started = clock::now();
    let once = wait.is_zero();
    // Who does not wait for the lock still waits for the answer.
    let patience = if once {
        engine.settings.command_timeout + 2 * MARGIN
    } else {
        wait.min(clock::AGES)
    };
    let deadline = started + patience;
    let waiter = Waiter {
        // Given as it joins.
        id: WaiterId(0),
        terms,
        once,
        // A caller who is just about to leave can still be told.
        deadline: deadline + MARGIN,
        // A function of the user: no mutex is held.
        owner: engine.settings.own_owner(key),
    };
    let mut waiting = Waiting {
        engine,
        key,
        seat: None,
    };
    let (id, question) = waiting.join(waiter).await?;
    let outcome = waiting.outcome(id, question, deadline).await;
    match outcome {
        Outcome::Granted(granted) => Ok(Hold::new(engine, key, granted)),
        Outcome::Taken(remaining) => Err(LockError::Taken {
            key: key.clone(),
            remaining,
        }),
        Outcome::TimedOut => Err(LockError::Timeout {
            key: key.clone(),
            waited: clock::now().since(started),
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
) -> ReleaseOutcome {
    let mut waiting = Waiting {
        engine,
        key,
        seat: Some(Seated::Releaser(lease)),
    };
    let (told, question) = poll_fn(|context| {
        let (told, mut effects) = engine.turn(key, |entry, turn| {
            entry.seat_release(lease, context.waker());
            turn.looker = Some(Seated::Releaser(lease));
            turn.feed(entry, Event::Ended(lease, token));
            entry.release_told(lease)
        });
        let question = match told {
            None => effects.questions.pop(),
            // Nothing that the store says will change it.
            Some(_) => None,
        };
        effects.perform(engine);
        Poll::Ready((told, question))
    })
    .await;
    let told = match (told, question) {
        (Some(told), _) => told,
        (None, question) => waiting.release_outcome(lease, question).await,
    };
    waiting.seat = None;
    told
}

impl Waiting<'_> {
    /// Takes a seat in the line. Returns the id of the waiter, and the question that is to be asked
    /// for it, if any.
    async fn join(&mut self, waiter: Waiter) -> Result<(WaiterId, Option<Box<Ask>>), LockError> {
        let engine = self.engine;
        let mut waiter = Some(waiter);
        poll_fn(|context| {
            let (id, mut effects) = engine.turn(self.key, |entry, turn| {
                // Read under the mutex of the shard, which a shutdown takes after it set the flag:
                // nobody joins behind its back.
                if engine.is_shut_down.load(Ordering::Acquire) {
                    return None;
                }
                let mut waiter = waiter.take()?;
                // Under the mutex as well, so that ids grow in the order of arrival.
                let id = engine.table.next_waiter();
                waiter.id = id;
                entry.seat_waiter(id, context.waker());
                turn.looker = Some(Seated::Waiter(id));
                turn.feed(entry, Event::Joined(waiter));
                Some(id)
            });
            let question = effects.questions.pop();
            effects.perform(engine);
            Poll::Ready(id.map(|id| (id, question)).ok_or(LockError::ShutDown))
        })
        .await
        .inspect(|(id, _)| self.seat = Some(Seated::Waiter(*id)))
    }

    /// What the waiter is told by its deadline. Asks `question` first, if it has one to ask.
    async fn outcome(self, id: WaiterId, question: Option<Box<Ask>>, deadline: Instant) -> Outcome {
        let (engine, key) = (self.engine, self.key);
        let limit = asking::limit(engine, clock::now()).min(deadline);
        let asking = question.map(|question| {
            asking::asking(engine, question, Some(Seated::Waiter(id)), |entry, turn| {
                let told = entry.waiter_told(id);
                took(entry, turn, id, told.as_ref());
                told
            })
        });
        let mut asking = pin!(asking);
        // Made after the question, and so dropped before: the line is left before the question is
        // cut off, which is then not asked again.
        let mut waiting = self;
        let told = || {
            poll_fn(|context| {
                let (told, effects) = engine.turn(key, |entry, turn| {
                    let told = entry.poll_waiter(turn, id, context);
                    if let Poll::Ready(told) = &told {
                        took(entry, turn, id, Some(told));
                    }
                    told
                });
                effects.perform(engine);
                told
            })
        };
        let mut outcome = None;
        if asking.is_some() {
            // One timer, not two.
            let first = first_answer(engine, asking.as_mut(), told());
            outcome = timeout_at(timer(limit), first).await.ok().flatten();
            if limit < deadline {
                // It has its answer, or will get none.
                asking.set(None);
            }
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
    fn give_up(&mut self, id: WaiterId) -> Outcome {
        let (told, effects) = self.engine.turn(self.key, |entry, turn| {
            turn.looker = Some(Seated::Waiter(id));
            turn.feed(entry, Event::GaveUp(id));
            let told = entry.waiter_told(id);
            took(entry, turn, id, told.as_ref());
            told
        });
        effects.perform(self.engine);
        told.unwrap_or(Outcome::NoAnswer)
    }

    /// What becomes of a release. Asks `question` first, if it has one to ask.
    async fn release_outcome(&self, lease: LeaseId, question: Option<Box<Ask>>) -> ReleaseOutcome {
        let (engine, key) = (self.engine, self.key);
        let told = || {
            poll_fn(|context| {
                let (told, effects) =
                    engine.turn(key, |entry, turn| entry.poll_release(turn, lease, context));
                effects.perform(engine);
                told
            })
        };
        if let Some(question) = question {
            let limit = timer(asking::limit(engine, clock::now()));
            let look = |entry: &mut Entry, _: &mut Turn<'_>| entry.release_told(lease);
            let asker = Some(Seated::Releaser(lease));
            let asking = pin!(Some(asking::asking(engine, question, asker, look)));
            let first = first_answer(engine, asking, told());
            if let Ok(Some(told)) = timeout_at(limit, first).await {
                return told;
            }
        }
        told().await
    }
}

/// Tells the machine that its grant has reached the waiter.
fn took(entry: &mut Entry, turn: &mut Turn<'_>, id: WaiterId, told: Option<&Outcome>) {
    if let Some(Outcome::Granted(_)) = told {
        turn.feed(entry, Event::Took(id));
    }
}

/// What the answer to one's own question tells, or what one is told before; `None` if the answer
/// tells nothing.
async fn first_answer<T>(
    engine: &Arc<Engine>,
    mut asking: Pin<&mut Option<impl Future<Output = (Option<T>, Effects)>>>,
    told: impl Future<Output = T>,
) -> Option<T> {
    let mut told = pin!(told);
    let mut is_first = true;
    poll_fn(|context| {
        if let Some(asking) = asking.as_mut().as_pin_mut()
            && let Poll::Ready((told, effects)) = asking.poll(context)
        {
            effects.perform(engine);
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
