//! An exchange: calls that are sent in one piece, and the replies to them.

use std::iter::once;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Pipeline, RedisError};
use tokio::time::Instant;

use super::batch::{Sharing, pieces};
use super::call::{Call, keep_for_later};
use super::fault::Fault;

/// How an exchange with the server went, as far as the connection is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// Not in time.
    Unanswered,
    /// The connection is of no more use.
    Broken,
}

impl Outcome {
    /// Of an exchange that ended with this fault.
    pub(super) fn of(fault: &Fault) -> Outcome {
        match fault {
            Fault::NoAnswer(_) => Outcome::Unanswered,
            _ => Outcome::Broken,
        }
    }
}

/// Sends `calls` in one piece and gives each its reply; one that is to be sent again stays open.
/// What stays open after a fault has no answer.
///
/// The first poll puts them into the queue of the connection. All are open, and they are at least
/// one.
pub(super) async fn exchange(
    connection: &mut MultiplexedConnection,
    calls: &mut [&mut Call],
    sharing: Sharing,
    sent_at: Instant,
    deadline: Instant,
) -> Result<Outcome, Fault> {
    let lost = |error: RedisError| match error.is_timeout() {
        true => Fault::NoAnswer(round(sent_at.elapsed())),
        false => Fault::Lost(Some(error)),
    };
    connection.set_response_timeout(deadline.saturating_duration_since(sent_at));
    if sharing.leaves_alone(calls)
        && let [call] = calls
        && let Some(sent) = call.take_command()
    {
        let reply = connection.send_packed_command(&sent).await.map_err(lost)?;
        let heard = call.hear(&mut once((&sent, reply)));
        keep_for_later(sent);
        heard?;
    } else {
        let pieces = pieces(calls, sharing);
        let mut pipeline = Pipeline::with_capacity(pieces.len());
        for piece in &pieces {
            piece.write(calls, &mut pipeline);
        }
        let count = pipeline.len();
        let sending = connection.send_packed_commands(&pipeline, 0, count);
        let mut came = pipeline.cmd_iter().zip(sending.await.map_err(lost)?);
        for piece in &pieces {
            piece.hear(calls, &mut came)?;
        }
    }
    Ok(match calls.iter().any(|call| call.is_of_wrong_server()) {
        true => Outcome::Broken,
        false => Outcome::Answered,
    })
}

fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
