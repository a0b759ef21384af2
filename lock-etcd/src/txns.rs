//! The transactions that move locks, and what their answers say.

use crate::fault::Fault;
use crate::layout::{self, Layout};
use crate::messages::{
    BY_CREATION, CREATION, Compare, DeleteRangeRequest, EQUAL, GREATER, Header, KeyValue, LEASE,
    OLDEST_FIRST, PutRequest, RangeRequest, Request, RequestOp, Response, ResponseOp, TxnRequest,
    TxnResponse, YOUNGEST_FIRST,
};

/// A claim that may be put into the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrant<'a> {
    pub(crate) owner: &'a str,
    /// Whether it waits where the lock is taken.
    pub(crate) queue: bool,
    pub(crate) lease: i64,
    /// Of the lease, in seconds.
    pub(crate) ttl: i64,
}

/// What a lock looked like at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) header: Header,
    /// The key of the claim that was asked for, where it was there already.
    pub(crate) own: Option<KeyValue>,
    /// The claim that holds the lock.
    pub(crate) oldest: Option<KeyValue>,
    /// The claim in front of the one that was asked for, if it waits.
    pub(crate) ahead: Option<KeyValue>,
    /// The claim that came last.
    pub(crate) youngest: Option<KeyValue>,
}

/// What became of a claim that was to be put into the queue.
#[derive(Clone, Debug)]
pub(crate) enum Entered {
    /// It has been put there, at the revision of the answer.
    Now(Seen),
    /// It was there before, as `own`, or it was refused, and `own` is empty.
    No(Seen),
}

/// Puts a claim into the queue, if it may be there, and looks at the lock.
pub(crate) fn enter(lock: &Layout, claim: Entrant<'_>) -> TxnRequest {
    let condition = if claim.queue {
        is_absent(lock.claim(claim.owner))
    } else {
        nobody(lock)
    };
    TxnRequest {
        compare: vec![is_absent(lock.gone(claim.owner)), condition],
        success: vec![put(lock, claim), oldest(lock), youngest(lock)],
        failure: vec![get(lock.claim(claim.owner)), oldest(lock), youngest(lock)],
    }
}

/// What `enter` brought.
pub(crate) fn entered(answer: TxnResponse) -> Result<Entered, Fault> {
    let header = answer.header.ok_or(Fault::Strange)?;
    let mut responses = answer.responses.into_iter();
    let own = match (answer.succeeded, responses.next()) {
        (true, Some(_)) => None,
        (false, own) => first(own)?,
        (true, None) => return Err(Fault::Strange),
    };
    let oldest = first(responses.next())?;
    let [youngest, ahead] = two(responses.next())?;
    let seen = Seen {
        header,
        own,
        oldest,
        // Only one that came last has the last but one in front of it.
        ahead: if answer.succeeded { ahead } else { None },
        youngest,
    };
    Ok(if answer.succeeded {
        Entered::Now(seen)
    } else {
        Entered::No(seen)
    })
}

/// Looks at a lock and at the claim that was put there at the revision `created`.
pub(crate) fn look(lock: &Layout, owner: &str, created: i64) -> TxnRequest {
    TxnRequest {
        compare: Vec::new(),
        success: vec![
            get(lock.claim(owner)),
            oldest(lock),
            youngest(lock),
            before(lock, created),
        ],
        failure: Vec::new(),
    }
}

/// What `look` brought.
pub(crate) fn looked(answer: TxnResponse) -> Result<Seen, Fault> {
    let header = answer.header.ok_or(Fault::Strange)?;
    let mut responses = answer.responses.into_iter();
    let own = first(responses.next())?;
    let oldest = first(responses.next())?;
    let [youngest, _] = two(responses.next())?;
    Ok(Seen {
        header,
        own,
        oldest,
        ahead: first(responses.next())?,
        youngest,
    })
}

