//! The verbs that end a claim: release, and abandon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{
    Acquired, Claim, Contended, Grant, Holder, OwnerToken, Release, Released, Told,
};

use crate::book::{Entry, Place, Turn};
use crate::core::{Core, Served, TRIES, believed, clear, tokens, withdraw, written};
use crate::entering::said;
use crate::fault::Fault;
use crate::layout::{Layout, Said};
use crate::messages::Pair;
use crate::sessions::Session;
use crate::tree::Tree;
use crate::txn::{Done, Step, Txn};

/// The pause before a waiter asks of which it is not known where it stands.
const PAUSE: Duration = Duration::from_millis(100);

/// Why it is looked where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The one in front of it has gone.
    Moved,
    /// It may be its turn, and nobody has asked.
    Unasked,
    /// It was its turn for longer than its grace.
    GraceIsOver,
}

impl Core {
    /// See [`Backend::release`](lock_protocol::Backend::release).
    pub(crate) async fn release(self: &Arc<Core>, release: &Release) -> Result<Released, Fault> {
        let (layout, owner) = (Layout::of(&release.key), release.owner.as_str());
        let entry = self.book.get(owner);
        let mine = entry.as_ref().filter(|entry| !entry.in_doubt);
        let mut next = None;
        if let Some(claim) = &release.next {
            next = Some((claim, self.prepare(claim, mine).await?));
        }
        let ended = self.end_and_pass(&layout, owner, entry.as_ref(), &mut next);
        match ended.await {
            Ok(Ended::Yes(became)) => {
                let is_shared = next.as_ref().is_some_and(|(_, (_, is_shared))| *is_shared);
                let entry = self.forget(owner);
                // By one that was lent the next claim may live.
                if let Some(entry) = entry.filter(|entry| !is_shared && !entry.lent) {
                    self.end(entry.session, entry.in_doubt);
                }
                let Some(((next, (session, _)), became)) = next.zip(became) else {
                    return Ok(Released::Released(None));
                };
                Ok(Released::Released(Some(self.land(next, session, became)?)))
            }
            Ok(Ended::No { waits }) => {
                self.disembark(next);
                if !waits && let Some(entry) = self.forget(owner)
                    // By one in doubt the next claim may live, of which nothing is known yet.
                    && !entry.in_doubt
                {
                    self.discard_unless_used(entry.session);
                }
                Ok(Released::NotHeld)
            }
            Err(fault) => {
                if fault.is_unknown() {
                    let mut lent = false;
                    if let Some((next, (_, is_shared))) = next {
                        lent = is_shared;
                        let next = next.owner.as_str();
                        self.book.change(next, |entry| entry.in_doubt = true);
                    }
                    self.book.change(owner, |entry| {
                        entry.in_doubt = true;
                        entry.lent |= lent;
                    });
                } else {
                    self.disembark(next);
                }
                Err(fault)
            }
        }
    }

    /// Ends the lease of `owner`, and passes the lock on. Where the session of the next claim has
    /// ended it gets another one.
    async fn end_and_pass(
        self: &Arc<Core>,
        layout: &Layout,
        owner: &str,
        entry: Option<&Entry>,
        next: &mut Option<(&Claim, (Session, bool))>,
    ) -> Result<Ended, Fault> {
        let shared = next.as_ref().map(Prepared::of);
        match self.end_lease(layout, owner, entry, shared).await {
            Err(Fault::NoSession) => {}
            ended => return ended,
        }
        if let Some((claim, (session, is_shared))) = next {
            *session = self.sessions.create(claim.ttl).await?;
            *is_shared = false;
            self.note(claim, session);
        }
        let shared = next.as_ref().map(Prepared::of);
        self.end_lease(layout, owner, entry, shared).await
    }

    /// A session for the next claim of a process: that of the holder, if it may be used again. And
    /// whether it is that.
    async fn prepare(
        self: &Arc<Core>,
        next: &Claim,
        mine: Option<&Entry>,
    ) -> Result<(Session, bool), Fault> {
        let mine = mine.map(|entry| &entry.session);
        let (session, is_shared) = match mine.filter(|session| session.claims == next.ttl) {
            Some(session) => (session.clone(), true),
            None => match self.sessions.idle(next.ttl) {
                Some(session) => (session, false),
                None => (self.sessions.create(next.ttl).await?, false),
            },
        };
        self.note(next, &session);
        Ok((session, is_shared))
    }

