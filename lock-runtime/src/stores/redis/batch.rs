//! Which calls share a command.
//!
//! To run a script costs the server about as much as what a script does about one lock. So calls of
//! the same kind that wait together go as one command (`many.lua`), and each has its reply in that
//! to it.

use std::ptr;

use deadpool_redis::redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::call::{Call, OfScript, next_number, says};
use super::fault::{Fault, is_acl};

/// How many calls share a command at most. The server does nothing else meanwhile: usual calls take
/// it less than 5 µs each, and those that find waiters some 15.
const MOST: usize = 32;
/// For how many kinds of calls others are looked for. Most have all in common but lock and owner.
const KINDS: usize = 8;

/// Which calls may share a command.
#[derive(Clone, Copy)]
pub(super) struct Sharing {
    /// To which group the lock of this name belongs: a command is about locks of one group only.
    group: fn(&[u8]) -> u16,
    /// How many calls are enough.
    least: usize,
}

impl Sharing {
    /// One server holds all locks. A single call is better off by itself.
    pub(super) const ON_ONE_SERVER: Sharing = Sharing {
        group: |_| 0,
        least: 2,
    };

    /// The same, but a single call goes as if it had company.
    pub(super) const ALWAYS: Sharing = Sharing {
        group: |_| 0,
        least: 1,
    };

    /// Whether this call may go by itself without a look at others.
    pub(super) fn leaves_alone(self, calls: &[&mut Call]) -> bool {
        calls.len() < self.least
    }
}

/// What goes as one command: a call, or several that share it.
pub(super) struct Piece {
    /// By their indices.
    calls: SmallVec<[usize; 1]>,
    /// The number by which the reply to a command that is shared is known.
    number: Option<u64>,
}

/// Makes pieces of `calls`, in the order in which they are to be sent. No call goes ahead of an
/// earlier one about the same lock.
pub(super) fn pieces(calls: &[&mut Call], sharing: Sharing) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    // In which piece the last call about a lock is.
    let mut last: FxHashMap<u32, usize> = FxHashMap::default();
    for (index, call) in calls.iter().enumerate() {
        let run = call.of_script();
        let sharer = run.filter(|run| !run.alone && run.script.many.is_some());
        let mut place = pieces.len();
        if let Some(run) = sharer {
            let group = (sharing.group)(lock(run));
            let is_like = |open: &&mut Open| {
                let like = calls[open.like].of_script();
                open.group == group && like.is_some_and(|like| is_alike(like, run))
            };
            let ahead = last.get(&run.lock);
            match open.iter_mut().find(is_like) {
                Some(open)
                    if pieces[open.piece].calls.len() < MOST
                        && ahead.is_none_or(|ahead| *ahead <= open.piece) =>
                {
                    place = open.piece;
                }
                Some(open) => open.piece = place,
                None => {
                    if open.len() == KINDS {
                        open.remove(0);
                    }
                    open.push(Open {
                        piece: place,
                        group,
                        like: index,
                    });
                }
            }
        }
        if place == pieces.len() {
            let calls = SmallVec::new();
            pieces.push(Piece {
                calls,
                number: None,
            });
        }
        let piece = &mut pieces[place];
        piece.calls.push(index);
        if sharer.is_some() && piece.calls.len() == sharing.least {
            piece.number = Some(next_number());
        }
        if let Some(run) = run {
            last.insert(run.lock, place);
        }
    }
    pieces
}

/// A piece to which further calls may come.
struct Open {
    piece: usize,
    group: u16,
    /// One of its calls.
    like: usize,
}

/// The name of the lock that a call is about.
fn lock(run: &OfScript) -> &[u8] {
    match run.command.args_iter().nth(FIRST_KEY) {
        Some(Arg::Simple(name)) => name,
        _ => &[],
    }
}

/// Which argument of a command is the first key: before it are EVALSHA, the hash and the number of
/// keys.
const FIRST_KEY: usize = 3;

