//! The scripts for leases that go together with others.

use deadpool_redis::redis::Value;
use lock_protocol::{Contended, LockKey, Mode, OwnerToken};
use once_cell::sync::Lazy;

use super::{
    Call, ENTER, EXTEND, LEAVE, Named, Script, Words, claim_arguments, earlier, holder, lost,
    millis, tokens, words,
};
use crate::backend::{Acquired, Claim, Extension, Grant, Release, Renewal, Renewed};

/// For operators: so no connection begins with it.
static EVICT: Lazy<Script> = Lazy::new(|| Script::new(include_str!("evict.lua"), 3));

/// What a claim of this mode wants, as `company.lua` tells it; `None` if that is the lock alone.
pub(in crate::stores::redis) fn want(mode: &Mode) -> Option<String> {
    match mode {
        Mode::Shared => Some("s".to_owned()),
        Mode::Permits { take, of } => Some(format!("p:{take}:{of}")),
        Mode::Shard { of, prefer, except } => Some(format!("h:{of}:{prefer}:{except:016x}")),
        _ => None,
    }
}

/// Takes a lease for `claim`, which wants `want` and is told like this.
pub(in crate::stores::redis) fn enter(claim: &Claim, want: &str, told: Named<'_>) -> Call {
    let mut call = ENTER.call(&claim.key);
    claim_arguments(&mut call, claim, told.channel);
    call.arg(want);
    earlier(&mut call, claim, told);
    call
}

/// Extends a lease of who wants `want`.
pub(in crate::stores::redis) fn extend(renewal: &Renewal, want: &str) -> Call {
    let mut call = EXTEND.call(&renewal.key);
    call.arg(renewal.owner.as_str())
        .arg(want)
        .arg(renewal.shard)
        .arg(millis(renewal.ttl))
        .arg(u8::from(renewal.tokens > 0));
    call
}

/// Ends a lease of who wants `want`, and keeps it taken if that is asked for.
pub(in crate::stores::redis) fn leave(release: &Release, want: &str) -> Call {
    let key: &LockKey = &release.key;
    let mut call = LEAVE.call(key);
    call.arg(release.owner.as_str())
        .arg(want)
        .arg(release.shard)
        .arg(release.keep.map_or(0, millis));
    call
}

/// Ends the lease of `owner`, whatever it has of the lock.
pub(in crate::stores::redis) fn evict(key: &LockKey, owner: &OwnerToken) -> Call {
    let mut call = EVICT.call(key);
    call.arg(owner.as_str());
    call
}

/// The answer to [`enter`] for this claim; `None` if no script answers like that.
pub(in crate::stores::redis) fn entered(reply: &Value, claim: &Claim) -> Option<Acquired> {
    let mut words = words(reply);
    let became = match words.next()? {
        "granted" => {
            let tokens = tokens(&mut words, claim.tokens)?;
            let mut grant = Grant::new(tokens, claim.ttl);
            grant.shard = words.next()?.parse().ok()?;
            grant.contended = contended(&mut words)?;
            Acquired::Granted(grant)
        }
        "queued" => Acquired::Queued(holder(&mut words)?),
        "taken" => Acquired::Taken(holder(&mut words)?),
        _ => return None,
    };
    words.next().is_none().then_some(became)
}

/// The answer to [`extend`].
pub(in crate::stores::redis) fn extended(reply: &Value, renewal: &Renewal) -> Option<Renewed> {
    let mut words = words(reply);
    let tokens = match words.next()? {
        "held" => None,
        "granted" => Some(tokens(&mut words, renewal.tokens)?),
        "lost" => {
            let reason = lost(&mut words);
            return words.next().is_none().then_some(Renewed::Lost(reason));
        }
        _ => return None,
    };
    let mut extension = Extension::with_tokens(tokens);
    extension.contended = contended(&mut words)?;
    words.next().is_none().then_some(Renewed::Held(extension))
}

fn contended(words: &mut Words<'_>) -> Option<Contended> {
    match words.next()? {
        "0" => Some(Contended::No),
        "1" => Some(Contended::Yes),
        _ => None,
    }
}
