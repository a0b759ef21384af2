//! A call: what is asked of a server in one piece, and whose replies are judged as one.
//!
//! It is a script or some commands until it is written. Redis pairs replies with questions by their
//! order alone, which a broken proxy may not keep: so each call has a number, which its replies
//! bear, and one that bears another gives the connection away.

use std::cell::RefCell;
use std::iter::once;
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value,
    cmd,
};
use tokio::time::Instant;

use super::fault::{Fault, is_wrong_server};

/// What the server answered a call: what a script returned, or one element for each command, which
/// is an error where that command alone failed.
pub(super) type Reply = RedisResult<Value>;

/// What is asked of a server in one piece.
pub(super) struct Call {
    /// No two calls of a process have the same, so the replies to one are not taken for those to
    /// another.
    number: u64,
    run: Run,
    reply: Option<Reply>,
}

/// What a call runs.
enum Run {
    /// A script, by its hash until a server has said that it does not know it. Its reply is a line
    /// that begins with the number. The command is empty while it is in flight.
    Script {
        script: &'static Script,
        command: Cmd,
    },
    /// Plain commands, the last of which says the number. They are gone once they are in flight.
    Commands { commands: Vec<Cmd>, form: Form },
}

#[derive(Clone, Copy)]
enum Form {
    /// One after the other, as the server gets to them.
    Pipeline,
    /// All at once, or none.
    Transaction,
}

/// A script and its hash.
pub(super) struct Script {
    pub(super) source: String,
    pub(super) hash: String,
}

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

impl Call {
    fn new(run: impl FnOnce(u64) -> Run) -> Call {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let run = run(number);
        Call {
            number,
            run,
            reply: None,
        }
    }

    /// Runs `script`, whose first argument is the number of the call. `command` is EVALSHA, the
    /// hash and the keys.
    pub(super) fn script(script: &'static Script, mut command: Cmd) -> Call {
        Call::new(|number| {
            command.arg(number);
            Run::Script { script, command }
        })
    }

    /// Runs `commands` one after the other, each whether or not those before it failed.
    pub(super) fn commands(mut commands: Vec<Cmd>) -> Call {
        Call::new(|number| {
            commands.push(echo(number));
            let form = Form::Pipeline;
            Run::Commands { commands, form }
        })
    }

    /// Runs `commands` with nothing in between, unless the server refuses to queue one of them.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "all that is asked is a script yet")
    )]
    pub(super) fn transaction(commands: Vec<Cmd>) -> Call {
        Call::new(|number| {
            let ends = [echo(number), cmd("EXEC")];
            let commands = once(cmd("MULTI")).chain(commands).chain(ends).collect();
            let form = Form::Transaction;
            Run::Commands { commands, form }
        })
    }

    /// Asks for a sign of life.
    pub(super) fn ping() -> Call {
        Call::commands(Vec::new())
    }

    /// One more argument of the script.
    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Call {
        if let Run::Script { command, .. } = &mut self.run {
            command.arg(argument);
        }
        self
    }

    /// The command of a script, word by word.
    #[cfg(test)]
    pub(super) fn words(&self) -> Vec<Vec<u8>> {
        let Run::Script { command, .. } = &self.run else {
            return Vec::new();
        };
        let words = command.args_iter().map(|argument| match argument {
            Arg::Simple(word) => word.to_vec(),
            _ => Vec::new(),
        });
        words.collect()
    }

    /// Whether it has no reply yet.
    pub(super) fn is_open(&self) -> bool {
        self.reply.is_none()
    }

    pub(super) fn take_reply(&mut self) -> Option<Reply> {
        self.reply.take()
    }

    /// Whether another server is the one to ask.
    fn is_of_wrong_server(&self) -> bool {
        match &self.reply {
            Some(Err(error)) => is_wrong_server(error),
            Some(Ok(Value::Array(replies))) => replies.iter().any(|reply| match reply {
                Value::ServerError(error) => is_wrong_server(&error.clone().into()),
                _ => false,
            }),
            _ => false,
        }
    }

    fn write(&mut self, pipeline: &mut Pipeline) {
        match &mut self.run {
            Run::Script { command, .. } => {
                pipeline.add_command(take(command));
            }
            Run::Commands { commands, .. } => {
                for command in take(commands) {
                    pipeline.add_command(command);
                }
            }
        }
    }

    /// Takes what belongs to it from the replies that `came` to what was sent. It stays open if it
    /// is to be sent again. After an error, none of those that are left belongs to anything.
    fn hear<'a>(&mut self, came: &mut impl Iterator<Item = (&'a Cmd, Value)>) -> Result<(), Fault> {
        match &mut self.run {
            Run::Script { script, command } => {
                let (sent, reply) = came.next().ok_or(Fault::Lost(None))?;
                match of_script(self.number, sent, script, reply.extract_error())? {
                    Heard::Reply(reply) => self.reply = Some(reply),
                    Heard::Again(again) => *command = again,
                }
            }
            Run::Commands { form, .. } => {
                let replies = match form {
                    Form::Pipeline => pipelined(self.number, came)?,
                    Form::Transaction => executed(self.number, came)?,
                };
                self.reply = Some(replies.map(Value::Array));
            }
        }
        Ok(())
    }
}

