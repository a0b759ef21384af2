//! The questions of those who look after locks, and their answers.

use std::str;
use std::time::Duration;

use deadpool_redis::redis::{Cmd, Value};
use lock_protocol::{Card, Inspected, LockKey, OwnerToken, Waiting};
use once_cell::sync::Lazy;

use super::{Call, Companion, Script, millis, words};
use crate::stores::redis::call::empty_command;

static CARD: Lazy<Script> = Lazy::new(|| Script::new(include_str!("card.lua"), 2));
static CARDS: Lazy<Script> = Lazy::new(|| Script::new(include_str!("cards.lua"), 1));
static INSPECT: Lazy<Script> = Lazy::new(|| Script::new(include_str!("inspect.lua"), 3));
static WELL: Lazy<Script> = Lazy::new(|| Script::new(include_str!("well.lua"), 1));

#[cfg(test)]
pub(super) fn all() -> [&'static Script; 4] {
    [&CARD, &CARDS, &INSPECT, &WELL]
}

/// Leaves the card, or takes it away if `ttl` is zero. `name` is that of any lock with its prefix.
pub(in crate::stores::redis) fn leave_card(name: &LockKey, card: &Card, ttl: Duration) -> Call {
    let mut command = evalsha(&CARD);
    command
        .arg(Companion::card(name, &card.id))
        .arg(Companion::processes(name));
    let mut call = Call::script(&CARD, name, command);
    let ttl_ms = match ttl.is_zero() {
        true => 0,
        false => millis(ttl),
    };
    call.arg(&card.id).arg(ttl_ms).arg(&card.text);
    call
}

/// Asks for the cards of the processes whose locks have the prefix of `name`, which is of any lock.
pub(in crate::stores::redis) fn cards(name: &LockKey) -> Call {
    let mut command = evalsha(&CARDS);
    command.arg(Companion::processes(name));
    let mut call = Call::script(&CARDS, name, command);
    told_cards(&mut call, name);
    call
}

/// Asks who holds the lock, and who waits for it.
pub(in crate::stores::redis) fn inspect(key: &LockKey) -> Call {
    let mut command = INSPECT.command(key);
    command
        .arg(Companion::queue(key))
        .arg(Companion::processes(key));
    let mut call = Call::script(&INSPECT, key, command);
    call.arg(Inspected::MOST_NAMED - 1);
    told_cards(&mut call, key);
    call
}

/// Asks whether a lock could be granted, such as one with the prefix of `name`, which is of none.
pub(in crate::stores::redis) fn well(name: &LockKey) -> Call {
    let mut command = evalsha(&WELL);
    command.arg(Companion::no_counter(name));
    Call::script(&WELL, name, command)
}

fn evalsha(script: &Script) -> Cmd {
    let mut command = empty_command(8, 320);
    command.arg("EVALSHA").arg(&script.hash).arg(script.keys);
    command
}

/// What the cards of the prefix are called, and how long they stay.
fn told_cards(call: &mut Call, name: &LockKey) {
    let [open, prefix, close, _, behind] = Companion::card(name, "").parts();
    let before = [open, prefix, close].concat();
    call.arg(before).arg(behind).arg(millis(Card::TTL));
}

/// The answer to [`leave_card`] and [`well`]; `None` if no script answers like that.
pub(in crate::stores::redis) fn done(reply: &Value) -> Option<()> {
    let mut words = words(reply);
    let word = words.next()?;
    (["left", "well"].contains(&word) && words.next().is_none()).then_some(())
}

/// The answer to [`cards`].
pub(in crate::stores::redis) fn told(reply: &Value, prefix: &str) -> Option<Vec<Card>> {
    let mut texts = Texts::of(reply)?;
    let mut cards = Vec::new();
    (texts.words.next()? == "cards").then_some(())?;
    while let Some(word) = texts.words.next() {
        cards.push(texts.card(word, prefix)?);
    }
    texts.is_empty().then_some(cards)
}

