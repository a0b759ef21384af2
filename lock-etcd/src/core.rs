//! What a backend consists of, and what its verbs have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{
    Acquired, Claim, Contended, FenceBlock, FencingToken, Grant, Holder, OwnerToken, Process, Sinks,
};
use tokio::runtime::Handle;

use crate::book::{Book, Entry};
use crate::client::{Client, method};
use crate::fault::Fault;
use crate::layout::{Layout, ttl_of};
use crate::leases::{Lease, Leases};
use crate::messages::{KeyValue, TxnRequest, TxnResponse};
use crate::mistake::Mistake;
use crate::txns::{self, Entrant, Seen};
use crate::watching::Watching;

/// How many fencing tokens there are to a revision.
const TOKENS: u64 = 1024;

/// What the verbs of a backend share; they run on its thread.
pub(crate) struct Core {
    pub(crate) client: Arc<Client>,
    pub(crate) leases: Leases,
    pub(crate) watching: Watching,
    pub(crate) book: Arc<Book>,
    pub(crate) sinks: Arc<Sinks>,
    pub(crate) handle: Handle,
    #[cfg(lock_mistakes)]
    pub(crate) mistake: Option<Mistake>,
}

impl Core {
    /// Whether this protection has been taken out.
    #[cfg(lock_mistakes)]
    pub(crate) fn made(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// None can be.
    #[cfg(not(lock_mistakes))]
    pub(crate) fn made(&self, _: Mistake) -> bool {
        false
    }

    pub(crate) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Fault> {
        self.client.ask(method::TXN, txn).await
    }

    /// Ends a lease that nobody may use any more, in the background: if that fails, it ends with
    /// its ttl.
    pub(crate) fn discard(self: &Arc<Core>, lease: Lease) {
        let core = Arc::clone(self);
        self.handle.spawn(async move {
            let _ = core.leases.revoke(lease.id).await;
        });
    }

    /// The same, unless a claim may live by it that is known here. None comes to use it later.
    pub(crate) fn discard_unless_used(self: &Arc<Core>, lease: Lease) {
        if !self.book.uses(lease.id, None) {
            self.leases.take_out(lease.id);
            self.discard(lease);
        }
    }

    /// Keeps the lease of a claim that ended and is forgotten, or ends it where that claim may
    /// still be heard of. Where another claim lives by it, it is left to that.
    pub(crate) fn end(self: &Arc<Core>, lease: Lease, in_doubt: bool) {
        if in_doubt || lease.proven.is_none() {
            self.discard_unless_used(lease);
        } else if !self.book.uses(lease.id, None) {
            self.leases.put_back(lease);
        }
    }

    /// Forgets a claim and its watcher.
    pub(crate) fn forget(&self, owner: &str) -> Option<Entry> {
        let entry = self.book.remove(owner)?;
        if let Some(watched) = &entry.watched {
            self.watching.forget(watched);
        }
        Some(entry)
    }

    /// The claim holds the lock, as was seen; its lease lives for what is left of it since `asked`.
    pub(crate) fn granted(
        &self,
        claim: &Claim,
        lease: &Lease,
        seen: &Seen,
        asked: Instant,
    ) -> Result<Acquired, Fault> {
        let grant = self.grant(claim, lease, seen, asked)?;
        let created = seen.oldest.as_ref().map(|oldest| oldest.create_revision);
        let mut watched = None;
        self.book.change(claim.owner.as_str(), |entry| {
            entry.created = created;
            entry.owns = true;
            entry.lease = *lease;
            entry.turn = None;
            watched = entry.watched.take();
        });
        if let Some(watched) = watched {
            self.watching.forget(&watched);
        }
        Ok(Acquired::Granted(grant))
    }

    fn grant(
        &self,
        claim: &Claim,
        lease: &Lease,
        seen: &Seen,
        asked: Instant,
    ) -> Result<Grant, Fault> {
        let valid_for = lease.left(asked).min(claim.ttl);
        if valid_for.is_zero() {
            return Err(Fault::TooLate);
        }
        let tokens = tokens(seen.header.revision, claim.tokens)?;
        let mut grant = Grant::new(tokens, valid_for);
        grant.contended = contended(seen);
        Ok(grant)
    }

    /// The claim waits, as was seen: listens for the end of the one in front of it.
    pub(crate) fn waits(
        &self,
        claim: &Claim,
        lease: &Lease,
        created: i64,
        seen: &Seen,
    ) -> Acquired {
        self.listen(&claim.owner, created, seen);
        self.book
            .change(claim.owner.as_str(), |entry| entry.lease = *lease);
        Acquired::Queued(holder(seen.oldest.as_ref()))
    }

    /// Listens for the end of the claim in front of one that waits.
    pub(crate) fn listen(&self, owner: &OwnerToken, created: i64, seen: &Seen) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        // Whatever is in front, it is there.
        let Some(ahead) = seen.ahead.as_ref().or(seen.oldest.as_ref()) else {
            return;
        };
        let revision = seen.header.revision;
        let watched = self
            .watching
            .watch(&entry.key, owner, &ahead.key, revision, entry.watched);
        self.book.change(owner.as_str(), |entry| {
            entry.created = Some(created);
            entry.owns = false;
            entry.turn = None;
            entry.watched = Some(watched);
        });
    }

