//! The scripts as typed questions and typed answers: the only place that knows the order of their
//! arguments and replies.

pub(super) mod company;
pub(super) mod inspecting;
pub(in crate::stores) mod voting;

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use deadpool_redis::redis::{
    Cmd, RedisResult, RedisWrite, Script as Hashed, ToRedisArgs, ToSingleRedisArg, Value, cmd,
};
use lock_protocol::{FenceBlock, FencingToken, LockKey, LostReason, OwnerToken, Process};
use once_cell::sync::Lazy;

use super::call::{Call, Script, empty_command};
use super::companion::Companion;
use super::config::ForeignGap;
use super::fault::{Fault, is_acl, is_unknown_command};
use crate::backend::{Acquired, Claim, Extension, Grant, Holder, Released, Renewal, Renewed};

/// How long the server remembers a claim that was withdrawn while a question of it may have been on
/// its way: longer than a proxy or a server that stands still keeps back what comes from
/// connections that have ended.
const GONE: Duration = Duration::from_secs(30);
/// How long a hand-over may leave it to an earlier one to keep the queue alive.
const A_SECOND: Duration = Duration::from_secs(1);
/// What the scripts share, by the line in whose place it is put; what contains others comes first.
const FRAGMENTS: [(&str, &str); 10] = [
    ("-- prelude\n", include_str!("scripts/prelude.lua")),
    ("-- company\n", include_str!("scripts/company.lua")),
    ("-- offer\n", include_str!("scripts/offer.lua")),
    ("-- place\n", include_str!("scripts/place.lua")),
    ("-- move\n", include_str!("scripts/move.lua")),
    ("-- gap\n", include_str!("scripts/in_gap.lua")),
    ("-- take\n", include_str!("scripts/take.lua")),
    ("-- draw\n", include_str!("scripts/draw.lua")),
    ("-- outlive\n", include_str!("scripts/outlive.lua")),
    ("-- tell card\n", include_str!("scripts/tell_card.lua")),
];

/// What runs a script for many calls, but for the script.
const MANY: &str = include_str!("scripts/many.lua");
/// What `draw.lua` finds in a script that is run for one call.
const DRAWN_AT: &str = "local instant, second\n";

impl Script {
    /// A script with these keys, which are in the order of those of `prelude.lua`.
    fn new(body: &str, keys: usize) -> Script {
        let source = with_fragments(&[DRAWN_AT, body].concat());
        let hash = Hashed::new(&source).get_hash().to_owned();
        Script {
            source,
            hash,
            keys,
            many: None,
        }
    }

    /// The same for a script that many calls can share, and what is quicker for all of them at
    /// once.
    fn shared(body: &str, ahead: &str, keys: usize) -> Script {
        let many = MANY.replace("-- one\n", body);
        let source = with_fragments(&many.replace("-- ahead\n", ahead));
        let hash = Hashed::new(&source).get_hash().to_owned();
        let many = Script {
            source,
            hash,
            keys,
            many: None,
        };
        Script {
            many: Some(Box::new(many)),
            ..Script::new(body, keys)
        }
    }

    /// EVALSHA, the hash, the number of the keys, and the first of these.
    fn command(&self, key: &LockKey) -> Cmd {
        self.command_for(1, key)
    }

    /// The same for so many locks, of which `key` is the first.
    fn command_for(&self, locks: usize, key: &LockKey) -> Cmd {
        // Enough for a release with a next claim, which has the most arguments.
        let mut command = empty_command(12, 320 + 3 * key.stored().len());
        command
            .arg("EVALSHA")
            .arg(&self.hash)
            .arg(self.keys * locks)
            .arg(key.stored());
        command
    }

    /// A call of the script with its keys.
    fn call(&'static self, key: &LockKey) -> Call {
        let mut command = self.command(key);
        if self.keys > 1 {
            command
                .arg(Companion::queue(key))
                .arg(Companion::counter(key));
        }
        Call::script(self, key, command)
    }
}

fn with_fragments(body: &str) -> String {
    let put_in = |source: String, (line, fragment): &(&str, &str)| source.replace(line, fragment);
    FRAGMENTS.iter().fold(body.to_owned(), put_in)
}

/// The source of the script in the file of this name.
macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("scripts/", $name, ".lua"))
    };
}

/// A script by the name of its file, with so many keys.
macro_rules! script {
    ($name:literal, $keys:literal) => {
        Lazy::new(|| Script::new(source!($name), $keys))
    };
}

