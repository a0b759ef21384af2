//! A call: what is asked of a server in one piece, and whose replies are judged as one.
//!
//! It is a script or some commands until it is written. Redis pairs replies with questions by their
//! order alone, which a broken proxy may not keep: so each call has a number, which its replies
//! bear, and one that bears another gives the connection away.

use std::cell::RefCell;
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_redis::redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value,
    cmd,
};
use lock_protocol::LockKey;

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
    Script(OfScript),
    /// Plain commands, the last of which says the number. They are gone once they are in flight.
    Commands(Vec<Cmd>),
}

/// A script, by its hash until a server has said that it does not know it. Its reply is a line that
/// begins with a number.
pub(super) struct OfScript {
    pub(super) script: &'static Script,
    /// A number of the lock that it is about, the same for the same lock.
    pub(super) lock: u32,
    /// EVALSHA, the hash, the number of keys, these, the number of the call, and its arguments.
    /// Empty while it is in flight by itself.
    pub(super) command: Cmd,
    /// Whether it is not to share a command: one that it shared was refused before it was executed.
    pub(super) alone: bool,
}

/// A script and its hash.
pub(super) struct Script {
    pub(super) source: String,
    pub(super) hash: String,
    /// How many keys it has.
    pub(super) keys: usize,
    /// What runs it for many calls, if there is one (`many.lua`). Its own second argument is the
    /// owner then.
    pub(super) many: Option<Box<Script>>,
}

impl Call {
    fn new(run: impl FnOnce(u64) -> Run) -> Call {
        let number = next_number();
        let run = run(number);
        Call {
            number,
            run,
            reply: None,
        }
    }

    /// Runs `script` for `key`; its first argument is the number of the call. `command` is EVALSHA,
    /// the hash and the keys, of which `key` is the first.
    pub(super) fn script(script: &'static Script, key: &LockKey, mut command: Cmd) -> Call {
        Call::new(|number| {
            command.arg(number);
            Run::Script(OfScript {
                script,
                lock: key.hash_value(),
                command,
                alone: false,
            })
        })
    }

    /// Runs `commands` one after the other, each whether or not those before it failed.
    pub(super) fn commands(mut commands: Vec<Cmd>) -> Call {
        Call::new(|number| {
            commands.push(echo(number));
            Run::Commands(commands)
        })
    }

    /// Asks for a sign of life.
    pub(super) fn ping() -> Call {
        Call::commands(Vec::new())
    }

    /// One more argument of the script.
    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Call {
        if let Run::Script(run) = &mut self.run {
            run.command.arg(argument);
        }
        self
    }

    /// What it runs, if that is a script.
    pub(super) fn of_script(&self) -> Option<&OfScript> {
        match &self.run {
            Run::Script(run) => Some(run),
            Run::Commands(_) => None,
        }
    }

    /// The command of a script, word by word.
    #[cfg(test)]
    pub(super) fn words(&self) -> Vec<Vec<u8>> {
        let Some(run) = self.of_script() else {
            return Vec::new();
        };
        let words = run.command.args_iter().map(|argument| match argument {
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
    pub(super) fn is_of_wrong_server(&self) -> bool {
        match &self.reply {
            Some(Err(error)) => is_wrong_server(error),
            Some(Ok(Value::Array(replies))) => replies.iter().any(|reply| match reply {
                Value::ServerError(error) => is_wrong_server(&error.clone().into()),
                _ => false,
            }),
            _ => false,
        }
    }

    /// The command of a script that goes by itself.
    pub(super) fn take_command(&mut self) -> Option<Cmd> {
        match &mut self.run {
            Run::Script(run) => Some(take(&mut run.command)),
            Run::Commands(_) => None,
        }
    }

    pub(super) fn write(&mut self, pipeline: &mut Pipeline) {
        match &mut self.run {
            Run::Script(run) => {
                pipeline.add_command(take(&mut run.command));
            }
            Run::Commands(commands) => {
                for command in take(commands) {
                    pipeline.add_command(command);
                }
            }
        }
    }

    /// Takes what belongs to it from the replies that `came` to what was sent. It stays open if it
    /// is to be sent again. After an error, none of those that are left belongs to anything.
    pub(super) fn hear<'a>(
        &mut self,
        came: &mut impl Iterator<Item = (&'a Cmd, Value)>,
    ) -> Result<(), Fault> {
        let Run::Script(run) = &mut self.run else {
            let replies = pipelined(self.number, came)?;
            self.reply = Some(replies.map(Value::Array));
            return Ok(());
        };
        let (sent, reply) = came.next().ok_or(Fault::Lost(None))?;
        match judged(self.number, reply.extract_error())? {
            Heard::Reply(reply) => self.reply = Some(reply),
            Heard::Again => run.command = sent.clone(),
            Heard::Unknown(error) => match with_source(sent, run.script) {
                Some(whole) => run.command = whole,
                None => self.reply = Some(Err(error)),
            },
        }
        Ok(())
    }

    /// The same for its `reply` to a command that it shared with others, whose number was this.
    pub(super) fn hear_shared(&mut self, number: u64, reply: Reply) -> Result<(), Fault> {
        let Run::Script(run) = &mut self.run else {
            return Ok(());
        };
        match judged(number, reply)? {
            Heard::Reply(reply) => self.reply = Some(reply),
            Heard::Again => return Ok(()),
            Heard::Unknown(error) => match with_source(&run.command, run.script) {
                Some(whole) => {
                    run.command = whole;
                    return Ok(());
                }
                None => self.reply = Some(Err(error)),
            },
        }
        keep_for_later(take(&mut run.command));
        Ok(())
    }

    /// It goes by itself from now on.
    pub(super) fn go_alone(&mut self) {
        if let Run::Script(run) = &mut self.run {
            run.alone = true;
        }
    }
}

/// A number that no other call of this process has.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
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

/// Takes back what [`empty_command`] gave.
pub(super) fn keep_for_later(mut command: Cmd) {
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
    /// None: the same is to be sent in its place.
    Again,
    /// None: the server does not know the script.
    Unknown(RedisError),
}

/// Judges the `reply` to a script that was given this `number`.
fn judged(number: u64, reply: Reply) -> Result<Heard, Fault> {
    let value = match reply {
        Ok(value) => value,
        // Not executed, so it is safe to repeat; the source comes along this time.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            return Ok(Heard::Unknown(error));
        }
        Err(error) => return Ok(Heard::Reply(Err(error))),
    };
    match &value {
        Value::BulkString(line) => match split(line) {
            Some((own, b"again")) if own == number => Ok(Heard::Again),
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

fn is_echo(sent: &Cmd, number: u64) -> bool {
    let mut arguments = sent.args_iter();
    arguments.next() == Some(Arg::Simple(b"PING"))
        && matches!(arguments.next(), Some(Arg::Simple(own)) if parsed(own) == Some(number))
}

/// Whether this is what [`echo`] is answered.
pub(super) fn says(reply: &Value, number: u64) -> bool {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