/// How many commands a thread keeps for later.
const SPARE: usize = 8;

thread_local! {
    /// Empty commands, which have room: to make it costs more than to fill it.
    static SPARES: RefCell<Vec<Cmd>> = const { RefCell::new(Vec::new()) };
}

/// An empty command with room for so many arguments, of so many bytes in all.
pub(super) fn empty_command(arguments: usize, bytes: usize) -> Cmd {
    let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
    let spare = spare.ok().flatten();
    spare.unwrap_or_else(|| Cmd::with_capacity(arguments, bytes))
}

fn keep_for_later(mut command: Cmd) {
    command.clear();
    // A thread that ends keeps nothing.
    let _ = SPARES.try_with(|spares| {
        let mut spares = spares.borrow_mut();
        if spares.len() < SPARE {
            spares.push(command);
        }
    });
}

/// What says the number among plain commands. ECHO would need a permission of its own.
fn echo(number: u64) -> Cmd {
    let mut echo = cmd("PING");
    echo.arg(number);
    echo
}

/// What a reply is to the script that it came for.
enum Heard {
    Reply(Reply),
    /// None: this is to be sent in its place.
    Again(Cmd),
}

/// Judges the `reply` to a `script` that was `sent` like this.
fn of_script(number: u64, sent: &Cmd, script: &Script, reply: Reply) -> Result<Heard, Fault> {
    let value = match reply {
        Ok(value) => value,
        // Not executed, so it is safe to repeat; the source comes along this time.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            let again = with_source(sent, script).map(Heard::Again);
            return Ok(again.unwrap_or(Heard::Reply(Err(error))));
        }
        Err(error) => return Ok(Heard::Reply(Err(error))),
    };
    match &value {
        Value::BulkString(line) => match split(line) {
            Some((own, b"again")) if own == number => Ok(Heard::Again(sent.clone())),
            Some((own, _)) if own == number => Ok(Heard::Reply(Ok(value))),
            _ => Err(Fault::bad_reply(&value)),
        },
        _ => Err(Fault::bad_reply(&value)),
    }
}

/// The same command with the source of the script instead of its hash.
fn with_source(sent: &Cmd, script: &Script) -> Option<Cmd> {
    let mut arguments = sent.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        // There are no others in the calls made here.
        _ => None,
    });
    if arguments.next()? != b"EVALSHA" {
        return None;
    }
    let mut full = cmd("EVAL");
    full.arg(&script.source);
    for argument in arguments.skip(1) {
        full.arg(argument);
    }
    Some(full)
}

