//! The verb that takes a lock or waits for it.

use std::sync::Arc;
use std::time::Instant;

use lock_protocol::{Acquired, Claim, Contended, Holder};

use crate::book::{Entry, Place};
use crate::core::{Core, Served, TRIES, clear, guard, withdraw, written};
use crate::fault::Fault;
use crate::layout::{Layout, Said};
use crate::sessions::Session;
use crate::tree::Tree;
use crate::txn::{Done, Txn};

/// What became of a claim that was put to the store.
pub(crate) enum Entered {
    /// It holds the lock, whose key has this index.
    Granted(u64, Contended),
    /// It is in the queue.
    Waits(Tree),
    /// It is there by a question of which nothing is known here.
    Known(Tree),
    /// It does not wait, or was withdrawn.
    Refused(Holder),
}

impl Core {
    /// See [`Backend::acquire`](lock_protocol::Backend::acquire).
    pub(crate) async fn acquire(self: &Arc<Core>, claim: &Claim) -> Result<Acquired, Fault> {
        let asked = Instant::now();
        let owner = claim.owner.as_str();
        self.book.change(owner, |entry| {
            entry.asked = asked;
            entry.grace = claim.grace;
            entry.heartbeat = claim.heartbeat;
            entry.turn = None;
        });
        match self.book.get(owner) {
            Some(entry) if entry.leaving => {
                self.give_back(&claim.owner, &entry).await?;
                self.enter(claim, None).await
            }
            // It is there, or may be, if a question had no answer.
            Some(entry) => self.look(claim, entry.session).await,
            None => self.enter(claim, None).await,
        }
    }