    /// The release was not done, and so the next claim was not looked at.
    fn disembark(self: &Arc<Core>, next: Option<(&Claim, (Session, bool))>) {
        if let Some((next, (session, is_shared))) = next
            && !self.is_in_doubt(next.owner.as_str())
        {
            self.forget(next.owner.as_str());
            if !is_shared {
                self.end(session, true);
            }
        }
    }

    /// Takes in what became of the next claim.
    fn land(
        self: &Arc<Core>,
        next: &Claim,
        session: Session,
        became: Next,
    ) -> Result<Acquired, Fault> {
        match became {
            Next::Granted(index) => self.granted(next, &session, index, Contended::No),
            Next::Waits(ahead, ttl) => {
                self.listen(&next.owner, Some(ahead));
                Ok(Acquired::Queued(Holder::of_ours(ttl)))
            }
            Next::Refused(ttl) => {
                let in_doubt = self.is_in_doubt(next.owner.as_str());
                self.forget(next.owner.as_str());
                self.end(session, in_doubt);
                Ok(Acquired::Taken(Holder::of_ours(ttl)))
            }
        }
    }

    /// Ends the lease of `owner` for somebody else. Whether it held the lock.
    pub(crate) async fn break_lease(&self, layout: &Layout, owner: &str) -> Result<bool, Fault> {
        let ended = self.end_lease(layout, owner, None, None).await?;
        Ok(matches!(ended, Ended::Yes(_)))
    }