/// Judges the replies to commands that end with [`echo`].
fn pipelined<'a>(
    number: u64,
    came: &mut impl Iterator<Item = (&'a Cmd, Value)>,
) -> Result<RedisResult<Vec<Value>>, Fault> {
    let mut replies = Vec::new();
    for (sent, reply) in came {
        if !is_echo(sent, number) {
            replies.push(reply);
            continue;
        }
        return match reply.extract_error() {
            Ok(reply) if says(&reply, number) => Ok(Ok(replies)),
            Ok(reply) => Err(Fault::bad_reply(&reply)),
            Err(error) => Ok(Err(error)),
        };
    }
    Err(Fault::Lost(None))
}

/// Judges the replies to a transaction.
fn executed<'a>(
    number: u64,
    came: &mut impl Iterator<Item = (&'a Cmd, Value)>,
) -> Result<RedisResult<Vec<Value>>, Fault> {
    let mut refusal = None;
    for (sent, reply) in came {
        let is_exec = sent.args_iter().next() == Some(Arg::Simple(b"EXEC"));
        match reply {
            Value::Array(mut replies) if is_exec => {
                let last = replies.pop().unwrap_or(Value::Nil);
                return match says(&last, number) {
                    true => Ok(Ok(replies)),
                    false => Err(Fault::bad_reply(&last)),
                };
            }
            // Why it is not executed is told by the first refusal, and that it is not by the last.
            Value::ServerError(error) => {
                let refusal = refusal.get_or_insert_with(|| RedisError::from(error));
                if is_exec {
                    return Ok(Err(refusal.clone()));
                }
            }
            // "OK" for the beginning, "QUEUED" for the others; but for the reply to the last one
            // they tell nothing, and do not depend on what was asked.
            Value::Okay | Value::SimpleString(_) if !is_exec => {}
            // Also where the beginning was refused, and each command is executed by itself.
            _ if !is_exec && refusal.is_some() => {}
            other => return Err(Fault::bad_reply(&other)),
        }
    }
    Err(Fault::Lost(None))
}

fn is_echo(sent: &Cmd, number: u64) -> bool {
    let mut arguments = sent.args_iter();
    arguments.next() == Some(Arg::Simple(b"PING"))
        && matches!(arguments.next(), Some(Arg::Simple(own)) if parsed(own) == Some(number))
}

/// Whether this is what [`echo`] is answered.
fn says(reply: &Value, number: u64) -> bool {
    matches!(reply, Value::BulkString(own) if parsed(own) == Some(number))
}

/// The number with which the reply of a script begins, and the rest.
fn split(line: &[u8]) -> Option<(u64, &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (number, rest) = line.split_at(end);
    Some((parsed(number)?, rest.get(1..)?))
}

fn parsed(digits: &[u8]) -> Option<u64> {
    // Else a sign would do.
    digits.first().filter(|first| first.is_ascii_digit())?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Sends `calls` in one piece and gives each its reply; one that is to be sent again stays open.
/// What stays open after a fault has no answer.
///
/// The first poll puts them into the queue of the connection. All are open, and they are at least
/// one.
pub(super) async fn exchange(
    connection: &mut MultiplexedConnection,
    calls: &mut [&mut Call],
    sent_at: Instant,
    deadline: Instant,
) -> Result<Outcome, Fault> {
    let lost = |error: RedisError| match error.is_timeout() {
        true => Fault::NoAnswer(round(sent_at.elapsed())),
        false => Fault::Lost(Some(error)),
    };
    connection.set_response_timeout(deadline.saturating_duration_since(sent_at));
    if let [call] = calls
        && let Run::Script { command, .. } = &mut call.run
    {
        let sent = take(command);
        let reply = connection.send_packed_command(&sent).await.map_err(lost)?;
        let heard = call.hear(&mut once((&sent, reply)));
        keep_for_later(sent);
        heard?;
    } else {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in &mut *calls {
            call.write(&mut pipeline);
        }
        let count = pipeline.len();
        let sending = connection.send_packed_commands(&pipeline, 0, count);
        let mut came = pipeline.cmd_iter().zip(sending.await.map_err(lost)?);
        for call in &mut *calls {
            call.hear(&mut came)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