    /// Asks for a claim that may be in the store: where it stands.
    async fn look(
        self: &Arc<Core>,
        claim: &Claim,
        mut session: Session,
    ) -> Result<Acquired, Fault> {
        let (layout, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let (renewed, tree) = self.beside_renewal(&session, self.tree(&layout)).await;
        let tree = tree?;
        match renewed {
            Some(Ok(at)) => session.renewed = Some(at),
            Some(Err(Fault::NoSession)) => {
                // What it had locked is free by now, or was another's.
                return self.enter(claim, None).await;
            }
            Some(Err(fault @ Fault::Refused(_))) => return Err(fault),
            // Without an answer it lives for what is left.
            Some(Err(_)) | None => {}
        }
        if let Some(slot) = tree.held_by(owner) {
            if slot.session.as_deref() != Some(&*session.id) {
                return self.adopt(claim, &tree).await;
            }
            if let Some(said) = &slot.said {
                self.book.change(owner, |entry| entry.said = said.clone());
            }
            // It was put into the queue as well, by a question that came late.
            self.withdraw_waiter(&tree, owner).await?;
            return self.granted(claim, &session, slot.index, tree.contended());
        }
        let own = tree
            .waiter(owner)
            .and_then(|waiter| waiter.session.as_deref());
        match own {
            Some(own) if *own == *session.id => {
                self.book
                    .change(owner, |entry| entry.session = session.clone());
                let served = self.serve(&layout, tree).await?;
                let entered = self.after_serving(&layout, owner, served).await?;
                self.settle(claim, session, entered).await
            }
            Some(_) => self.adopt(claim, &tree).await,
            // It was deleted by somebody, or never was there: to the end of the queue.
            None => self.enter(claim, Some(session)).await,
        }
    }

    /// Does something, and has a session renewed meanwhile if it should be.
    async fn beside_renewal<T>(
        &self,
        session: &Session,
        work: impl Future<Output = T>,
    ) -> (Option<Result<Instant, Fault>>, T) {
        if session.is_worn(Instant::now()) {
            let (renewed, done) = tokio::join!(self.sessions.renew(&session.id), work);
            (Some(renewed), done)
        } else {
            (None, work.await)
        }
    }

    /// Puts a claim to the store, by this session if it is given.
    async fn enter(
        self: &Arc<Core>,
        claim: &Claim,
        session: Option<Session>,
    ) -> Result<Acquired, Fault> {
        let (layout, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let used = session
            .filter(|session| session.claims >= claim.ttl)
            .or_else(|| self.sessions.idle(claim.ttl));
        let mut is_new = used.is_none();
        let mut session = match used {
            Some(session) => session,
            None => self.sessions.create(claim.ttl).await?,
        };
        let entered = loop {
            self.note(claim, &session);
            let entering = self.try_enter(claim, &layout, &session);
            let (renewed, entered) = match is_new {
                true => (None, entering.await),
                false => self.beside_renewal(&session, entering).await,
            };
            match renewed {
                Some(Ok(at)) => session.renewed = Some(at),
                Some(Err(Fault::NoSession)) if !is_new && entered.is_ok() => {
                    // It has ended since, and with it what was locked by it.
                    is_new = true;
                    session = self.sessions.create(claim.ttl).await?;
                    continue;
                }
                Some(Err(_)) | None => {}
            }
            match entered {
                Err(Fault::NoSession) if !is_new => {
                    // It was too old; nothing was done by it.
                    is_new = true;
                    session = self.sessions.create(claim.ttl).await?;
                }
                other => break other,
            }
        };
        match entered {
            Ok(entered) => self.settle(claim, session, entered).await,
            Err(fault) => {
                // It may be in the queue by what was done before, whatever failed then.
                let may_wait = self
                    .book
                    .get(owner)
                    .is_some_and(|entry| entry.place == Place::Waits);
                if fault.is_unknown() || may_wait {
                    self.book.change(owner, |entry| entry.in_doubt = true);
                } else if !self.is_in_doubt(owner) {
                    self.forget(owner);
                    self.end(session, matches!(fault, Fault::Busy));
                }
                Err(fault)
            }
        }
    }

    async fn try_enter(
        &self,
        claim: &Claim,
        layout: &Layout,
        session: &Session,
    ) -> Result<Entered, Fault> {
        let (owner, said) = (claim.owner.as_str(), said(claim));
        let mut txn = Txn::default();
        let gone = txn.absent(layout.gone(owner));
        txn.absent(layout.queue());
        txn.absent(layout.lock());
        let take = txn.lock(layout.lock(), &session.id, &said);
        match self.txn(&txn).await? {
            Done::Yes(pairs) => {
                let index = written(&pairs, &layout.lock())?;
                return Ok(Entered::Granted(index, Contended::No));
            }
            Done::No(conflicts) if conflicts.no_session_at(take) => return Err(Fault::NoSession),
            Done::No(conflicts) if conflicts.at(gone) => {
                return Ok(Entered::Refused(self.tree(layout).await?.holder()));
            }
            Done::No(_) => {}
        }
        if claim.queue {
            self.queue(layout, session, &said).await
        } else {
            self.try_take(layout, session, &said).await
        }
    }

    /// Puts a claim at the end of the queue.
    async fn queue(
        &self,
        layout: &Layout,
        session: &Session,
        said: &Said,
    ) -> Result<Entered, Fault> {
        let owner = said.owner.as_str();
        let mut txn = Txn::default();
        let gone = txn.absent(layout.gone(owner));
        let key = layout.waiter(owner, &session.id);
        let wait = txn.lock(key.clone(), &session.id, said);
        txn.begin_to_wait(layout.queue(), owner);
        txn.tree(layout.all());
        match self.txn(&txn).await? {
            Done::Yes(pairs) => {
                let tree = Tree::read(layout, pairs);
                // If what follows fails, it waits all the same.
                self.book.change(owner, |entry| entry.place = Place::Waits);
                if tree.held_by(owner).is_some() {
                    // By an earlier question.
                    return Ok(Entered::Known(tree));
                }
                if tree.waiter(owner).is_some_and(|first| first.key != key) {
                    return self.join_first(layout, tree, owner, &key).await;
                }
                let served = self.serve(layout, tree).await?;
                self.after_serving(layout, owner, served).await
            }
            Done::No(conflicts) if conflicts.at(gone) => {
                Ok(Entered::Refused(self.tree(layout).await?.holder()))
            }
            Done::No(conflicts) if conflicts.no_session_at(wait) => Err(Fault::NoSession),
            Done::No(_) => Ok(Entered::Known(self.tree(layout).await?)),
        }
    }

    /// The claim waits by another session, by a question of which nothing is known here: it keeps
    /// that place, and not the one behind it that it just got by `key`.
    async fn join_first(
        &self,
        layout: &Layout,
        tree: Tree,
        owner: &str,
        key: &str,
    ) -> Result<Entered, Fault> {
        if let Some(own) = tree.waiters_of(owner).find(|own| own.key == key) {
            let mut txn = Txn::default();
            txn.take_away(own.key.clone(), own.index);
            self.txn(&txn).await?;
        }
        Ok(Entered::Known(self.tree(layout).await?))
    }

    /// Takes the claim out of the queue, if it is there.
    async fn withdraw_waiter(&self, tree: &Tree, owner: &str) -> Result<(), Fault> {
        let mut txn = Txn::default();
        withdraw(&mut txn, tree, owner);
        if !txn.ops().is_empty() {
            self.txn(&txn).await?;
        }
        Ok(())
    }

    /// Where a claim stands that waits for a lock, after that was served if nobody held it.
    async fn after_serving(
        &self,
        layout: &Layout,
        owner: &str,
        served: Served,
    ) -> Result<Entered, Fault> {
        match served {
            Served::To {
                owner: next_waiter,
                index,
                contended,
            } if next_waiter == owner => Ok(Entered::Granted(index, contended)),
            Served::To { .. } => {
                let tree = self.tree(layout).await?;
                Ok(match tree.held_by(owner) {
                    Some(_) => Entered::Known(tree),
                    None => Entered::Waits(tree),
                })
            }
            Served::Held(tree) if tree.held_by(owner).is_some() => Ok(Entered::Known(tree)),
            Served::Held(tree) | Served::Delayed(tree) | Served::Nobody(tree) => {
                Ok(Entered::Waits(tree))
            }
        }
    }

    /// Takes a lock that nobody holds and nobody waits for, whatever is left of those who did.
    async fn try_take(
        &self,
        layout: &Layout,
        session: &Session,
        said: &Said,
    ) -> Result<Entered, Fault> {
        let owner = said.owner.as_str();
        for _ in 0..TRIES {
            let tree = self.tree(layout).await?;
            if tree.held_by(owner).is_some() {
                return Ok(Entered::Known(tree));
            }
            let tree = match self.serve(layout, tree).await? {
                Served::Held(tree) if tree.held_by(owner).is_some() => {
                    return Ok(Entered::Known(tree));
                }
                Served::Held(tree) | Served::Delayed(tree) => {
                    return Ok(Entered::Refused(tree.holder()));
                }
                Served::To { .. } => {
                    return Ok(Entered::Refused(self.tree(layout).await?.holder()));
                }
                Served::Nobody(tree) => tree,
            };
            let mut txn = Txn::default();
            let gone = txn.absent(layout.gone(owner));
            guard(&mut txn, layout, &tree);
            if tree.queue.is_none() {
                txn.absent(layout.queue());
            }
            let take = txn.lock(layout.lock(), &session.id, said);
            clear(&mut txn, layout, &tree, true);
            match self.txn(&txn).await? {
                Done::Yes(pairs) => {
                    let index = written(&pairs, &layout.lock())?;
                    return Ok(Entered::Granted(index, Contended::No));
                }
                Done::No(conflicts) if conflicts.delayed_at(take) || conflicts.at(gone) => {
                    return Ok(Entered::Refused(tree.holder()));
                }
                Done::No(conflicts) if conflicts.no_session_at(take) => {
                    return Err(Fault::NoSession);
                }
                Done::No(_) => {}
            }
        }
        Err(Fault::Busy)
    }

    /// Takes in where a claim stands that was put to the store by this session.
    pub(crate) async fn settle(
        self: &Arc<Core>,
        claim: &Claim,
        session: Session,
        entered: Entered,
    ) -> Result<Acquired, Fault> {
        match entered {
            Entered::Granted(index, contended) => self.granted(claim, &session, index, contended),
            Entered::Waits(tree) => {
                let layout = Layout::of(&claim.key);
                Ok(self.waits(claim, &layout, &tree))
            }
            Entered::Known(tree) => self.adopt(claim, &tree).await,
            Entered::Refused(holder) => {
                let in_doubt = self.is_in_doubt(claim.owner.as_str());
                self.forget(claim.owner.as_str());
                self.end(session, in_doubt);
                Ok(Acquired::Taken(holder))
            }
        }
    }

    /// Takes in a claim that is in the store, and was put there by a question of which nothing is
    /// known here, and asks for it.
    async fn adopt(self: &Arc<Core>, claim: &Claim, tree: &Tree) -> Result<Acquired, Fault> {
        let owner = claim.owner.as_str();
        let own = match tree.held_by(owner) {
            Some(slot) => slot.session.as_deref().zip(slot.said.as_ref()),
            None => {
                let waiter = tree.waiter(owner);
                waiter.and_then(|waiter| waiter.session.as_deref().zip(Some(&waiter.said)))
            }
        };
        let Some((id, said)) = own else {
            // It was changed meanwhile.
            return Err(Fault::Busy);
        };
        let known = self.book.get(owner);
        let session = match &known {
            Some(known) if *known.session.id == *id => known.session.clone(),
            _ => Session::of_others(id, said.ttl),
        };
        let mut entry = known.unwrap_or_else(|| Entry::new(claim, session.clone()));
        let old = entry.session.clone();
        entry.session = session.clone();
        entry.said = said.clone();
        entry.place = Place::Waits;
        self.book.put(&claim.owner, entry);
        if old.id != session.id {
            self.discard_unless_used(old);
        }
        // Boxed, since it may lead here once more.
        Box::pin(self.look(claim, session)).await
    }

    /// Takes in that a claim is about to be put to the store by this session.
    pub(crate) fn note(self: &Arc<Core>, claim: &Claim, session: &Session) {
        let known = self.book.get(claim.owner.as_str());
        let mut entry = known.unwrap_or_else(|| Entry::new(claim, session.clone()));
        let old = std::mem::replace(&mut entry.session, session.clone());
        entry.said = said(claim);
        entry.place = Place::Unknown;
        entry.in_doubt |= claim.in_doubt;
        self.book.put(&claim.owner, entry);
        if old.id != session.id {
            self.discard_unless_used(old);
        }
    }

    pub(crate) fn is_in_doubt(&self, owner: &str) -> bool {
        self.book.get(owner).is_some_and(|entry| entry.in_doubt)
    }
}

/// What the key of a claim says.
pub(crate) fn said(claim: &Claim) -> Said {
    Said::new(claim.owner.as_str(), claim.ttl)
}