    /// The lock is another's, and the claim does not wait.
    pub(crate) async fn taken(&self, oldest: Option<&KeyValue>) -> Result<Acquired, Fault> {
        let mut holder = holder(oldest);
        if let Some(oldest) = oldest.filter(|oldest| oldest.lease != 0) {
            holder.remaining = Some(self.leases.remaining(oldest.lease).await?);
        }
        Ok(Acquired::Taken(holder))
    }

    /// Gives a claim that is there a lease that lives longer.
    pub(crate) async fn prolong(
        self: &Arc<Core>,
        lock: &Layout,
        owner: &OwnerToken,
        created: i64,
        old: Lease,
        ttl: i64,
    ) -> Result<Option<(Lease, i64)>, Fault> {
        let lease = self.leases.grant(ttl).await?;
        let entrant = Entrant {
            owner: owner.as_str(),
            queue: true,
            lease: lease.id,
            ttl: lease.ttl,
        };
        match self
            .txn(txns::rewrite(lock, created, old.id, entrant))
            .await
        {
            Ok(answer) if answer.succeeded => {
                let revision = answer.header.ok_or(Fault::Strange)?.revision;
                self.book
                    .change(owner.as_str(), |entry| entry.lease = lease);
                self.discard_unless_used(old);
                Ok(Some((lease, revision)))
            }
            Ok(_) => {
                self.leases.put_back(lease);
                Ok(None)
            }
            Err(fault) => {
                if fault.is_unknown() {
                    // The key may live by the new lease by now, so neither may be used again; and
                    // the new one may not be ended, since the claim may be held.
                    self.book
                        .change(owner.as_str(), |entry| entry.in_doubt = true);
                } else {
                    self.leases.put_back(lease);
                }
                Err(fault)
            }
        }
    }
}

/// The fencing tokens of a claim that was seen to hold its lock at `revision`. The next holder is
/// seen to hold it after this claim was deleted, which is a later revision.
pub(crate) fn tokens(revision: i64, wanted: u32) -> Result<FenceBlock, Fault> {
    let revision = u64::try_from(revision).map_err(|_| Fault::Strange)?;
    let first = revision.checked_mul(TOKENS).ok_or(Fault::Strange)?;
    let more = u64::from(wanted).clamp(1, TOKENS) - 1;
    Ok(FenceBlock {
        first: FencingToken::new(first),
        last: FencingToken::new(first + more),
    })
}

/// Whether others wait behind the holder.
pub(crate) fn contended(seen: &Seen) -> Contended {
    match (&seen.oldest, &seen.youngest) {
        (Some(oldest), Some(youngest)) if oldest.key == youngest.key => Contended::No,
        (Some(_), Some(_)) => Contended::Yes,
        _ => Contended::NotTold,
    }
}

/// What is known of a holder by its key. The rest of its lease is not more than all of it.
fn holder(oldest: Option<&KeyValue>) -> Holder {
    let Some(oldest) = oldest else {
        // Nobody holds it: a claim that was withdrawn is refused all the same.
        return Holder::of_ours(Duration::ZERO);
    };
    match ttl_of(&oldest.value) {
        Some(ttl) => {
            let mut holder = Holder::of_ours(Duration::from_secs(ttl.max(0).unsigned_abs()));
            // The key ends with the owner token.
            let key = core::str::from_utf8(&oldest.key).ok();
            holder.process = key.and_then(Process::of);
            holder
        }
        None => {
            let mut holder = Holder::foreign(None);
            // Its key is deleted as ours are, which is heard.
            holder.silent = false;
            holder
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_different_revisions_do_not_meet() {
        let block = tokens(7, u32::MAX).expect("a block");
        assert!(block.last < tokens(8, 1).expect("a block").first);
        assert_eq!(tokens(7, 0).expect("a block").first, block.first);
        assert!(tokens(-1, 1).is_err());
        // 20 years at 10,000 writes a second.
        let late = tokens(20 * 365 * 86_400 * 10_000, 1024).expect("a block");
        assert!(late.last.as_u64() < 1 << 53);
    }
}
