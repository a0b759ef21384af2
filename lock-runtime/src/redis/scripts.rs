//! The scripts as typed questions and typed answers: the only place that knows the order of their arguments and replies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::redis::{
    Arg, Cmd, ErrorKind, RedisError, RedisResult, Script as Hashed, ServerErrorKind, Value, cmd,
};
use once_cell::sync::Lazy;

use super::fault::Fault;
use crate::backend::{Acquired, Claim, Grant, Holder, Released, Renewal, Renewed};
use crate::fence::{FenceBlock, FencingToken};
use crate::key::{FENCE, LockKey, QUEUE};
use crate::owner::OwnerToken;

/// The number of the next call of a script. No two calls of a process have the same, so an answer cannot be taken for that to another.
static NEXT_CALL: AtomicU64 = AtomicU64::new(0);
/// Where its number stands in a call: behind EVALSHA, the hash, how many keys there are, and three keys.
const CALL_AT: usize = 6;

/// A script and its hash.
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    fn new(body: &str) -> Script {
        let source = body.replace("-- prelude\n", include_str!("scripts/prelude.lua"));
        let hash = Hashed::new(&source).get_hash().to_owned();
        Script { source, hash }
    }

    /// The command that runs the script by its hash: its keys, and the number of the call.
    fn call(&self, key: &LockKey) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.hash)
            .arg(3)
            .arg(key.stored())
            .arg(key.companion(QUEUE))
            .arg(key.companion(FENCE))
            .arg(NEXT_CALL.fetch_add(1, Ordering::Relaxed));
        call
    }
}

static ACQUIRE: Lazy<Script> = Lazy::new(|| Script::new(include_str!("scripts/acquire.lua")));
static RENEW: Lazy<Script> = Lazy::new(|| Script::new(include_str!("scripts/renew.lua")));
static RELEASE: Lazy<Script> = Lazy::new(|| Script::new(include_str!("scripts/release.lua")));
static ABANDON: Lazy<Script> = Lazy::new(|| Script::new(include_str!("scripts/abandon.lua")));

fn all() -> [&'static Script; 4] {
    [&ACQUIRE, &RENEW, &RELEASE, &ABANDON]
}

/// The commands that make the server know every script.
pub(super) fn loads() -> impl Iterator<Item = Cmd> {
    all().into_iter().map(|script| {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(&script.source);
        load
    })
}

/// The same call with the source of the script instead of its hash, for a server that does not know it.
fn with_source(call: &Cmd) -> Option<Cmd> {
    let mut arguments = call.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        // There are no others in the calls made here.
        _ => None,
    });
    if arguments.next()? != b"EVALSHA" {
        return None;
    }
    let hash = arguments.next()?;
    let script = all()
        .into_iter()
        .find(|script| script.hash.as_bytes() == hash)?;
    let mut full = cmd("EVAL");
    full.arg(&script.source);
    for argument in arguments {
        full.arg(argument);
    }
    Some(full)
}

/// What the scripts need from the server: the ACL rule for a user that may do nothing else.
pub(super) fn acl_rule(key_prefix: &str, channel_prefix: &str) -> String {
    format!(
        "+eval +evalsha +script|load +get +set +del +pexpire +pttl +time +zadd +zrange +zrem +zpopmin +publish +subscribe +ping \
         ~{key_prefix}* ~{{{key_prefix}* &{channel_prefix}*"
    )
}

/// Takes the lock for `claim`, which is woken through `channel`.
pub(super) fn acquire(claim: &Claim, channel: &str) -> Cmd {
    let mut call = ACQUIRE.call(&claim.key);
    claim_arguments(&mut call, claim, channel);
    call
}

/// Extends a lease.
pub(super) fn renew(renewal: &Renewal) -> Cmd {
    let mut call = RENEW.call(&renewal.key);
    call.arg(renewal.owner.as_str())
        .arg(millis(renewal.ttl))
        .arg(renewal.tokens);
    call
}

