//! The card by which a process says in the store what it is and what it holds.
//!
//! It is a text of lines, each a word and what it says, so that it can be read where the store is
//! looked at by its own tools. Words that are not known are of a later version.

use std::fmt::Write;
use std::time::Duration;

use lock_protocol::{Card, FencingToken, Process};

use super::LocalLock;

/// How long a lock has to be held to be named.
const WORTH_NAMING: Duration = Duration::from_secs(1);
/// How many are named.
const MOST_NAMED: usize = 64;

/// A process that uses the store, as [`LockRuntime::processes`](crate::LockRuntime::processes)
/// returns it. A process with several runtimes appears once for each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The id that is part of the owner tokens of its claims, and its process id on its host.
    pub process: Process,
    /// Its [`service`](crate::LockRuntimeBuilder::service), by default the name of the program.
    pub service: String,
    /// The name of its host.
    pub host: String,
    /// The version of this crate that it uses.
    pub version: String,
    /// The age of its runtime.
    pub up: Duration,
    /// Number of its tasks that wait for a lock.
    pub waiting: usize,
    /// Number of locks that it holds.
    pub held: usize,
    /// Those of its locks that it had held for longer than a second when it wrote the card, the
    /// oldest first, at most 64.
    pub locks: Vec<CardLock>,
    /// The age of the card.
    pub age: Duration,
}

/// A lock that a process holds, as its card lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardLock {
    /// Its name.
    pub name: String,
    /// Its key, without the prefix.
    pub key: String,
    /// The fencing token of its holder.
    pub fencing_token: FencingToken,
    /// Time for which it has been held by now, if it still is.
    pub held: Duration,
}

/// What a process writes on its card.
pub(crate) struct Written<'a> {
    pub(crate) service: &'a str,
    pub(crate) host: &'a str,
    pub(crate) up: Duration,
    pub(crate) waiting: usize,
    /// The locks that it holds, the oldest first.
    pub(crate) locks: &'a [LocalLock],
}

impl Written<'_> {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        line(&mut text, "service", self.service);
        line(&mut text, "host", self.host);
        line(&mut text, "version", env!("CARGO_PKG_VERSION"));
        // Nothing that is written to a string fails.
        let _ = writeln!(text, "up_ms {}", self.up.as_millis());
        let _ = writeln!(text, "waiting {}", self.waiting);
        let _ = writeln!(text, "held {}", self.locks.len());
        let worth = self.locks.iter().filter(|lock| lock.held > WORTH_NAMING);
        for lock in worth.take(MOST_NAMED) {
            let token = lock.fencing_token.as_u64();
            let _ = writeln!(text, "lock {token} {}", lock.held.as_millis());
            line(&mut text, "name", lock.name);
            line(&mut text, "key", lock.key.as_str());
        }
        text
    }
}

impl ProcessInfo {
    /// What the card says; `None` if it is none of ours.
    pub(crate) fn of(card: &Card) -> Option<ProcessInfo> {
        let process = card.id.split('.').next().and_then(Process::parse)?;
        let mut info = ProcessInfo {
            process,
            service: String::new(),
            host: String::new(),
            version: String::new(),
            up: card.age,
            waiting: 0,
            held: 0,
            locks: Vec::new(),
            age: card.age,
        };
        for line in card.text.lines() {
            let (word, said) = line.split_once(' ')?;
            match word {
                "service" => info.service = unescaped(said),
                "host" => info.host = unescaped(said),
                "version" => info.version = unescaped(said),
                "up_ms" => info.up += Duration::from_millis(said.parse().ok()?),
                "waiting" => info.waiting = said.parse().ok()?,
                "held" => info.held = said.parse().ok()?,
                "lock" => {
                    let (token, held_ms) = said.split_once(' ')?;
                    info.locks.push(CardLock {
                        name: String::new(),
                        key: String::new(),
                        fencing_token: FencingToken::new(token.parse().ok()?),
                        held: card.age + Duration::from_millis(held_ms.parse().ok()?),
                    });
                }
                "name" => info.locks.last_mut()?.name = unescaped(said),
                "key" => info.locks.last_mut()?.key = unescaped(said),
                _ => {}
            }
        }
        Some(info)
    }
}

