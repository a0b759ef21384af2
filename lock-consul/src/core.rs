//! What a backend consists of, and what its verbs have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{
    Acquired, Claim, Contended, FenceBlock, FencingToken, Grant, OwnerToken, Sinks,
};
use tokio::runtime::Handle;

use crate::book::{Book, Entry, Place};
use crate::client::Client;
use crate::fault::Fault;
use crate::layout::{Layout, Said};
use crate::messages::Pair;
use crate::sessions::{LONGEST_DELAY, Session, Sessions};
use crate::tree::{Slot, Tree};
use crate::txn::{Done, Txn};
use crate::watching::Watching;

/// How many fencing tokens there are to an index.
const TOKENS: u64 = 1024;
/// How often a question is asked anew whose lock was changed by others meanwhile.
pub(crate) const TRIES: usize = 16;

/// What the verbs of a backend share; they run on its thread.
pub(crate) struct Core {
    pub(crate) client: Arc<Client>,
    pub(crate) sessions: Sessions,
    pub(crate) watching: Watching,
    pub(crate) book: Arc<Book>,
    pub(crate) sinks: Arc<Sinks>,
    pub(crate) handle: Handle,
}

/// What became of a lock that nobody held.
pub(crate) enum Served {
    /// This claim holds it, by the key with this index.
    To {
        owner: String,
        index: u64,
        contended: Contended,
    },
    /// Somebody held it after all.
    Held(Tree),
    /// Nobody waits for it.
    Nobody(Tree),
    /// Nobody may have it yet, since a session ended that held it.
    Delayed(Tree),
}

impl Core {
    pub(crate) async fn txn(&self, txn: &Txn) -> Result<Done, Fault> {
        let answer = self.client.txn(txn.ops(), txn.is_read()).await?;
        Ok(answer.into())
    }

    /// Reads all keys of a lock, as they are now.
    pub(crate) async fn tree(&self, layout: &Layout) -> Result<Tree, Fault> {
        match self.txn(&Tree::question(layout)).await? {
            Done::Yes(pairs) => Ok(Tree::read(layout, pairs)),
            Done::No(_) => Err(Fault::Strange),
        }
    }

    /// Takes a lock that nobody uses, and sees that it is taken.
    pub(crate) async fn lock_and_read(&self, layout: &Layout, session: &str) -> Result<(), Fault> {
        let said = Said::new("probe", Duration::ZERO);
        let mut txn = Txn::default();
        txn.absent(layout.lock());
        txn.lock(layout.lock(), session, &said);
        match self.txn(&txn).await? {
            Done::Yes(_) if self.tree(layout).await?.held_by(&said.owner).is_some() => Ok(()),
            _ => Err(Fault::Strange),
        }
    }

    /// Gives a lock that nobody holds to the claim that has waited longest.
    pub(crate) async fn serve(&self, layout: &Layout, mut tree: Tree) -> Result<Served, Fault> {
        for _ in 0..TRIES {
            if tree.held().is_some() {
                return Ok(Served::Held(tree));
            }
            let Some(head) = tree.head() else {
                return Ok(Served::Nobody(tree));
            };
            let (owner, session) = (
                &head.said.owner,
                head.session.as_deref().unwrap_or_default(),
            );
            let mut txn = Txn::default();
            guard(&mut txn, layout, &tree);
            let take = txn.lock(layout.lock(), session, &head.said);
            // It must not have been withdrawn meanwhile.
            txn.take_away(head.key.clone(), head.index);
            let rest = tree.alive().count() - 1;
            clear(&mut txn, layout, &tree, rest == 0);
            match self.txn(&txn).await? {
                Done::Yes(pairs) => {
                    return Ok(Served::To {
                        index: written(&pairs, &layout.lock())?,
                        owner: owner.clone(),
                        contended: if rest == 0 {
                            Contended::No
                        } else {
                            Contended::Yes
                        },
                    });
                }
                Done::No(conflicts) if conflicts.delayed_at(take) => {
                    return Ok(Served::Delayed(tree));
                }
                Done::No(conflicts) if conflicts.no_session_at(take) => {
                    let dead = head.key.clone();
                    tree.bury(&dead);
                }
                Done::No(_) => tree = self.tree(layout).await?,
            }
        }
        Err(Fault::Busy)
    }

    /// Ends a session that nobody may use any more, in the background: if that fails, it ends by
    /// itself.
    pub(crate) fn discard(self: &Arc<Core>, session: Session) {
        let core = Arc::clone(self);
        self.handle.spawn(async move {
            let _ = core.sessions.destroy(&session.id).await;
        });
    }

    /// The same, unless a claim may live by it that is known here. None comes to use it later.
    pub(crate) fn discard_unless_used(self: &Arc<Core>, session: Session) {
        if !self.book.uses(&session.id, None) {
            self.sessions.take_out(&session.id);
            self.discard(session);
        }
    }