/// Ends the lease of `owner` and makes `next` a claim.
pub(super) fn release(
    key: &LockKey,
    owner: &OwnerToken,
    next: Option<&Claim>,
    channel: &str,
) -> Cmd {
    let mut call = RELEASE.call(key);
    call.arg(owner.as_str());
    if let Some(next) = next {
        claim_arguments(&mut call, next, channel);
    }
    call
}

/// Withdraws `claim`.
pub(super) fn abandon(claim: &Claim, channel: &str) -> Cmd {
    let mut call = ABANDON.call(&claim.key);
    call.arg(claim.owner.as_str()).arg(member(claim, channel));
    call
}

/// Gives back what was handed over to a claim that nobody here knows any more.
pub(super) fn give_back(key: &LockKey, owner: &str) -> Cmd {
    let mut call = ABANDON.call(key);
    call.arg(owner).arg("");
    call
}

fn claim_arguments(call: &mut Cmd, claim: &Claim, channel: &str) {
    call.arg(claim.owner.as_str())
        .arg(millis(claim.ttl))
        .arg(claim.tokens.max(1))
        .arg(member(claim, channel))
        .arg(millis(claim.heartbeat.saturating_mul(2)));
}

/// The claim's place in the queue, or nothing if it does not wait.
fn member(claim: &Claim, channel: &str) -> String {
    if claim.queue {
        let (grace, tokens) = (millis(claim.grace), claim.tokens.max(1));
        format!("{channel}/{grace}/{tokens}/{}", claim.owner)
    } else {
        String::new()
    }
}

/// Whole milliseconds, at least one (zero deletes), and few enough that the server can add them to its clock.
fn millis(duration: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
    let rounded = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(rounded).map_or(CENTURY, |millis| millis.clamp(1, CENTURY))
}

/// What a reply is to the call that it came for.
pub(super) enum Verdict {
    /// The answer, without the number of the call.
    Answer(RedisResult<Value>),
    /// None yet: this is to be sent in its place.
    Again(Cmd),
    /// Meant for another call. So may be all that come behind it: the connection is of no more use.
    Shifted(Fault),
}