    /// Ends the lease of `owner`, if it holds the lock, and hands the lock to the claim that has
    /// waited longest.
    async fn end_lease(
        &self,
        layout: &Layout,
        owner: &str,
        entry: Option<&Entry>,
        mut next: Option<Prepared<'_>>,
    ) -> Result<Ended, Fault> {
        let has_next = next.is_some();
        let refused = |next: &Option<Prepared<'_>>| {
            (has_next && next.is_none()).then_some(Next::Refused(Duration::ZERO))
        };
        // If nobody was seen to wait, it is likely that nobody does.
        let mut lonely = entry.filter(|entry| !entry.is_contended).and_then(|entry| {
            let Place::Owns(index) = entry.place else {
                return None;
            };
            Some((entry.session.id.clone(), index))
        });
        for _ in 0..TRIES {
            if let Some((session, index)) = lonely.take() {
                let mut txn = Txn::default();
                txn.absent(layout.queue());
                let passed = pass_on(&mut txn, layout, &session, index, next);
                let ended = self.try_end(layout, &session, &txn, passed, &mut next);
                if let Some(became) = ended.await? {
                    return Ok(Ended::Yes(became.or_else(|| refused(&next))));
                }
            }
            let tree = self.tree(layout).await?;
            let Some(slot) = tree.held_by(owner) else {
                let waits = tree.waiter(owner).is_some();
                return Ok(Ended::No { waits });
            };
            let (index, session) = (slot.index, slot.session.clone().unwrap_or_default());
            if tree.alive().any(|waiter| waiter.said.owner != owner) {
                match self.hand_over(layout, owner, &session, tree, next).await? {
                    Some(Ok(became)) => {
                        return Ok(Ended::Yes(match next {
                            Some(_) => Some(became),
                            None => refused(&next),
                        }));
                    }
                    // The next claim was withdrawn.
                    Some(Err(())) => next = None,
                    None => {}
                }
                continue;
            }
            let mut txn = Txn::default();
            let passed = pass_on(&mut txn, layout, &session, index, next);
            withdraw(&mut txn, &tree, owner);
            clear(&mut txn, layout, &tree, true);
            let ended = self.try_end(layout, &session, &txn, passed, &mut next);
            if let Some(became) = ended.await? {
                return Ok(Ended::Yes(became.or_else(|| refused(&next))));
            }
        }
        Err(Fault::Busy)
    }

    /// Ends the lease that lives by `session` by this transaction, which passes the lock to the
    /// next claim as `passed` says. `None` if it was not done; a next claim that was withdrawn is
    /// taken out then.
    async fn try_end(
        &self,
        layout: &Layout,
        session: &str,
        txn: &Txn,
        passed: Option<(Step, Step)>,
        next: &mut Option<Prepared<'_>>,
    ) -> Result<Option<Option<Next>>, Fault> {
        match self.txn(txn).await? {
            Done::Yes(pairs) => Ok(Some(match next {
                Some(_) => Some(Next::Granted(written(&pairs, &layout.lock())?)),
                None => None,
            })),
            Done::No(conflicts) => {
                if let Some((gone, take)) = passed {
                    // If it is that of the lease, there is no lease any more, and nothing to pass.
                    let is_other = next.is_some_and(|next| *next.session.id != *session);
                    if is_other && conflicts.no_session_at(take) {
                        return Err(Fault::NoSession);
                    }
                    if conflicts.at(gone) {
                        *next = None;
                    }
                }
                Ok(None)
            }
        }
    }

    /// Hands the lock that `owner` holds by `session` to the claim that has waited longest, and
    /// puts the next one into the queue. `None` if something was changed meanwhile, an error if the
    /// next claim was withdrawn.
    async fn hand_over(
        &self,
        layout: &Layout,
        owner: &str,
        session: &str,
        mut tree: Tree,
        next: Option<Prepared<'_>>,
    ) -> Result<Option<Result<Next, ()>>, Fault> {
        for _ in 0..TRIES {
            let others = || tree.alive().filter(|waiter| waiter.said.owner != owner);
            let (Some(next_waiter), Some(slot)) = (others().next(), tree.held_by(owner)) else {
                return Ok(None);
            };
            let mut txn = Txn::default();
            txn.unchanged(layout.lock(), slot.index);
            let gone = next.map(|next| txn.absent(layout.gone(next.claim.owner.as_str())));
            txn.unlock(layout.lock(), session);
            let next_waiter_session = next_waiter.session.as_deref().unwrap_or_default();
            let give = txn.lock(layout.lock(), next_waiter_session, &next_waiter.said);
            // It must not have been withdrawn meanwhile.
            txn.take_away(next_waiter.key.clone(), next_waiter.index);
            withdraw(&mut txn, &tree, owner);
            let waits = next.filter(|next| next.claim.queue);
            let last = others().last().filter(|last| last.key != next_waiter.key);
            clear(&mut txn, layout, &tree, last.is_none() && waits.is_none());
            let wait = waits.map(|next| {
                let name = next.claim.owner.as_str();
                let key = layout.waiter(name, &next.session.id);
                let wait = txn.lock(key, &next.session.id, &said(next.claim));
                txn.begin_to_wait(layout.queue(), name);
                wait
            });
            match self.txn(&txn).await? {
                Done::Yes(pairs) => {
                    let ttl = next_waiter.said.ttl;
                    let ahead = match last {
                        Some(last) => (last.key.clone(), last.index),
                        None => (layout.lock(), written(&pairs, &layout.lock())?),
                    };
                    return Ok(Some(Ok(match waits {
                        Some(_) => Next::Waits(ahead, ttl),
                        None => Next::Refused(ttl),
                    })));
                }
                Done::No(conflicts) => {
                    let is_other = next.is_some_and(|next| *next.session.id != *session);
                    if is_other && wait.is_some_and(|wait| conflicts.no_session_at(wait)) {
                        return Err(Fault::NoSession);
                    }
                    if gone.is_some_and(|gone| conflicts.at(gone)) {
                        return Ok(Some(Err(())));
                    }
                    if !conflicts.no_session_at(give) {
                        return Ok(None);
                    }
                    // Its process died, so the lock goes to the one behind it.
                    let dead = next_waiter.key.clone();
                    tree = self.tree(layout).await?;
                    tree.bury(&dead);
                }
            }
        }
        Ok(None)
    }

    /// See [`Backend::abandon`](lock_protocol::Backend::abandon).
    pub(crate) async fn abandon(self: &Arc<Core>, claim: &Claim) -> Result<(), Fault> {
        let (layout, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let entry = self.book.get(owner);
        let known = entry.as_ref();
        let is_known = known.is_some_and(|entry| entry.place != Place::Unknown && !entry.in_doubt);
        if claim.in_doubt || !is_known {
            // The store does not know it, or may not know it yet.
            self.remember(&layout, owner).await?;
        }
        let out = self.take_out(&layout, owner, known).await;
        if out.as_ref().is_err_and(Fault::is_unknown) {
            self.book.change(owner, |entry| entry.in_doubt = true);
        }
        out?;
        if let Some(entry) = self.forget(owner)
            && !entry.lent
        {
            let in_doubt = claim.in_doubt || entry.in_doubt || entry.place == Place::Unknown;
            self.end(entry.session, in_doubt);
        }
        Ok(())
    }

    /// Remembers in the store that a claim was withdrawn.
    async fn remember(&self, layout: &Layout, owner: &str) -> Result<(), Fault> {
        let said = Said::new(owner, Duration::ZERO);
        let key = layout.gone(owner);
        let mut before = None;
        for _ in 0..TRIES {
            let memory = self.sessions.memory().await?;
            let mut txn = Txn::default();
            if let Some(before) = before.take().filter(|before: &String| **before != *memory) {
                // What remembers it already may not do so for long any more.
                txn.unlock(key.clone(), &before);
            }
            let bury = txn.lock(key.clone(), &memory, &said);
            match self.txn(&txn).await? {
                Done::Yes(_) => return Ok(()),
                Done::No(conflicts) if conflicts.no_session_at(bury) => {
                    self.sessions.forget_memory(&memory);
                }
                Done::No(_) => {
                    let mut look = Txn::default();
                    look.tree(key.clone());
                    if let Done::Yes(pairs) = self.txn(&look).await? {
                        let pair = pairs.into_iter().find(|pair| pair.key == key);
                        before = pair.and_then(Pair::session);
                    }
                }
            }
        }
        Err(Fault::Busy)
    }

    /// Takes a claim out of the queue or ends its lease, whichever it has.
    async fn take_out(
        &self,
        layout: &Layout,
        owner: &str,
        entry: Option<&Entry>,
    ) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let entry = entry.filter(|entry| !entry.in_doubt);
            match self.end_lease(layout, owner, entry, None).await? {
                Ended::Yes(_) => return Ok(()),
                Ended::No { waits: false } => return Ok(()),
                Ended::No { waits: true } => {
                    let tree = self.tree(layout).await?;
                    let mut txn = Txn::default();
                    for own in tree.waiters_of(owner) {
                        if !txn.is_full(2) {
                            // Where it is not there any more, it may hold the lock by now.
                            txn.take_away(own.key.clone(), own.index);
                        }
                    }
                    if txn.ops().is_empty() {
                        continue;
                    }
                    if let Done::Yes(_) = self.txn(&txn).await?
                        && tree.held_by(owner).is_none()
                    {
                        return Ok(());
                    }
                }
            }
        }
        Err(Fault::Busy)
    }

    /// Looks where a claim stands that nobody asked for. If it has its turn and is not expected, it
    /// is given back, as it is where its grace has ended.
    pub(crate) async fn look_after(self: &Arc<Core>, owner: &OwnerToken, why: Why) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        if entry.place != Place::Waits || entry.leaving {
            return;
        }
        if why != Why::Moved && entry.turn.is_none() {
            // Somebody has asked meanwhile.
            return;
        }
        let layout = Layout::of(&entry.key);
        let now = Instant::now();
        let Ok(tree) = self.served(&layout).await else {
            if why == Why::Moved {
                return self.sinks.ask_at(&entry.key, owner, (now + PAUSE).into());
            }
            // Not before a while, which is not less than that of the first look.
            let turn = Some(Turn::at(Instant::now()));
            return self.book.change(owner.as_str(), |entry| entry.turn = turn);
        };
        let Some(slot) = tree.held_by(owner.as_str()) else {
            let ours = tree.waiter(owner.as_str());
            if ours.is_some_and(|waiter| waiter.session.is_some()) {
                return self.stands(owner, &layout, &tree);
            }
            self.sinks.ask_at(&entry.key, owner, now.into());
            return self.book.change(owner.as_str(), |entry| entry.turn = None);
        };
        let Some(turn) = entry.turn else {
            let turn = Some(Turn::at(now));
            self.book.change(owner.as_str(), |entry| entry.turn = turn);
            return self.sinks.ask_at(&entry.key, owner, now.into());
        };
        let contended = tree.contended();
        let is_unwanted = why == Why::GraceIsOver
            || self.is_unexpected(owner, &entry, turn, slot.index, contended);
        if is_unwanted && self.book.leave(owner.as_str(), turn) {
            // If it is not known, whoever asks for the claim begins by doing so once more; and if
            // nobody does, its session ends, since it is not renewed any more.
            let _ = self.give_back(owner, &entry).await;
        }
    }

    /// Reads a lock, after it was given to whoever has waited longest if nobody held it.
    pub(crate) async fn served(&self, layout: &Layout) -> Result<Tree, Fault> {
        let tree = self.tree(layout).await?;
        if tree.held().is_some() {
            return Ok(tree);
        }
        match self.serve(layout, tree).await? {
            Served::To { .. } => self.tree(layout).await,
            Served::Held(tree) | Served::Nobody(tree) | Served::Delayed(tree) => Ok(tree),
        }
    }

    /// Renews the session of a claim while it waits.
    pub(crate) async fn tend(self: &Arc<Core>, owner: &OwnerToken) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        let renewed = self.sessions.renew(&entry.session.id).await;
        if let Err(Fault::NoSession | Fault::Refused(_)) = renewed {
            // Whoever asks is told, or enters anew.
            self.sinks.ask_at(&entry.key, owner, Instant::now().into());
        }
        self.book.change(owner.as_str(), |known| {
            if known.session.id == entry.session.id {
                known.take_in(renewed);
            }
        });
    }

    /// Gives a claim back that nobody wants.
    pub(crate) async fn give_back(
        self: &Arc<Core>,
        owner: &OwnerToken,
        entry: &Entry,
    ) -> Result<(), Fault> {
        let layout = Layout::of(&entry.key);
        self.take_out(&layout, owner.as_str(), None).await?;
        if let Some(entry) = self.forget(owner.as_str())
            && !entry.lent
        {
            self.end(entry.session, entry.in_doubt);
        }
        Ok(())
    }

    /// Tells that the claim holds the lock, as was seen. Whether nobody expects it.
    fn is_unexpected(
        &self,
        owner: &OwnerToken,
        entry: &Entry,
        turn: Turn,
        index: u64,
        contended: Contended,
    ) -> bool {
        // When it was last known to wait, which was before it was its turn.
        let known = [entry.session.renewed, Some(entry.asked)];
        let before = known.into_iter().flatten();
        let Some(since) = before.filter(|since| *since <= turn.since).max() else {
            return false;
        };
        let Ok(tokens) = tokens(index, 1) else {
            return false;
        };
        let valid_for = entry.grace.min(believed(entry.said.ttl, &entry.session));
        let mut grant = Grant::new(tokens, valid_for);
        grant.contended = contended;
        let told = self
            .sinks
            .granted(&entry.key, owner.as_str(), grant, since.into());
        told == Told::Unexpected
    }
}