/// Whether two calls differ in nothing but lock, number and owner.
fn is_alike(one: &OfScript, other: &OfScript) -> bool {
    let shared = |run| arguments(run).skip(2);
    ptr::eq(one.script, other.script) && shared(one).eq(shared(other))
}

/// The number of the call, the owner, and the rest.
fn arguments(run: &OfScript) -> impl Iterator<Item = Arg<&[u8]>> {
    run.command.args_iter().skip(FIRST_KEY + run.script.keys)
}

fn keys(run: &OfScript) -> impl Iterator<Item = Arg<&[u8]>> {
    let words = run.command.args_iter();
    words.skip(FIRST_KEY).take(run.script.keys)
}

impl Piece {
    pub(super) fn write(&self, calls: &mut [&mut Call], pipeline: &mut Pipeline) {
        let shared = self.number.and_then(|number| self.command(number, calls));
        match shared {
            Some(command) => {
                pipeline.add_command(command);
            }
            None => {
                for index in &self.calls {
                    calls[*index].write(pipeline);
                }
            }
        }
    }

    /// What `many.lua` is called by.
    fn command(&self, number: u64, calls: &[&mut Call]) -> Option<Cmd> {
        let runs = || {
            self.calls
                .iter()
                .filter_map(|index| calls[*index].of_script())
        };
        let first = runs().next()?;
        let many = first.script.many.as_ref()?;
        let count = self.calls.len();
        let words = 16 + count * (first.script.keys + 1);
        let mut command = Cmd::with_capacity(words, 256 + words * 64);
        // The source comes along where the server has not known one of them.
        let is_known =
            |run: &OfScript| run.command.args_iter().next() == Some(Arg::Simple(b"EVALSHA"));
        match runs().all(is_known) {
            true => command.arg("EVALSHA").arg(&many.hash),
            false => command.arg("EVAL").arg(&many.source),
        };
        command.arg(count * first.script.keys);
        add(&mut command, runs().flat_map(keys));
        let shared = || arguments(first).skip(2);
        command.arg(number).arg(shared().count());
        add(&mut command, shared());
        add(&mut command, runs().filter_map(|run| arguments(run).nth(1)));
        Some(command)
    }

    /// Gives each call what belongs to it from the replies that `came`.
    pub(super) fn hear<'a>(
        &self,
        calls: &mut [&mut Call],
        came: &mut impl Iterator<Item = (&'a Cmd, Value)>,
    ) -> Result<(), Fault> {
        let Some(number) = self.number else {
            let mut alone = self.calls.iter();
            return alone.try_for_each(|index| calls[*index].hear(came));
        };
        let (_, reply) = came.next().ok_or(Fault::Lost(None))?;
        let replies = match reply {
            Value::Array(replies) if is_for(&replies, number, self.calls.len()) => replies,
            Value::ServerError(error) => {
                let error = RedisError::from(error);
                for index in &self.calls {
                    let call = &mut calls[*index];
                    // It was not executed, and one of the locks may be the reason.
                    match is_for_keys(&error) {
                        true => call.go_alone(),
                        false => call.hear_shared(number, Err(error.clone()))?,
                    }
                }
                return Ok(());
            }
            other => return Err(Fault::bad_reply(&other)),
        };
        for (index, reply) in self.calls.iter().zip(replies.into_iter().skip(1)) {
            calls[*index].hear_shared(number, reply.extract_error())?;
        }
        Ok(())
    }
}

fn add<'a>(command: &mut Cmd, words: impl Iterator<Item = Arg<&'a [u8]>>) {
    for word in words {
        if let Arg::Simple(word) = word {
            command.arg(word);
        }
    }
}

/// Whether these are what a command with this `number` for so many calls is answered.
fn is_for(replies: &[Value], number: u64, calls: usize) -> bool {
    let first = replies.first();
    first.is_some_and(|first| says(first, number)) && replies.len() == calls + 1
}

/// Whether a command was refused because of a key that it names.
fn is_for_keys(error: &RedisError) -> bool {
    is_acl(error) || error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
