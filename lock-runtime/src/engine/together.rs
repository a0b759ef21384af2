//! Several locks by one question.
//!
//! It is asked only where nobody here holds or wants one of them, and takes all if all are free and
//! nobody waits: so it holds nothing while it waits for nothing. In every other case nothing has
//! happened, and the locks are taken one after the other.

use std::sync::Arc;

use lock_protocol::machine::{Answer, Event, Outcome, Verb, Waiter};
use lock_protocol::{Acquired, Claim, LockKey, Terms};
use tokio::time::timeout_at;

use super::asking::{self, InFlight};
use super::seats::Seated;
use super::waiting::{Joined, Waiting, took};
use super::{Engine, Hold, MARGIN, timer, within_tokio};
use crate::clock;
use crate::error::LockError;

/// More are not asked for at once: a script keeps all others waiting.
const MOST: usize = 16;

pub(super) async fn acquire(
    engine: &Arc<Engine>,
    keys: &[(LockKey, &'static str)],
    terms: Terms,
) -> Result<Option<Vec<Hold>>, LockError> {
    within_tokio()?;
    if keys.len() > MOST {
        return Ok(None);
    }
    let patience = engine.settings.command_timeout + 2 * MARGIN;
    let mut seats = Vec::with_capacity(keys.len());
    for (key, name) in keys {
        // A function of the user: no mutex is held.
        let owner = engine.settings.own_owner(key);
        let seat = None;
        let mut waiting = Waiting { engine, key, seat };
        let joined = waiting.join(name, true, |id, now| Waiter {
            id,
            terms,
            once: true,
            begins: false,
            deadline: now + patience + MARGIN,
            owner,
        });
        let joined = joined.await;
        let is_new = matches!(&joined, Ok(joined) if joined.question.is_some());
        if let Ok(Joined { told: Some(_), .. }) = &joined {
            waiting.seat = None;
        }
        match joined {
            Ok(joined) => seats.push((waiting, joined)),
            Err(error) => {
                not_taken(seats);
                return Err(error);
            }
        }
        if !is_new {
            not_taken(seats);
            return Ok(None);
        }
    }

    let now = clock::now();
    let mut claims = Vec::with_capacity(keys.len());
    let mut flights = Vec::with_capacity(keys.len());
    for (_, joined) in &mut seats {
        if let Some(ask) = joined.question.take() {
            if let Verb::Acquire(claim) = &ask.verb {
                claims.push(claim.clone());
            }
            flights.push(InFlight::of_a_caller(engine, ask, now));
        }
    }
    // Dropped before the questions: the lines are left before those are cut off, which are then
    // not asked again.
    let seats = seats;
    let limit = timer(asking::limit(engine, now));
    let answer = timeout_at(limit, engine.backend.acquire_all(&claims)).await;
    let grants = match answer {
        Ok(Ok(Some(grants))) if grants.len() == claims.len() => grants,
        Ok(Ok(None)) => {
            for ((mut waiting, joined), claim) in seats.into_iter().zip(&claims) {
                leave(&mut waiting, &joined, claim);
            }
            // Nothing came of them.
            flights.into_iter().for_each(|flight| drop(flight.land()));
            return Ok(None);
        }
        // It may have been done: the claims are withdrawn, as those of somebody who left. Whoever
        // asks one after the other finds out what is wrong.
        _ => {
            drop(seats);
            drop(flights);
            return Ok(None);
        }
    };
    let asks = flights.into_iter().filter_map(InFlight::land);
    let answers = grants.into_iter().map(Acquired::Granted);
    let mut told = Vec::with_capacity(keys.len());
    for (((waiting, joined), ask), answer) in seats.into_iter().zip(asks).zip(answers) {
        let id = joined.id;
        let outcome = engine.turn(waiting.key, |entry, turn| {
            turn.looker = Some(Seated::Waiter(id));
            let event = Event::Answered {
                ask: &ask,
                sent_at: now,
                answer: Answer::Acquired(answer),
                chance: clock::chance(),
            };
            turn.feed(entry, event);
            let outcome = entry.waiter_told(id);
            took(entry, turn, id, outcome.as_ref());
            outcome
        });
        told.push((waiting, joined, outcome));
    }
    let mut holds = Vec::with_capacity(keys.len());
    let mut is_complete = true;
    for ((mut waiting, joined, outcome), (key, name)) in told.into_iter().zip(keys) {
        let outcome = match outcome {
            Some(outcome) => {
                waiting.seat = None;
                outcome
            }
            // The answer was late, and the lock is asked for once more.
            None => {
                let deadline = joined.at + patience;
                waiting.outcome(joined.id, None, now, deadline).await
            }
        };
        match outcome.outcome {
            Outcome::Granted(granted) => {
                holds.push(Hold::new(engine, key, name, granted, terms.mode));
            }
            _ => is_complete = false,
        }
    }
    Ok(is_complete.then_some(holds))
}

/// Takes back the questions that were not asked.
fn not_taken(seats: Vec<(Waiting<'_>, Joined)>) {
    for (mut waiting, joined) in seats {
        if let Some(ask) = &joined.question
            && let Verb::Acquire(claim) = &ask.verb
        {
            leave(&mut waiting, &joined, claim);
        }
    }
}

/// Leaves the line of one key, in whose store nothing of the claim is.
fn leave(waiting: &mut Waiting<'_>, joined: &Joined, claim: &Claim) {
    waiting.seat = None;
    waiting.engine.turn(waiting.key, |entry, turn| {
        entry.leave_waiter(turn, joined.id);
        turn.feed(entry, Event::NotTaken(joined.id, &claim.owner));
    });
}