/// The commands that make the server know every script but those of voters.
pub(super) fn loads() -> Vec<Cmd> {
    all().map(load).collect()
}

static ACQUIRE: Lazy<Script> =
    Lazy::new(|| Script::shared(source!("acquire"), source!("acquire_ahead"), 3));
/// It has so many keys for each lock.
static ACQUIRE_ALL: Lazy<Script> = script!("acquire_all", 3);
/// It has no other key than the lock itself.
static RENEW: Lazy<Script> = Lazy::new(|| Script::shared(source!("renew"), "", 1));
static RESERVE: Lazy<Script> = script!("reserve", 3);
static RELEASE: Lazy<Script> =
    Lazy::new(|| Script::shared(source!("release"), source!("release_ahead"), 3));
static HAND_OVER: Lazy<Script> = script!("hand_over", 3);
static KEEP: Lazy<Script> = script!("keep", 3);
/// Few need it, so no server is told of it ahead.
static GAP: Lazy<Script> = script!("gap", 3);
static ABANDON: Lazy<Script> = script!("abandon", 3);
static ENTER: Lazy<Script> = script!("enter", 3);
static EXTEND: Lazy<Script> = script!("extend", 3);
static LEAVE: Lazy<Script> = script!("leave", 3);
static PROBE: Lazy<Script> = script!("probe", 3);

fn all() -> impl Iterator<Item = &'static Script> {
    let scripts = [
        &ACQUIRE,
        &ACQUIRE_ALL,
        &RENEW,
        &RESERVE,
        &RELEASE,
        &HAND_OVER,
        &KEEP,
        &ABANDON,
        &ENTER,
        &EXTEND,
        &LEAVE,
    ];
    let with_many = |script: &'static Lazy<Script>| [Some(&**script), script.many.as_deref()];
    scripts.into_iter().flat_map(with_many).flatten()
}

fn load(script: &Script) -> Cmd {
    let mut load = cmd("SCRIPT");
    load.arg("LOAD").arg(&script.source);
    load
}

/// The commands that try everything that the scripts need, on the keys of no lock.
pub(super) fn probes(key: &LockKey, channel: &str) -> [Cmd; 2] {
    ["EVAL", "EVALSHA"].map(|name| {
        let script = match name {
            "EVAL" => &PROBE.source,
            _ => &PROBE.hash,
        };
        let mut probe = cmd(name);
        probe
            .arg(script)
            .arg(3)
            .arg(key.stored())
            .arg(Companion::queue(key))
            // The true one is in use.
            .arg(Companion::no_counter(key))
            .arg(channel);
        probe
    })
}

/// Whether the server, which answered the [`probes`] like this, has what the scripts need. What
/// fails for other reasons may not do so for long.
pub(super) fn probed(replies: impl Iterator<Item = RedisResult<Value>>) -> Result<(), Fault> {
    for (reply, name) in replies.zip(["EVAL", "EVALSHA"]) {
        match reply {
            Ok(Value::BulkString(unknown)) if !unknown.is_empty() => {
                let unknown = String::from_utf8_lossy(&unknown).into_owned();
                return Err(Fault::Command(unknown));
            }
            Ok(_) => {}
            Err(error) if is_unknown_command(&error) => {
                return Err(Fault::Command(name.to_owned()));
            }
            Err(error) if is_acl(&error) => return Err(Fault::Refused(error)),
            Err(_) => {}
        }
    }
    Ok(())
}

/// What the scripts need from the server: the ACL rule for a user that may do nothing else. A new
/// user of Redis 6.2 may use all channels, and is allowed none by name until that is taken away.
pub(super) fn acl_rule(key_prefix: &str, channel_prefix: &str) -> String {
    format!(
        "+eval +evalsha +script|load +exists +get +mget +set +del +pexpire +pttl +time +zadd +zrange +zrem +zscore +zpopmin +publish +subscribe +ping \
         ~{key_prefix}* ~{{{key_prefix}* resetchannels &{channel_prefix}*"
    )
}

/// The same for whoever may look at the locks of others as well.
pub(super) fn operator_rule(key_prefix: &str, channel_prefix: &str) -> String {
    let service = acl_rule(key_prefix, channel_prefix);
    service.replacen(" ~", " +zcard +pubsub|numsub ~", 1)
}