/// The answer to [`inspect`].
pub(in crate::stores::redis) fn inspected(
    reply: &Value,
    key: &LockKey,
) -> Option<Option<Inspected>> {
    if words(reply).eq(["free"]) {
        return Some(None);
    }
    let mut texts = Texts::of(reply)?;
    (texts.words.next()? == "held").then_some(())?;
    // Negative: it never ends.
    let remaining_ms: i64 = texts.number()?;
    let remaining = u64::try_from(remaining_ms).ok().map(Duration::from_millis);
    let waiting = texts.number()?;
    (texts.words.next()? == "owner").then_some(())?;
    let mut inspected = Inspected::new(OwnerToken::new(texts.text()?), remaining);
    inspected.waiting = waiting;
    while let Some(word) = texts.words.next() {
        if word == "card" {
            inspected.cards.push(texts.card(word, key.prefix())?);
            continue;
        }
        let is_listening = match word {
            "hears" => true,
            "deaf" => false,
            _ => return None,
        };
        let mut waiter = Waiting::new(OwnerToken::new(texts.text()?));
        waiter.is_listening = Some(is_listening);
        inspected.waiters.push(waiter);
    }
    texts.is_empty().then_some(Some(inspected))
}

/// A reply of words, which tell among others how long the texts behind them are.
struct Texts<'a> {
    words: str::Split<'a, char>,
    rest: &'a [u8],
}

impl<'a> Texts<'a> {
    fn of(reply: &'a Value) -> Option<Texts<'a>> {
        let Value::BulkString(reply) = reply else {
            return None;
        };
        let end = reply.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = reply.split_at(end);
        let mut words = str::from_utf8(line).ok()?.split(' ');
        // The number of the call.
        words.next()?;
        let rest = rest.get(1..)?;
        Some(Texts { words, rest })
    }

    fn number<T: str::FromStr>(&mut self) -> Option<T> {
        self.words.next()?.parse().ok()
    }

    /// The next text. What others wrote may be none.
    fn text(&mut self) -> Option<String> {
        let length = self.number()?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Option<String> {
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn card(&mut self, word: &str, prefix: &str) -> Option<Card> {
        (word == "card").then_some(())?;
        let (age_ms, id, text) = (self.number()?, self.number()?, self.number()?);
        let (id, text) = (self.take(id)?, self.take(text)?);
        let mut card = Card::new(prefix.to_owned(), id, text);
        card.age = Duration::from_millis(age_ms);
        Some(card)
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn replies_are_read_as_the_scripts_write_them() {
        let key = LockKey::new("lock:", "k").unwrap();
        assert_eq!(inspected(&reply("7 free"), &key), Some(None));
        let text = "7 held -1 9 owner 3 hears 1 deaf 2 card 1200 3 4\na\nbxyzp-1line";
        let told = inspected(&reply(text), &key).unwrap().unwrap();
        assert_eq!((told.owner.as_str(), told.remaining), ("a\nb", None));
        assert_eq!(told.waiting, 9);
        let waiters = told.waiters.iter();
        let waiters: Vec<_> = waiters
            .map(|waiter| (waiter.owner.as_str(), waiter.is_listening))
            .collect();
        assert_eq!(waiters, [("x", Some(true)), ("yz", Some(false))]);
        let card = &told.cards[0];
        assert_eq!((card.id.as_str(), card.text.as_str()), ("p-1", "line"));
        assert_eq!(card.age, Duration::from_millis(1_200));
    }

    #[test]
    fn replies_that_no_script_gives_are_not_taken_for_others() {
        let key = LockKey::new("lock:", "k").unwrap();
        for wrong in [
            "7 held 1 9 owner 3\nab",
            "7 held 1 9 owner 1\nab",
            "7 held 1 owner 1\na",
            "7 held 1 9 owner 1 heard 1\nab",
            "7 held 1 9 owner 18446744073709551615\na",
            "7 free now",
            "",
        ] {
            assert_eq!(inspected(&reply(wrong), &key), None, "{wrong}");
            assert_eq!(super::told(&reply(wrong), "lock:"), None, "{wrong}");
            assert_eq!(done(&reply(wrong)), None, "{wrong}");
        }
        assert_eq!(inspected(&Value::Nil, &key), None);
    }
}