    /// Keeps the session of a claim that ended and is forgotten, or ends it where that claim may
    /// still be heard of. Where another claim lives by it, it is left to that.
    pub(crate) fn end(self: &Arc<Core>, session: Session, in_doubt: bool) {
        if in_doubt {
            self.discard_unless_used(session);
        } else if !self.book.uses(&session.id, None)
            && let Some(session) = self.sessions.put_back(session)
        {
            self.discard(session);
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

    /// The claim holds the lock, whose key has this index, as was seen after it was asked for.
    pub(crate) fn granted(
        &self,
        claim: &Claim,
        session: &Session,
        index: u64,
        contended: Contended,
    ) -> Result<Acquired, Fault> {
        let mut grant = Grant::new(tokens(index, claim.tokens)?, believed(claim.ttl, session));
        grant.contended = contended;
        let mut watched = None;
        self.book.change(claim.owner.as_str(), |entry| {
            entry.place = Place::Owns(index);
            entry.session = session.clone();
            entry.is_contended = contended == Contended::Yes;
            entry.turn = None;
            watched = entry.watched.take();
        });
        if let Some(watched) = watched {
            self.watching.forget(&watched);
        }
        Ok(Acquired::Granted(grant))
    }

    /// The claim waits, as was seen.
    pub(crate) fn waits(&self, claim: &Claim, layout: &Layout, tree: &Tree) -> Acquired {
        self.stands(&claim.owner, layout, tree);
        Acquired::Queued(tree.holder())
    }

    /// A claim waits, as was seen: listens to what is in front of it.
    pub(crate) fn stands(&self, owner: &OwnerToken, layout: &Layout, tree: &Tree) {
        self.listen(owner, tree.ahead(layout, owner.as_str()));
        let is_head = tree
            .head()
            .is_some_and(|head| head.said.owner == owner.as_str());
        if is_head && tree.held().is_none() {
            self.ask_again(owner, tree.lock.as_ref());
        }
    }

    /// Listens to the key in front of a claim that waits, from this index on, if there is one.
    pub(crate) fn listen(&self, owner: &OwnerToken, ahead: Option<(String, u64)>) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        let watched = match (ahead, entry.watched) {
            (Some(ahead), known) => Some(self.watching.watch(&entry.key, owner, ahead, known)),
            (None, Some(known)) => {
                self.watching.forget(&known);
                None
            }
            (None, None) => None,
        };
        self.book.change(owner.as_str(), |entry| {
            entry.place = Place::Waits;
            entry.turn = None;
            entry.watched = watched;
        });
    }

    /// Tells that the lock, which nobody holds and nobody may have yet, is to be asked for once
    /// more. Nothing tells when it may be had.
    fn ask_again(&self, owner: &OwnerToken, slot: Option<&Slot>) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        let said = slot.and_then(|slot| slot.said.as_ref());
        let most = said.map_or(LONGEST_DELAY, |said| said.ttl.min(LONGEST_DELAY));
        let pause = (most / 8).clamp(Duration::from_millis(20), Duration::from_millis(500));
        let at = Instant::now() + pause;
        self.sinks.ask_at(&entry.key, owner, at.into());
    }
}

/// That the lock is as it was seen, not held by anybody.
///
/// It is not enough that nobody holds it: a session that ends between the look at its delay and the
/// write would leave the lock without one.
pub(crate) fn guard(txn: &mut Txn, layout: &Layout, tree: &Tree) {
    match &tree.lock {
        Some(slot) => txn.unchanged(layout.lock(), slot.index),
        None => txn.absent(layout.lock()),
    };
}

/// Deletes the claims that wait no more, and what says that somebody waits, if `nobody_else` does.
pub(crate) fn clear(txn: &mut Txn, layout: &Layout, tree: &Tree, nobody_else: bool) {
    let mut is_clear = nobody_else;
    let dead = tree
        .waiters
        .iter()
        .filter(|waiter| waiter.session.is_none());
    for waiter in dead {
        // Two more for the queue, two for the lock itself, and two for a further claim.
        if txn.is_full(6) {
            is_clear = false;
            break;
        }
        txn.delete(waiter.key.clone(), waiter.index);
    }
    if let (true, Some(index)) = (is_clear, tree.queue) {
        // Whoever has begun to wait meanwhile has changed it.
        txn.delete(layout.queue(), index);
    }
}

/// Deletes the keys of a claim that waits and whose session may live.
pub(crate) fn withdraw(txn: &mut Txn, tree: &Tree, owner: &str) {
    for own in tree.waiters_of(owner).filter(|own| own.session.is_some()) {
        txn.take_away(own.key.clone(), own.index);
    }
}

/// The index of a key that was written.
pub(crate) fn written(pairs: &[Pair], key: &str) -> Result<u64, Fault> {
    let mut pairs = pairs.iter().rev();
    let pair = pairs.find(|pair| pair.key == key).ok_or(Fault::Strange)?;
    Ok(pair.modify_index)
}

/// For how long whoever holds the lock may believe that from an instant before it was seen: others
/// cannot get it before the session ends, nor for its delay after that.
pub(crate) fn believed(ttl: Duration, session: &Session) -> Duration {
    ttl.min(session.claims).min(LONGEST_DELAY)
}

/// The fencing tokens of a claim by whose grant, or for whose sake, the lock got this index. That
/// of a later grant is larger.
pub(crate) fn tokens(index: u64, wanted: u32) -> Result<FenceBlock, Fault> {
    let first = index.checked_mul(TOKENS).ok_or(Fault::Strange)?;
    let more = u64::from(wanted).clamp(1, TOKENS) - 1;
    Ok(FenceBlock {
        first: FencingToken::new(first),
        last: FencingToken::new(first + more),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_different_indexes_do_not_meet() {
        let block = tokens(7, u32::MAX).expect("a block");
        assert!(block.last < tokens(8, 1).expect("a block").first);
        assert_eq!(tokens(7, 0).expect("a block").first, block.first);
        // 20 years at 10,000 writes a second.
        let late = tokens(20 * 365 * 86_400 * 10_000, 1024).expect("a block");
        assert!(late.last.as_u64() < 1 << 53);
    }

    #[test]
    fn nobody_believes_for_longer_than_the_delay() {
        let session = |secs| Session::of_others("s", Duration::from_secs(secs));
        let secs = Duration::from_secs;
        assert_eq!(believed(secs(5), &session(5)), secs(5));
        assert_eq!(believed(secs(9), &session(5)), secs(5));
        assert_eq!(believed(secs(90), &session(90)), secs(60));
    }
}