/// By which channel a claim is told of its turn, which is a part of its place in the queue.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) channel: &'a str,
    /// By which it was to be told before: it may be queued with that still.
    pub(super) earlier: Option<&'a str>,
}

/// Takes the lock for `claim`, which is told like this.
pub(super) fn acquire(claim: &Claim, told: Named<'_>) -> Call {
    let mut call = ACQUIRE.call(&claim.key);
    claim_arguments(&mut call, claim, told.channel);
    earlier(&mut call, claim, told);
    call
}

/// Takes the locks of all `claims`, or none; `None` if there is no claim.
pub(super) fn acquire_all(claims: &[Claim]) -> Option<Call> {
    let (first, others) = claims.split_first()?;
    let mut command = ACQUIRE_ALL.command_for(claims.len(), &first.key);
    command
        .arg(Companion::queue(&first.key))
        .arg(Companion::counter(&first.key));
    for Claim { key, .. } in others {
        command
            .arg(key.stored())
            .arg(Companion::queue(key))
            .arg(Companion::counter(key));
    }
    let mut call = Call::script(&ACQUIRE_ALL, &first.key, command);
    for claim in claims {
        call.arg(claim.owner.as_str()).arg(millis(claim.ttl));
    }
    Some(call)
}

/// Extends a lease.
pub(super) fn renew(renewal: &Renewal) -> Call {
    let mut call = if renewal.tokens == 0 {
        RENEW.call(&renewal.key)
    } else {
        RESERVE.call(&renewal.key)
    };
    call.arg(renewal.owner.as_str()).arg(millis(renewal.ttl));
    call
}

/// Ends the lease of `owner` and makes `next` a claim.
pub(super) fn release(
    key: &LockKey,
    owner: &OwnerToken,
    next: Option<(&Claim, Named<'_>)>,
) -> Call {
    // Whoever has a next claim has it because others want the lock.
    let script = next.map_or(&RELEASE, |_| &HAND_OVER);
    let mut call = script.call(key);
    call.arg(owner.as_str());
    if let Some((next, told)) = next {
        claim_arguments(&mut call, next, told.channel);
    }
    call
}

/// The same, and leaves the lock free for a while before it is handed over.
pub(super) fn release_with_gap(
    key: &LockKey,
    owner: &OwnerToken,
    next: Option<(&Claim, Named<'_>)>,
    gap: ForeignGap,
) -> Call {
    let mut call = GAP.call(key);
    call.arg(owner.as_str())
        .arg(millis(gap.every))
        .arg(millis(gap.gap));
    if let Some((next, told)) = next {
        claim_arguments(&mut call, next, told.channel);
    }
    call
}

/// Ends the lease of `owner` and leaves the lock taken for `rest`.
pub(super) fn keep(key: &LockKey, owner: &OwnerToken, rest: Duration) -> Call {
    let mut call = KEEP.call(key);
    call.arg(owner.as_str()).arg(millis(rest));
    call
}

/// Withdraws `claim`, which is told like this.
pub(super) fn abandon(claim: &Claim, told: Named<'_>) -> Call {
    let mut call = ABANDON.call(&claim.key);
    call.arg(claim.owner.as_str());
    place(&mut call, claim, told.channel);
    call.arg(millis(GONE)).arg(u8::from(claim.in_doubt));
    match company::want(&claim.mode) {
        Some(want) => {
            call.arg(want);
            earlier(&mut call, claim, told);
        }
        None => earlier(&mut call, claim, told),
    }
    call
}

/// Gives back what was handed over to a claim that nobody here knows any more.
pub(super) fn give_back(key: &LockKey, owner: &str, want: Option<&str>) -> Call {
    let mut call = ABANDON.call(key);
    call.arg(owner).arg("").arg(0).arg(0);
    if let Some(want) = want {
        call.arg(want);
    }
    call
}

fn claim_arguments(call: &mut Call, claim: &Claim, channel: &str) {
    call.arg(claim.owner.as_str()).arg(millis(claim.ttl));
    place(call, claim, channel);
    let queue = claim.heartbeat.saturating_mul(2).saturating_add(A_SECOND);
    call.arg(millis(queue));
}

/// The claim's place in the queue, as `place.lua` tells it; nothing if it does not wait.
fn place(call: &mut Call, claim: &Claim, channel: &str) {
    if !claim.queue {
        call.arg("");
        return;
    }
    let (tokens, key) = (claim.tokens, &claim.key);
    let (prefix, name, width) = (key.prefix().len(), key.stored().len(), channel.len());
    let grace = millis(claim.grace);
    let digits = grace.ilog10() + 1;
    let want = company::want(&claim.mode);
    let (slash, mode) = match &want {
        Some(_) => ("/", 'c'),
        None => ("", 'x'),
    };
    let want = want.as_deref().unwrap_or_default();
    call.arg(Text(format_args!(
        "{slash}{want}/{tokens:010}/{prefix:04}/{name:04}/{channel}/{grace}/{width:04}/{digits:02}/{mode}"
    )));
}

/// The place where the claim may stand as well, since it was to be told by another before.
fn earlier(call: &mut Call, claim: &Claim, told: Named<'_>) {
    if let (true, Some(earlier)) = (claim.queue, told.earlier) {
        place(call, claim, earlier);
    }
}

/// An argument that is written where it goes, without a string in between.
struct Text<T>(T);

impl<T: Display> ToRedisArgs for Text<T> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(&self.0);
    }
}