/// Deletes the claim of the holder that was put there at `created`, which makes the next one the
/// holder, and puts the next claim of its process into the queue. One that is known to be the
/// holder stays it as long as it is there, so nothing else is looked at: a server looks at every
/// claim that there was since its last compaction.
pub(crate) fn release(
    lock: &Layout,
    owner: &str,
    created: i64,
    is_holder: bool,
    next: Option<Entrant<'_>>,
) -> TxnRequest {
    let mut success = vec![delete(lock.claim(owner))];
    if let Some(next) = next {
        let condition = if next.queue {
            is_absent(lock.claim(next.owner))
        } else {
            // Conditions see what was there before, when the holder was.
            none_after(lock, created)
        };
        success.push(op(Request::Txn(TxnRequest {
            compare: vec![is_absent(lock.gone(next.owner)), condition],
            success: vec![put(lock, next)],
            failure: vec![get(lock.claim(next.owner))],
        })));
        success.extend([oldest(lock), youngest(lock)]);
    }
    let mut compare = vec![is_of(lock.claim(owner), created)];
    if !is_holder {
        compare.push(none_before(lock, created));
    }
    TxnRequest {
        compare,
        success,
        failure: vec![get(lock.claim(owner))],
    }
}

/// What became of a release.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// It ended, and this became of the next claim, if there was one.
    Yes(Box<Option<Entered>>),
    /// The claim does not hold the lock. Whether it waits for it.
    No { waits: bool },
}

/// What `release` brought.
pub(crate) fn released(answer: TxnResponse, has_next: bool) -> Result<Ended, Fault> {
    let header = answer.header.ok_or(Fault::Strange)?;
    let mut responses = answer.responses.into_iter();
    if !answer.succeeded {
        let waits = first(responses.next())?.is_some();
        return Ok(Ended::No { waits });
    }
    responses.next().ok_or(Fault::Strange)?;
    if !has_next {
        return Ok(Ended::Yes(Box::new(None)));
    }
    let next = responses.next();
    let mut seen = Seen {
        header,
        oldest: first(responses.next())?,
        ..Seen::default()
    };
    let [youngest, ahead] = two(responses.next())?;
    seen.youngest = youngest;
    let Some(Response::Txn(next)) = next.and_then(|next| next.response) else {
        return Err(Fault::Strange);
    };
    let next = if next.succeeded {
        seen.ahead = ahead;
        Entered::Now(seen)
    } else {
        seen.own = first(next.responses.into_iter().next())?;
        Entered::No(seen)
    };
    Ok(Ended::Yes(Box::new(Some(next))))
}

/// Gives the claim that was put there at `created` another lease than `lease`, or the same once
/// more, which makes a new revision. It keeps its place.
///
/// One that comes late finds the claim by the lease that another has given it, and does nothing.
pub(crate) fn rewrite(lock: &Layout, created: i64, lease: i64, claim: Entrant<'_>) -> TxnRequest {
    let key = lock.claim(claim.owner);
    let has_lease = Compare {
        result: EQUAL,
        target: LEASE,
        key: key.clone(),
        create_revision: None,
        lease: Some(lease),
        range_end: Vec::new(),
    };
    TxnRequest {
        compare: vec![is_of(key, created), has_lease],
        success: vec![put(lock, claim)],
        failure: Vec::new(),
    }
}

/// Deletes a claim, if it is still the one that was put there at `created`.
pub(crate) fn withdraw(lock: &Layout, owner: &str, created: i64) -> TxnRequest {
    TxnRequest {
        compare: vec![is_of(lock.claim(owner), created)],
        success: vec![delete(lock.claim(owner))],
        failure: Vec::new(),
    }
}

/// Deletes a claim, and remembers it for as long as the lease `memory` lives.
pub(crate) fn bury(lock: &Layout, owner: &str, memory: i64) -> TxnRequest {
    let remember = op(Request::Put(PutRequest {
        key: lock.gone(owner),
        value: Vec::new(),
        lease: memory,
    }));
    TxnRequest {
        compare: Vec::new(),
        success: vec![delete(lock.claim(owner)), remember],
        failure: Vec::new(),
    }
}