fn line(text: &mut String, word: &str, said: &str) {
    let said = said.replace('\\', "\\\\").replace('\n', "\\n");
    let said = said.replace('\r', "\\r");
    let _ = writeln!(text, "{word} {said}");
}

fn unescaped(said: &str) -> String {
    let mut text = String::with_capacity(said.len());
    let mut letters = said.chars();
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.unwrap_or('\\'),
            },
            letter => letter,
        });
    }
    text
}

/// The name of the host; `-` if it is not known.
pub(crate) fn host() -> String {
    let linux = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = linux.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map_or_else(|| "-".to_owned(), |name| name.trim().to_owned())
}

/// The name of the program; `-` if it is not known.
pub(crate) fn program() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_stem());
    name.map_or_else(
        || "-".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use lock_protocol::LockKey;

    use super::*;

    fn card(text: String) -> Card {
        let mut card = Card::new("lock:".to_owned(), "0123456789abcdef-2a.1".to_owned(), text);
        card.age = Duration::from_secs(3);
        card
    }

    #[test]
    fn a_card_is_read_as_it_was_written() {
        let lock = |key: &str, secs| LocalLock {
            name: "coupon:<id>",
            key: LockKey::new("lock:", key).expect("a key"),
            fencing_token: FencingToken::new(7),
            held: Duration::from_secs(secs),
            remaining: Duration::ZERO,
            waiting: 0,
        };
        let locks = [lock("a\\n b\r\nc", 9), lock("d", 1)];
        let written = Written {
            service: "check out\n",
            host: "web-3",
            up: Duration::from_secs(60),
            waiting: 5,
            locks: &locks,
        };
        let mut text = written.text();
        text.push_str("of_a_later_version 1 2 3\n");
        let read = ProcessInfo::of(&card(text)).expect("a card");
        assert_eq!(
            (read.process.id(), read.process.pid()),
            (0x0123_4567_89ab_cdef, 42)
        );
        assert_eq!(
            (read.service.as_str(), read.host.as_str()),
            ("check out\n", "web-3")
        );
        assert_eq!((read.waiting, read.held), (5, 2));
        assert_eq!(read.up, Duration::from_secs(63));
        let [long] = &read.locks[..] else {
            panic!("one was held long enough: {read:?}");
        };
        assert_eq!(
            (long.name.as_str(), long.key.as_str()),
            ("coupon:<id>", "a\\n b\r\nc")
        );
        assert_eq!(long.fencing_token.as_u64(), 7);
        assert_eq!(long.held, Duration::from_secs(12));
    }

    #[test]
    fn what_is_no_card_is_left_out() {
        for text in ["service", "lock 1", "name x", "waiting many"] {
            assert_eq!(ProcessInfo::of(&card(text.to_owned())), None, "{text}");
        }
        let other = Card::new(String::new(), "nobody".to_owned(), String::new());
        assert_eq!(ProcessInfo::of(&other), None);
    }

    #[test]
    fn a_card_names_no_more_locks_than_it_has_room_for() {
        let lock = |number: usize| LocalLock {
            name: "-",
            key: LockKey::new("", &format!("k{number}")).expect("a key"),
            fencing_token: FencingToken::new(1),
            held: Duration::from_secs(2),
            remaining: Duration::ZERO,
            waiting: 0,
        };
        let locks: Vec<_> = (0..100).map(lock).collect();
        let written = Written {
            service: "",
            host: "",
            up: Duration::ZERO,
            waiting: 0,
            locks: &locks,
        };
        let read = ProcessInfo::of(&card(written.text())).expect("a card");
        assert_eq!((read.held, read.locks.len()), (100, MOST_NAMED));
    }
}