impl<T: Display> ToSingleRedisArg for Text<T> {}

/// The same, quicker than by formatting.
impl ToRedisArgs for Companion<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut name = out.writer_for_next_arg();
        for part in self.parts() {
            // It is a buffer.
            let _ = name.write_all(part.as_bytes());
        }
    }
}

impl ToSingleRedisArg for Companion<'_> {}

/// Whole milliseconds, at least one (zero deletes), and few enough that the server can add them to
/// its clock.
fn millis(duration: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
    let rounded = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(rounded).map_or(CENTURY, |millis| millis.clamp(1, CENTURY))
}

/// The answer to [`acquire`] for this claim; `None` if no script answers like that.
pub(super) fn acquired(reply: &Value, claim: &Claim) -> Option<Acquired> {
    became_of(words(reply), claim)
}

/// The answer to [`acquire_all`].
pub(super) fn acquired_all(reply: &Value, claims: &[Claim]) -> Option<Option<Vec<Grant>>> {
    let mut words = words(reply);
    let grants = match words.next()? {
        "granted" => {
            let grants = claims.iter().map(|claim| {
                let tokens = tokens(&mut words, claim.tokens)?;
                Some(Grant::new(tokens, claim.ttl))
            });
            Some(grants.collect::<Option<_>>()?)
        }
        "taken" => None,
        _ => return None,
    };
    words.next().is_none().then_some(grants)
}

fn became_of(mut words: Words<'_>, claim: &Claim) -> Option<Acquired> {
    let became = match words.next()? {
        "granted" => {
            let tokens = tokens(&mut words, claim.tokens)?;
            Acquired::Granted(Grant::new(tokens, claim.ttl))
        }
        "queued" => Acquired::Queued(holder(&mut words)?),
        "taken" => Acquired::Taken(holder(&mut words)?),
        _ => return None,
    };
    words.next().is_none().then_some(became)
}

/// The answer to [`renew`].
pub(super) fn renewed(reply: &Value, renewal: &Renewal) -> Option<Renewed> {
    let mut words = words(reply);
    let renewed = match words.next()? {
        "held" => Renewed::held(),
        "granted" => {
            let tokens = tokens(&mut words, renewal.tokens)?;
            Renewed::Held(Extension::with_tokens(Some(tokens)))
        }
        "lost" => Renewed::Lost(lost(&mut words)),
        _ => return None,
    };
    words.next().is_none().then_some(renewed)
}

/// The answer to [`release`] with this `next` claim.
pub(super) fn released(reply: &Value, next: Option<&Claim>) -> Option<Released> {
    let mut words = words(reply);
    let released = match (words.next()?, next) {
        ("released", Some(next)) => {
            return Some(Released::Released(Some(became_of(words, next)?)));
        }
        ("released", None) => Released::Released(None),
        ("lost", _) => Released::NotHeld,
        _ => return None,
    };
    words.next().is_none().then_some(released)
}

/// The answer to [`abandon`].
pub(super) fn abandoned(reply: &Value) -> Option<()> {
    words(reply).eq(["withdrawn"]).then_some(())
}

/// What a script tells the process of a waiter that it has made the owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandOver {
    /// The claim that is the owner now.
    pub(super) owner: String,
    /// Which lock.
    pub(super) key: LockKey,
    /// The lease.
    pub(super) grant: Grant,
    /// What the claim wants, if it goes together with others.
    pub(super) want: Option<String>,
}