/// Writes and reads what a lock needs, on a lock that nobody uses.
pub(crate) fn probe(lock: &Layout, claim: Entrant<'_>) -> TxnRequest {
    TxnRequest {
        compare: Vec::new(),
        success: vec![put(lock, claim), oldest(lock), get(lock.gone(claim.owner))],
        failure: Vec::new(),
    }
}

/// Reads these claims in one transaction, with the oldest of the lock for each of which it says so.
pub(crate) fn read<'a>(
    claims: impl IntoIterator<Item = (&'a Layout, &'a str, bool)>,
) -> TxnRequest {
    let mut success = Vec::new();
    for (lock, owner, with_oldest) in claims {
        success.push(get(lock.claim(owner)));
        if with_oldest {
            success.push(oldest(lock));
        }
    }
    TxnRequest {
        compare: Vec::new(),
        success,
        failure: Vec::new(),
    }
}

/// What a response to a range over at most one key says.
pub(crate) fn first(response: Option<ResponseOp>) -> Result<Option<KeyValue>, Fault> {
    Ok(two(response)?[0].take())
}

fn two(response: Option<ResponseOp>) -> Result<[Option<KeyValue>; 2], Fault> {
    match response.and_then(|response| response.response) {
        Some(Response::Range(range)) => {
            let mut found = range.kvs.into_iter();
            Ok([found.next(), found.next()])
        }
        _ => Err(Fault::Strange),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put(lock: &Layout, claim: Entrant<'_>) -> RequestOp {
    op(Request::Put(PutRequest {
        key: lock.claim(claim.owner),
        value: layout::value(claim.ttl),
        lease: claim.lease,
    }))
}

fn delete(key: Vec<u8>) -> RequestOp {
    op(Request::Delete(DeleteRangeRequest { key }))
}

fn get(key: Vec<u8>) -> RequestOp {
    op(Request::Range(RangeRequest {
        key,
        ..RangeRequest::default()
    }))
}

fn oldest(lock: &Layout) -> RequestOp {
    contenders(lock, OLDEST_FIRST, 1, 0)
}

/// And the one before it.
fn youngest(lock: &Layout) -> RequestOp {
    contenders(lock, YOUNGEST_FIRST, 2, 0)
}

fn before(lock: &Layout, created: i64) -> RequestOp {
    contenders(lock, YOUNGEST_FIRST, 1, created - 1)
}

fn contenders(lock: &Layout, sort_order: i32, limit: i64, max_create_revision: i64) -> RequestOp {
    op(Request::Range(RangeRequest {
        key: lock.contenders(),
        range_end: lock.contenders_end(),
        limit,
        sort_order,
        sort_target: BY_CREATION,
        max_create_revision,
    }))
}

fn is_absent(key: Vec<u8>) -> Compare {
    is_of(key, 0)
}

fn is_of(key: Vec<u8>, created: i64) -> Compare {
    Compare {
        result: EQUAL,
        target: CREATION,
        key,
        create_revision: Some(created),
        lease: None,
        range_end: Vec::new(),
    }
}

/// That no claim is there. An empty range passes as one key that is not there.
fn nobody(lock: &Layout) -> Compare {
    all(lock, EQUAL, 0)
}

/// That all claims were put there at `created` or later.
fn none_before(lock: &Layout, created: i64) -> Compare {
    all(lock, GREATER, created - 1)
}

/// That no claim was put there after the one at `created`, which is the oldest.
fn none_after(lock: &Layout, created: i64) -> Compare {
    all(lock, EQUAL, created)
}

fn all(lock: &Layout, result: i32, created: i64) -> Compare {
    Compare {
        result,
        target: CREATION,
        key: lock.contenders(),
        create_revision: Some(created),
        lease: None,
        range_end: lock.contenders_end(),
    }
}
