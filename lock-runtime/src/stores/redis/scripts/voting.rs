//! The questions to a server that is one of several which vote, and their answers.

use std::time::Duration;

use deadpool_redis::redis::{Cmd, Value};
use lock_protocol::{Claim, Holder, LockKey, LostReason, Renewal};
use once_cell::sync::Lazy;

use super::{Call, Companion, Script, claim_arguments, holder, load, lost, millis, words};

static ACQUIRE: Lazy<Script> = Lazy::new(|| voting(include_str!("acquire.lua"), 5));
/// Does nothing, but that the server is known to vote from then on.
static ATTEND: Lazy<Script> = Lazy::new(|| voting("return ARGV[1] .. ' lost'\n", 3));
static RENEW: Lazy<Script> = Lazy::new(|| voting(include_str!("renew.lua"), 3));

/// A verb that votes, with so many keys.
fn voting(verb: &str, keys: usize) -> Script {
    Script::new(&include_str!("voting.lua").replace("-- verb\n", verb), keys)
}

/// What is asked of every server that votes.
#[derive(Clone, Copy, Debug)]
pub(in crate::stores) struct Terms {
    /// The fencing token to store.
    pub(in crate::stores) proposal: u64,
    /// For how long a server that may have lost its data votes for nobody.
    pub(in crate::stores) restart_delay: Duration,
    /// Whether the owner has a majority without this server.
    pub(in crate::stores) proven: bool,
}

/// What a server that votes answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stores) enum Vote {
    /// It is for the asker.
    Given {
        /// The largest fencing token that it knew before.
        before: u64,
        /// Its time, in microseconds.
        time: u64,
    },
    /// It is for another.
    Refused {
        /// What is left of that.
        holder: Holder,
        /// The token of that owner; empty if there is none.
        who: String,
        /// Whether the asker waits.
        queued: bool,
        /// Its time, in microseconds.
        time: u64,
    },
    /// It is no longer for the asker.
    Lost(LostReason),
    /// It is for nobody for so long.
    Away(Duration),
}

/// The commands that make a server that votes know its scripts.
pub(in crate::stores::redis) fn loads() -> Vec<Cmd> {
    [&ACQUIRE, &ATTEND, &RENEW]
        .map(|script| load(script))
        .into()
}

/// Asks for a vote for `claim`.
pub(in crate::stores::redis) fn vote(claim: &Claim, channel: &str, terms: Terms) -> Call {
    let mut command = ACQUIRE.command(&claim.key);
    command
        .arg(Companion::queue(&claim.key))
        .arg(Companion::counter(&claim.key))
        .arg(Companion::fence(&claim.key))
        .arg(Companion::marker(&claim.key));
    let mut call = Call::script(&ACQUIRE, &claim.key, command);
    claim_arguments(&mut call, claim, channel);
    terms_arguments(&mut call, terms);
    call
}

/// Makes the server known as one that votes, with the name of no lock.
pub(in crate::stores::redis) fn attend(name: &LockKey, terms: Terms) -> Call {
    let mut command = ATTEND.command(name);
    command
        .arg(Companion::fence(name))
        .arg(Companion::marker(name));
    let mut call = Call::script(&ATTEND, name, command);
    terms_arguments(&mut call, terms);
    call
}

/// Asks for the vote for a lease to go on, and for further fencing tokens.
pub(in crate::stores::redis) fn renew(renewal: &Renewal, terms: Terms) -> Call {
    let mut command = RENEW.command(&renewal.key);
    command
        .arg(Companion::fence(&renewal.key))
        .arg(Companion::marker(&renewal.key));
    let mut call = Call::script(&RENEW, &renewal.key, command);
    call.arg(renewal.owner.as_str()).arg(millis(renewal.ttl));
    // A lease that lives was not lost with the data.
    terms_arguments(
        &mut call,
        Terms {
            proven: true,
            ..terms
        },
    );
    call
}

fn terms_arguments(call: &mut Call, terms: Terms) {
    let delay = match terms.restart_delay.is_zero() {
        true => 0,
        false => millis(terms.restart_delay),
    };
    call.arg(terms.proposal)
        .arg(delay)
        .arg(u8::from(terms.proven));
}

/// The answer to [`vote`] or [`renew`]; `None` if no script answers like that.
pub(in crate::stores::redis) fn voted(reply: &Value) -> Option<Vote> {
    let mut words = words(reply);
    let word = words.next()?;
    let vote = match word {
        "granted" | "held" => {
            if word == "granted" {
                // What the counter of the server alone would give.
                words.next()?;
                words.next()?;
            }
            Vote::Given {
                before: words.next()?.parse().ok()?,
                time: words.next()?.parse().ok()?,
            }
        }
        "queued" | "taken" => {
            let holder = holder(&mut words)?;
            let time = words.next()?.parse().ok()?;
            // Another library's may contain anything.
            let who = words.by_ref().collect::<Vec<_>>().join(" ");
            Vote::Refused {
                holder,
                who,
                queued: word == "queued",
                time,
            }
        }
        "lost" => Vote::Lost(lost(&mut words)),
        "away" => Vote::Away(Duration::from_millis(words.next()?.parse().ok()?)),
        _ => return None,
    };
    words.next().is_none().then_some(vote)
}

/// The time of the server, in microseconds, as `TIME` tells it.
pub(in crate::stores::redis) fn time(reply: &Value) -> Option<u64> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let number = |value: &Value| match value {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    number(seconds)?
        .checked_mul(1_000_000)?
        .checked_add(number(micros)?)
}

/// What tells two servers apart: the name of the key and what it is to hold.
pub(in crate::stores::redis) fn probe_name(key: &LockKey) -> String {
    Companion::no_counter(key).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voted_by(line: &str) -> Option<Vote> {
        voted(&Value::BulkString(line.into()))
    }

    #[test]
    fn answers_are_read_as_they_are_written() {
        let given = |before, time| Some(Vote::Given { before, time });
        assert_eq!(voted_by("7 granted 20 10 5 99"), given(5, 99));
        assert_eq!(voted_by("7 held 5 99"), given(5, 99));
        assert_eq!(voted_by("7 lost"), Some(Vote::Lost(LostReason::NotHeld)));
        let taken = Vote::Lost(LostReason::TakenOver);
        assert_eq!(voted_by("7 lost taken"), Some(taken));
        let away = Vote::Away(Duration::from_millis(12));
        assert_eq!(voted_by("7 away 12"), Some(away));
        let refused = |who: &str, queued| {
            Some(Vote::Refused {
                holder: Holder::of_ours(Duration::from_millis(30)),
                who: who.to_owned(),
                queued,
                time: 99,
            })
        };
        assert_eq!(voted_by("7 queued 30 0 99 me"), refused("me", true));
        assert_eq!(voted_by("7 taken 30 0 99 a b"), refused("a b", false));
        assert_eq!(voted_by("7 taken 30 0 99 "), refused("", false));
        for odd in [
            "7 granted 20 10",
            "7 held",
            "7 away",
            "7 lost 1",
            "7 again",
            "7",
        ] {
            assert_eq!(voted_by(odd), None, "{odd}");
        }
    }
}