/// The next claim of a process, and its session.
#[derive(Clone, Copy)]
struct Prepared<'a> {
    claim: &'a Claim,
    session: &'a Session,
}

impl<'a> Prepared<'a> {
    fn of((claim, (session, _)): &'a (&'a Claim, (Session, bool))) -> Prepared<'a> {
        Prepared { claim, session }
    }
}

/// What became of the next claim.
enum Next {
    /// It holds the lock, whose key has this index.
    Granted(u64),
    /// It does not, but a claim of this ttl.
    Refused(Duration),
    /// It is in the queue behind this key, and a claim of this ttl holds the lock.
    Waits((String, u64), Duration),
}

/// What became of a lease that was to be ended.
enum Ended {
    Yes(Option<Next>),
    /// The claim does not hold the lock.
    No {
        /// Whether it is in the queue.
        waits: bool,
    },
}

/// Ends a lease, whose lock has this index, or gives the lock to the next claim: the steps that
/// look whether that was withdrawn, and that lock.
fn pass_on(
    txn: &mut Txn,
    layout: &Layout,
    session: &str,
    index: u64,
    next: Option<Prepared<'_>>,
) -> Option<(Step, Step)> {
    let Some(next) = next else {
        txn.take_away(layout.lock(), index);
        return None;
    };
    let gone = txn.absent(layout.gone(next.claim.owner.as_str()));
    txn.unchanged(layout.lock(), index);
    if *session != *next.session.id {
        txn.unlock(layout.lock(), session);
    }
    let take = txn.lock(layout.lock(), &next.session.id, &said(next.claim));
    Some((gone, take))
}