/// Reads the message of `offer.lua`, which anybody can publish.
pub(super) fn hand_over(message: &[u8]) -> Option<HandOver> {
    let text = std::str::from_utf8(message).ok()?;
    // Of what goes together with others it is told which shard it is.
    let (is_alone, rest) = match text.split_once('/')? {
        ("x", rest) => (true, rest),
        ("c", rest) => (false, rest),
        _ => return None,
    };
    let mut parts = rest.splitn(if is_alone { 3 } else { 4 }, '/');
    let old = parts.next()?.parse().ok()?;
    let last = parts.next()?.parse().ok()?;
    let shard = if is_alone {
        0
    } else {
        parts.next()?.parse().ok()?
    };
    // From the end, since what comes first may contain slashes: mode, digits and width, which are
    // for the script, the grace, the channel, and what the claim was.
    let mut fields = parts.next()?.rsplitn(9, '/').skip(3);
    let grace_ms = fields.next()?.parse().ok()?;
    let name_len = fields.nth(1)?.parse().ok()?;
    let prefix_len = fields.next()?.parse().ok()?;
    let wanted = fields.next()?.parse().ok()?;
    let (name, owner) = fields.next()?.split_at_checked(name_len)?;
    let (prefix, key) = name.split_at_checked(prefix_len)?;
    let (owner, want) = match is_alone {
        true => (owner, None),
        false => owner
            .rsplit_once('/')
            .map(|(owner, want)| (owner, Some(want.to_owned())))?,
    };
    let mut grant = Grant::new(drawn(old, last, wanted)?, Duration::from_millis(grace_ms));
    grant.shard = shard;
    Some(HandOver {
        owner: owner.to_owned(),
        // What no lock can be named by is no lock of ours.
        key: LockKey::new(prefix, key).ok()?,
        grant,
        want,
    })
}

/// Reads the message `next/remaining_ms/owner`: the claim of `owner` is the first of the queue, and
/// the lease before it ends then.
pub(super) fn announcement(message: &[u8]) -> Option<(&str, Duration)> {
    let text = std::str::from_utf8(message).ok()?.strip_prefix("next/")?;
    let (remaining_ms, owner) = text.split_once('/')?;
    Some((owner, Duration::from_millis(remaining_ms.parse().ok()?)))
}

type Words<'a> = std::str::Split<'a, char>;

/// The words of a reply, but for the number of the call.
fn words(reply: &Value) -> Words<'_> {
    let line = match reply {
        Value::BulkString(line) => std::str::from_utf8(line).unwrap_or_default(),
        _ => "",
    };
    let mut words = line.split(' ');
    words.next();
    words
}

fn holder(words: &mut Words<'_>) -> Option<Holder> {
    let remaining_ms = words.next()?.parse::<i64>().ok()?;
    // Negative: it never ends.
    let remaining = u64::try_from(remaining_ms).ok().map(Duration::from_millis);
    let mut holder = match words.next()? {
        "0" => Holder::of_ours(Duration::ZERO),
        "1" => Holder::foreign(remaining),
        _ => return None,
    };
    holder.remaining = remaining;
    // It stands there only if it is known.
    let mut rest = words.clone();
    holder.process = rest.next().and_then(Process::parse);
    if holder.process.is_some() {
        *words = rest;
    }
    Some(holder)
}

/// Why a lease was lost.
fn lost(words: &mut Words<'_>) -> LostReason {
    let mut rest = words.clone();
    let reason = match rest.next() {
        Some("gone") => LostReason::Deleted,
        Some("taken") => LostReason::TakenOver,
        _ => return LostReason::NotHeld,
    };
    *words = rest;
    reason
}

/// The tokens that were drawn for one who `wanted` so many.
fn tokens(words: &mut Words<'_>, wanted: u32) -> Option<FenceBlock> {
    let last = words.next()?.parse().ok()?;
    let old = words.next()?.parse().ok()?;
    drawn(old, last, wanted)
}

/// What a counter that was raised from `old` to `last` gives: the newest of the tokens between, so
/// that all are above what was drawn from a counter that was lost.
fn drawn(old: u64, last: u64, wanted: u32) -> Option<FenceBlock> {
    let first = last
        .saturating_sub(wanted.saturating_sub(1).into())
        .max(old.checked_add(1)?);
    (first <= last && last < 1 << 53).then_some(FenceBlock {
        first: FencingToken::new(first),
        last: FencingToken::new(last),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