/// Looks whether `reply` belongs to `call`: they are paired by their order alone, which a broken proxy may not keep.
pub(super) fn judge(call: &Cmd, reply: RedisResult<Value>) -> Verdict {
    let value = match reply {
        Ok(value) => value,
        // Not executed, so it is safe to repeat; the source comes along this time.
        Err(error) if is_unknown_script(&error) => {
            return with_source(call).map_or(Verdict::Answer(Err(error)), Verdict::Again);
        }
        Err(error) => return Verdict::Answer(Err(error)),
    };
    match (number(call), value) {
        (Some(number), Value::Array(mut items)) if is_numbered(&items, number) => {
            items.remove(0);
            if items[..] == [Value::Int(0)] {
                return Verdict::Again(call.clone());
            }
            Verdict::Answer(Ok(Value::Array(items)))
        }
        // Only scripts answer with a list.
        (Some(_), value) | (None, value @ Value::Array(_)) => {
            Verdict::Shifted(Fault::bad_reply(&value))
        }
        (None, value) => Verdict::Answer(Ok(value)),
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The number of this call; none if it calls no script.
fn number(call: &Cmd) -> Option<&[u8]> {
    match call.args_iter().nth(CALL_AT)? {
        Arg::Simple(number) => Some(number),
        _ => None,
    }
}

fn is_numbered(items: &[Value], number: &[u8]) -> bool {
    matches!(items.first(), Some(Value::BulkString(first)) if first == number)
}

/// The answer to [`acquire`] for a claim with this `ttl`; `None` if no script answers like that.
pub(super) fn acquired(reply: &Value, ttl: Duration) -> Option<Acquired> {
    became_of(items(reply), ttl)
}

/// What became of a claim with this `ttl`.
fn became_of(items: &[Value], ttl: Duration) -> Option<Acquired> {
    match items {
        [Value::Int(1), first, last] => Some(Acquired::Granted(Grant {
            tokens: block(first, last)?,
            valid_for: ttl,
        })),
        [Value::Int(2), remaining, foreign] => holder(remaining, foreign).map(Acquired::Queued),
        [Value::Int(3), remaining, foreign] => holder(remaining, foreign).map(Acquired::Taken),
        _ => None,
    }
}

/// The answer to [`renew`].
pub(super) fn renewed(reply: &Value) -> Option<Renewed> {
    match items(reply) {
        [Value::Int(1)] => Some(Renewed::Held(None)),
        [Value::Int(1), first, last] => Some(Renewed::Held(Some(block(first, last)?))),
        [Value::Int(2)] => Some(Renewed::Lost),
        _ => None,
    }
}

/// The answer to [`release`] with this `next` claim.
pub(super) fn released(reply: &Value, next: Option<&Claim>) -> Option<Released> {
    match (items(reply), next) {
        ([Value::Int(1)], None) => Some(Released::Released(None)),
        ([Value::Int(1), items @ ..], Some(next)) => {
            Some(Released::Released(Some(became_of(items, next.ttl)?)))
        }
        ([Value::Int(2)], _) => Some(Released::NotHeld),
        _ => None,
    }
}

/// The answer to [`abandon`].
pub(super) fn abandoned(reply: &Value) -> Option<()> {
    matches!(items(reply), [Value::Int(1)]).then_some(())
}

/// What a script tells the process of a waiter that it has made the owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandOver {
    /// The claim that is the owner now.
    pub(super) owner: String,
    /// The stored name of the lock.
    pub(super) lock: String,
    /// The lease.
    pub(super) grant: Grant,
}

/// Reads the message `first/last/grace_ms/length of the owner/owner, lock`, which anybody can publish.
pub(super) fn hand_over(message: &[u8]) -> Option<HandOver> {
    let text = std::str::from_utf8(message).ok()?;
    let mut parts = text.splitn(5, '/');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (first, last, grace_ms, owner_len) = (number()?, number()?, number()?, number()?);
    let (owner, lock) = parts
        .next()?
        .split_at_checked(usize::try_from(owner_len).ok()?)?;
    Some(HandOver {
        owner: owner.to_owned(),
        lock: lock.to_owned(),
        grant: Grant {
            tokens: fence_block(first, last)?,
            valid_for: Duration::from_millis(grace_ms),
        },
    })
}

/// Reads the message `next/grace_ms/owner`: the claim of `owner` is the next after one that was handed the lock for its grace.
pub(super) fn announcement(message: &[u8]) -> Option<(&str, Duration)> {
    let text = std::str::from_utf8(message).ok()?.strip_prefix("next/")?;
    let (grace_ms, owner) = text.split_once('/')?;
    Some((owner, Duration::from_millis(grace_ms.parse().ok()?)))
}

fn items(reply: &Value) -> &[Value] {
    match reply {
        Value::Array(items) => items,
        _ => &[],
    }
}

fn holder(remaining_ms: &Value, foreign: &Value) -> Option<Holder> {
    let (Value::Int(remaining_ms), Value::Int(foreign @ (0 | 1))) = (remaining_ms, foreign) else {
        return None;
    };
    Some(Holder {
        // Negative: it never ends.
        remaining: u64::try_from(*remaining_ms).ok().map(Duration::from_millis),
        foreign: *foreign == 1,
    })
}

fn block(first: &Value, last: &Value) -> Option<FenceBlock> {
    let (Value::Int(first), Value::Int(last)) = (first, last) else {
        return None;
    };
    fence_block(u64::try_from(*first).ok()?, u64::try_from(*last).ok()?)
}

fn fence_block(first: u64, last: u64) -> Option<FenceBlock> {
    (first <= last && last < 1 << 53).then_some(FenceBlock {
        first: FencingToken::new(first),
        last: FencingToken::new(last),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn array(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().map(|number| Value::Int(*number)).collect())
    }

    #[test]
    fn replies_that_no_script_gives_are_not_taken_for_others() {
        let ttl = Duration::from_secs(1);
        for reply in [
            Value::Nil,
            Value::Okay,
            array(&[]),
            array(&[0]),
            array(&[1]),
            array(&[1, 5, 4]),
            array(&[1, -1, 4]),
            array(&[1, 1, i64::MAX]),
            array(&[2, 10]),
            array(&[2, 10, 2]),
            array(&[9, 1, 1]),
            Value::Array(vec![Value::Int(1), Value::Nil, Value::Int(2)]),
        ] {
            assert_eq!(acquired(&reply, ttl), None, "{reply:?}");
        }
        assert_eq!(renewed(&array(&[3])), None);
        let next = Claim::new(
            LockKey::new("lock:", "k").unwrap(),
            OwnerToken::unique("o"),
            ttl,
        );
        assert_eq!(released(&array(&[1, 2]), None), None);
        assert_eq!(released(&array(&[1]), Some(&next)), None);
        assert_eq!(abandoned(&array(&[2])), None);
    }

    /// The reply of a script to the call with this number.
    fn numbered(number: &[u8], rest: &[i64]) -> RedisResult<Value> {
        let rest = rest.iter().map(|number| Value::Int(*number));
        let number = Value::BulkString(number.to_vec());
        Ok(Value::Array([number].into_iter().chain(rest).collect()))
    }

    #[test]
    fn a_reply_answers_the_call_whose_number_it_bears_and_no_other() {
        let key = LockKey::new("lock:", "k").unwrap();
        let call = give_back(&key, "owner");
        let own = number(&call).unwrap();
        let answer = |reply| match judge(&call, reply) {
            Verdict::Answer(Ok(value)) => Some(value),
            _ => None,
        };
        assert_eq!(answer(numbered(own, &[1])), Some(array(&[1])));

        let other = give_back(&key, "owner");
        for shifted in [
            numbered(number(&other).unwrap(), &[1]),
            numbered(b"", &[1]),
            Ok(array(&[1])),
            Ok(array(&[])),
            Ok(Value::Nil),
            Ok(Value::BulkString(own.to_vec())),
        ] {
            let verdict = judge(&call, shifted.clone());
            assert!(matches!(verdict, Verdict::Shifted(_)), "{shifted:?}");
        }
        let pong = Ok(Value::SimpleString("PONG".into()));
        assert!(matches!(
            judge(&cmd("PING"), pong),
            Verdict::Answer(Ok(Value::SimpleString(_)))
        ));
        assert!(matches!(
            judge(&cmd("PING"), numbered(own, &[1])),
            Verdict::Shifted(_)
        ));
    }

    #[test]
    fn a_call_keeps_its_number_when_it_is_made_again() {
        let key = LockKey::new("lock:", "k").unwrap();
        let call = give_back(&key, "owner");
        let own = number(&call).unwrap();
        let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
        let unknown = Err((no_script, "no such script").into());
        for reply in [numbered(own, &[0]), unknown] {
            let Verdict::Again(again) = judge(&call, reply.clone()) else {
                panic!("{reply:?} is taken for an answer");
            };
            assert_eq!(number(&again), Some(own));
        }
    }

    #[test]
    fn a_lease_without_end_has_no_remaining_time() {
        let taken = acquired(&array(&[3, -1, 1]), Duration::from_secs(1));
        let holder = Holder {
            remaining: None,
            foreign: true,
        };
        assert_eq!(taken, Some(Acquired::Taken(holder)));
    }

    #[test]
    fn a_hand_over_survives_slashes_in_owner_and_key() {
        let message = hand_over(b"7/9/500/5/a/b/clock:k/x").unwrap();
        assert_eq!(
            (message.owner.as_str(), message.lock.as_str()),
            ("a/b/c", "lock:k/x")
        );
        assert_eq!(message.grant.tokens.last, FencingToken::new(9));
        assert_eq!(message.grant.valid_for, Duration::from_millis(500));
    }

    #[test]
    fn an_announcement_is_no_hand_over() {
        let message = b"next/500/a/b";
        assert_eq!(
            announcement(message),
            Some(("a/b", Duration::from_millis(500)))
        );
        assert_eq!(hand_over(message), None);
        assert_eq!(announcement(b"7/9/500/5/a/b/clock:k/x"), None);
        assert_eq!(announcement(b"next/-1/a"), None);
    }

    #[test]
    fn nonsense_on_the_channel_is_no_hand_over() {
        let nonsense: [&[u8]; 8] = [
            b"",
            b"hello",
            b"1/2/3",
            b"1/2/3/4",
            b"1/2/3/99/short",
            b"2/1/3/1/ab",
            "1/2/3/1/\u{e9}".as_bytes(),
            b"1/2/3/1/\xff\xfe",
        ];
        for message in nonsense {
            assert_eq!(hand_over(message), None, "{message:?}");
        }
    }

    #[test]
    fn a_call_can_carry_its_source() {
        let key = LockKey::new("lock:", "k").unwrap();
        let call = give_back(&key, "owner");
        let full = with_source(&call).unwrap();
        let arguments = |cmd: &Cmd| cmd.args_iter().count();
        assert_eq!(arguments(&call), arguments(&full));
        assert!(with_source(&cmd("PING")).is_none());
    }

    #[test]
    fn milliseconds_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
        assert!(millis(Duration::MAX) < 1 << 53);
    }

    /// Any reply, most of them near to those of the scripts.
    fn replies() -> impl Strategy<Value = Value> {
        let number = prop_oneof![-2..5_i64, any::<i64>()].prop_map(Value::Int);
        let leaf = prop_oneof![
            4 => number,
            1 => Just(Value::Nil),
            1 => Just(Value::Okay),
            1 => any::<bool>().prop_map(Value::Boolean),
            1 => any::<f64>().prop_map(Value::Double),
            1 => any::<Vec<u8>>().prop_map(Value::BulkString),
            1 => any::<String>().prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(3, 16, 5, |part| {
            prop::collection::vec(part, 0..5).prop_map(Value::Array)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_reply_panics_and_no_grant_is_beyond_reason(reply in replies()) {
            let claim = Claim::new(LockKey::new("lock:", "k").unwrap(), OwnerToken::unique("o"), Duration::from_secs(1));
            let sane = |tokens: FenceBlock| tokens.first <= tokens.last && tokens.last < FencingToken::new(1 << 53);
            if let Some(Acquired::Granted(grant)) = acquired(&reply, claim.ttl) {
                prop_assert!(sane(grant.tokens) && grant.valid_for == claim.ttl);
            }
            if let Some(Renewed::Held(Some(tokens))) = renewed(&reply) {
                prop_assert!(sane(tokens));
            }
            for next in [None, Some(&claim)] {
                if let Some(Released::Released(Some(_))) = released(&reply, next) {
                    prop_assert!(next.is_some());
                }
            }
            let _ = abandoned(&reply);
            let call = acquire(&claim, "c");
            let is_its_own = is_numbered(items(&reply), number(&call).expect("a script"));
            prop_assert!(is_its_own || matches!(judge(&call, Ok(reply)), Verdict::Shifted(_)));
        }

        #[test]
        fn no_message_panics_and_a_true_one_is_read_as_it_was_written(
            noise in any::<Vec<u8>>(),
            text in "[0-9/-]{0,40}",
            first in 0..1_u64 << 52,
            more in 0..1000_u64,
            grace in any::<u32>(),
            owner in ".{0,20}",
            lock in ".{0,20}",
        ) {
            let _ = (hand_over(&noise), hand_over(text.as_bytes()));
            let last = first + more;
            let message = format!("{first}/{last}/{grace}/{}/{owner}{lock}", owner.len());
            let read = hand_over(message.as_bytes()).expect("a true message");
            prop_assert_eq!((read.owner, read.lock), (owner, lock));
            prop_assert_eq!(read.grant.tokens.last, FencingToken::new(last));
            prop_assert_eq!(read.grant.valid_for, Duration::from_millis(grace.into()));
        }
    }
}
