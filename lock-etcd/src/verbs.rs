//! The verbs about one claim: acquire, release, abandon.

use std::sync::Arc;
use std::time::Instant;

use lock_protocol::{Acquired, Claim, OwnerToken, Release, Released};

use crate::book::{Entry, Turn};
use crate::core::Core;
use crate::fault::Fault;
use crate::keep_alive::Alive;
use crate::layout::{Layout, ttl_of};
use crate::leases::Lease;
use crate::messages::KeyValue;
use crate::mistake::Mistake;
use crate::txns::{self, Ended, Entered, Entrant, Seen};

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
                self.enter(claim, None, asked).await
            }
            Some(entry) => match entry.created {
                Some(created) => self.poll(claim, entry.lease, created, asked).await,
                None => self.enter(claim, Some(entry.lease), asked).await,
            },
            None => self.enter(claim, None, asked).await,
        }
    }

    /// Asks for a claim of which the key has been put there: whether it is its turn.
    async fn poll(
        self: &Arc<Core>,
        claim: &Claim,
        mut lease: Lease,
        created: i64,
        asked: Instant,
    ) -> Result<Acquired, Fault> {
        let (lock, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let look = self.txn(txns::look(&lock, owner, created));
        let (life, seen) = self.with_life(&lease, asked, look).await;
        let seen = txns::looked(seen?)?;
        let is_there = is_of(seen.own.as_ref(), created);
        if is_there && seen.own.as_ref().is_some_and(|own| own.lease != lease.id) {
            // It was given another lease by a question that had no answer.
            return self.adopt(claim, seen.own, asked).await;
        }
        let proof = life.take_in(&mut lease, seen.header.raft_term);
        if !is_there {
            // It was deleted by somebody, or with its lease: to the end of the queue.
            let is_dead = lease.left(Instant::now()).is_zero();
            let is_gone = matches!(proof, Err(Fault::NoLease)) || is_dead;
            let again = (!is_gone).then_some(lease);
            return self.enter(claim, again, asked).await;
        }
        let needed = self.leases.kept(claim.ttl);
        if lease.ttl < needed {
            let prolonged = self
                .prolong(&lock, &claim.owner, created, lease, needed)
                .await?;
            let Some((longer, _)) = prolonged else {
                return Err(Fault::Unknown("the claim was deleted meanwhile".to_owned()));
            };
            lease = longer;
        }
        let is_first = is_of(seen.oldest.as_ref(), created);
        if is_first {
            // Without a proof it is granted for what is left of the last one.
            if let Err(fault) = proof
                && (matches!(fault, Fault::NoLease) || lease.left(asked).is_zero())
            {
                return Err(fault);
            }
            return self.granted(claim, &lease, &seen, asked);
        }
        Ok(self.waits(claim, &lease, created, &seen))
    }

    /// Puts a claim into the queue, by this lease if it is given.
    async fn enter(
        self: &Arc<Core>,
        claim: &Claim,
        lease: Option<Lease>,
        asked: Instant,
    ) -> Result<Acquired, Fault> {
        let (lock, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let needed = self.leases.kept(claim.ttl);
        let used = lease
            .filter(|lease| lease.ttl >= needed)
            .or_else(|| self.leases.idle(needed));
        let is_new = used.is_none();
        let mut lease = match used {
            Some(lease) => lease,
            None => self.leases.grant(needed).await?,
        };
        self.note(claim, lease);
        let mut entered = self.try_enter(claim, &lock, &mut lease, is_new).await;
        if matches!(entered, Err(Fault::NoLease)) && !is_new {
            // It was too old; nothing was done by it.
            lease = self.leases.grant(needed).await?;
            self.note(claim, lease);
            entered = self.try_enter(claim, &lock, &mut lease, true).await;
        }
        let entered = match entered {
            Ok(entered) => entered,
            Err(fault) => {
                if fault.is_unknown() {
                    self.book.change(owner, |entry| entry.in_doubt = true);
                } else if !self.is_in_doubt(owner) {
                    self.forget(owner);
                    self.end(lease, false);
                }
                return Err(fault);
            }
        };
        self.settle(claim, lease, entered, asked).await
    }

    /// Takes in where a claim stands that was to be put into the queue.
    async fn settle(
        self: &Arc<Core>,
        claim: &Claim,
        lease: Lease,
        entered: Entered,
        asked: Instant,
    ) -> Result<Acquired, Fault> {
        match entered {
            Entered::Now(seen) => {
                let created = seen.header.revision;
                if is_of(seen.oldest.as_ref(), created) {
                    return self.granted(claim, &lease, &seen, asked);
                }
                Ok(self.waits(claim, &lease, created, &seen))
            }
            Entered::No(seen) if seen.own.is_some() => self.adopt(claim, seen.own, asked).await,
            Entered::No(seen) => {
                // It was withdrawn before, or it does not wait.
                let in_doubt = self.is_in_doubt(claim.owner.as_str());
                self.forget(claim.owner.as_str());
                self.end(lease, in_doubt);
                self.taken(seen.oldest.as_ref()).await
            }
        }
    }

    /// Asks for the life of a lease together with something else, at `asked`: not at all if it is
    /// fresh, and first where what else is asked has to come second.
    async fn with_life<T>(
        &self,
        lease: &Lease,
        asked: Instant,
        question: impl Future<Output = T>,
    ) -> (Life, T) {
        if lease.is_fresh(asked) {
            return (Life::Fresh, question.await);
        }
        let alive = self.leases.keep_alive(0, lease.id);
        if lease.may_overlap(asked) {
            let (alive, answer) = tokio::join!(alive, question);
            (Life::Overlapping(alive), answer)
        } else {
            let alive = alive.await;
            (Life::Before(alive), question.await)
        }
    }

    async fn try_enter(
        &self,
        claim: &Claim,
        lock: &Layout,
        lease: &mut Lease,
        is_new: bool,
    ) -> Result<Entered, Fault> {
        let txn = self.txn(txns::enter(lock, entrant(claim, lease)));
        if is_new {
            return txns::entered(txn.await?);
        }
        let (life, answer) = self.with_life(lease, Instant::now(), txn).await;
        let answer = answer?;
        // Without a proof there is less left of it; but it may have ended since, and with it what
        // was put there.
        if let Some(header) = &answer.header
            && let Err(Fault::NoLease) = life.take_in(lease, header.raft_term)
        {
            return Err(Fault::NoLease);
        }
        txns::entered(answer)
    }

    /// Takes in a claim that is in the store, and was put there by a question of which nothing is
    /// known here.
    async fn adopt(
        self: &Arc<Core>,
        claim: &Claim,
        own: Option<KeyValue>,
        asked: Instant,
    ) -> Result<Acquired, Fault> {
        let own = own.ok_or(Fault::Strange)?;
        let Some(ttl) = ttl_of(&own.value) else {
            return Err(Fault::Refused(
                "the key of the claim is another's".to_owned(),
            ));
        };
        let known = self.book.get(claim.owner.as_str());
        let lease = match &known {
            Some(known) if known.lease.id == own.lease => known.lease,
            _ => Lease {
                id: own.lease,
                ttl,
                proven: None,
            },
        };
        let mut entry = known.unwrap_or_else(|| Entry::new(claim, lease));
        let old = entry.lease;
        entry.lease = lease;
        entry.created = Some(own.create_revision);
        self.book.put(&claim.owner, entry);
        if old.id != lease.id {
            self.discard_unless_used(old);
        }
        // Boxed, since a poll may lead here.
        Box::pin(self.poll(claim, lease, own.create_revision, asked)).await
    }

    /// Takes in that a claim is about to be put there by this lease.
    fn note(&self, claim: &Claim, lease: Lease) {
        let owner = claim.owner.as_str();
        let known = self.book.get(owner);
        let mut entry = known.unwrap_or_else(|| Entry::new(claim, lease));
        entry.lease = lease;
        entry.created = None;
        entry.owns = false;
        entry.in_doubt |= claim.in_doubt;
        self.book.put(&claim.owner, entry);
    }

    fn is_in_doubt(&self, owner: &str) -> bool {
        self.book.get(owner).is_some_and(|entry| entry.in_doubt)
    }

    /// See [`Backend::release`](lock_protocol::Backend::release).
    pub(crate) async fn release(self: &Arc<Core>, release: &Release) -> Result<Released, Fault> {
        let asked = Instant::now();
        let (lock, owner) = (Layout::of(&release.key), release.owner.as_str());
        let entry = self.book.get(owner);
        let created = match entry.as_ref().and_then(|entry| entry.created) {
            Some(created) => created,
            None => match self.created(&lock, owner).await? {
                Some(created) => created,
                None => return Ok(self.not_held(owner)),
            },
        };
        let mine = entry.as_ref().filter(|entry| !entry.in_doubt);
        let mut prepared = None;
        if let Some(next) = &release.next {
            prepared = Some(self.prepare(next, mine.map(|entry| entry.lease)).await?);
        }
        let entering = release.next.as_ref().zip(prepared.as_ref());
        let entering = entering.map(|(next, prepared)| entrant(next, &prepared.lease));
        let owns = entry.as_ref().is_some_and(|entry| entry.owns);
        let txn = self.txn(txns::release(&lock, owner, created, owns, entering));
        let answer = match prepared.as_mut().filter(|prepared| !prepared.is_new) {
            Some(prepared) => {
                let (life, answer) = self.with_life(&prepared.lease, asked, txn).await;
                if let Some(header) = answer.as_ref().ok().and_then(|answer| answer.header) {
                    // Without a proof there is less left of it.
                    let _ = life.take_in(&mut prepared.lease, header.raft_term);
                }
                answer
            }
            None => txn.await,
        };
        let ended = answer.and_then(|answer| txns::released(answer, release.next.is_some()));
        let next = release.next.as_ref().zip(prepared);
        match ended {
            Ok(Ended::Yes(entered)) => {
                let is_shared = next
                    .as_ref()
                    .is_some_and(|(_, prepared)| prepared.is_shared);
                let entry = self.forget(owner);
                // By one that was lent the next claim may live, even if it was given another since.
                if let Some(entry) = entry.filter(|entry| !is_shared && !entry.lent) {
                    self.end(entry.lease, entry.in_doubt);
                }
                let Some(((next, prepared), entered)) = next.zip(*entered) else {
                    return Ok(Released::Released(None));
                };
                let settled = self.settle(next, prepared.lease, entered, asked);
                Ok(Released::Released(Some(settled.await?)))
            }
            Ok(Ended::No { waits }) => {
                self.undo_prepared(next, true);
                if waits {
                    return Ok(Released::NotHeld);
                }
                Ok(self.not_held(owner))
            }
            Err(fault) => {
                if fault.is_unknown() {
                    let mut lent = false;
                    if let Some((next, prepared)) = next {
                        lent = prepared.is_shared;
                        let next = next.owner.as_str();
                        self.book.change(next, |entry| entry.in_doubt = true);
                    }
                    self.book.change(owner, |entry| {
                        entry.in_doubt = true;
                        entry.lent |= lent;
                    });
                } else {
                    let is_alive = !matches!(fault, Fault::NoLease);
                    self.undo_prepared(next, is_alive);
                }
                Err(fault)
            }
        }
    }

    /// A lease for the next claim of a process: that of the holder, if it may be used again.
    async fn prepare(&self, next: &Claim, mine: Option<Lease>) -> Result<Prepared, Fault> {
        let needed = self.leases.kept(next.ttl);
        let prepared = match mine.filter(|lease| lease.ttl == needed) {
            Some(lease) => Prepared {
                lease,
                is_new: false,
                is_shared: true,
            },
            None => match self.leases.idle(needed) {
                Some(lease) => Prepared {
                    lease,
                    is_new: false,
                    is_shared: false,
                },
                None => Prepared {
                    lease: self.leases.grant(needed).await?,
                    is_new: true,
                    is_shared: false,
                },
            },
        };
        self.note(next, prepared.lease);
        Ok(prepared)
    }

    /// The release was not done, and so the next claim was not looked at. Its lease may be used
    /// again if it `is_alive`.
    fn undo_prepared(self: &Arc<Core>, next: Option<(&Claim, Prepared)>, is_alive: bool) {
        if let Some((next, prepared)) = next {
            let in_doubt = self.is_in_doubt(next.owner.as_str());
            if in_doubt {
                return;
            }
            self.forget(next.owner.as_str());
            if !prepared.is_shared && is_alive {
                self.end(prepared.lease, false);
            }
        }
    }

    /// The claim does not hold the lock: its key has gone, and its lease may have.
    fn not_held(self: &Arc<Core>, owner: &str) -> Released {
        if let Some(entry) = self.forget(owner) {
            // By one in doubt the next claim may live, of which nothing is known yet.
            if !entry.in_doubt {
                self.discard_unless_used(entry.lease);
            }
        }
        Released::NotHeld
    }

    /// The revision at which the key of a claim was put there.
    async fn created(&self, lock: &Layout, owner: &str) -> Result<Option<i64>, Fault> {
        let answer = self.txn(txns::read([(lock, owner, false)])).await?;
        let own = txns::first(answer.responses.into_iter().next())?;
        Ok(own.map(|own| own.create_revision))
    }

    /// See [`Backend::abandon`](lock_protocol::Backend::abandon).
    pub(crate) async fn abandon(self: &Arc<Core>, claim: &Claim) -> Result<(), Fault> {
        let (lock, owner) = (Layout::of(&claim.key), claim.owner.as_str());
        let entry = self.book.get(owner);
        let in_doubt = claim.in_doubt || entry.as_ref().is_some_and(|entry| entry.in_doubt);
        let known = entry.as_ref().and_then(|entry| entry.created);
        if let (Some(created), false) = (known, in_doubt) {
            let answer = self.txn(txns::withdraw(&lock, owner, created)).await;
            if answer.as_ref().is_err_and(Fault::is_unknown) {
                self.book.change(owner, |entry| entry.in_doubt = true);
            }
            if answer?.succeeded {
                if let Some(entry) = self.forget(owner) {
                    self.end(entry.lease, false);
                }
                return Ok(());
            }
        }
        // The store does not know it, or may not know it yet.
        let memory = self.leases.memory().await?;
        let mut burying = txns::bury(&lock, owner, memory);
        let mut lease = entry.filter(|entry| !entry.lent).map(|entry| entry.lease);
        if self.made(Mistake::WithdrawsByDeletionAlone) {
            burying.success.truncate(1);
            lease = None;
        }
        let burying = self.txn(burying);
        let lease = lease.filter(|lease| !self.book.uses(lease.id, Some(owner)));
        let revoking = async {
            match lease {
                // What comes late finds no lease to live by.
                Some(lease) => self.leases.revoke(lease.id).await,
                None => Ok(()),
            }
        };
        let (buried, revoked) = tokio::join!(burying, revoking);
        if let Err(Fault::NoLease) = &buried {
            self.leases.forget_memory(memory);
        }
        buried?;
        revoked?;
        self.forget(owner);
        Ok(())
    }

    /// Looks whether a claim that should have its turn has it, and is expected; if not, it is given
    /// back, as it is where its grace has ended.
    pub(crate) async fn look_after(self: &Arc<Core>, owner: &OwnerToken, grace_is_over: bool) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        let (Some(created), Some(turn)) = (entry.created, entry.turn) else {
            // Somebody has asked meanwhile.
            return;
        };
        let lock = Layout::of(&entry.key);
        let answer = self.txn(txns::look(&lock, owner.as_str(), created)).await;
        let Ok(seen) = answer.and_then(txns::looked) else {
            // Not before a while, which is not less than that of the first look.
            self.book.change(owner.as_str(), |entry| {
                entry.turn = Some(Turn {
                    since: Instant::now(),
                    seen: false,
                });
            });
            return;
        };
        if !is_of(seen.own.as_ref(), created) {
            self.sinks.ask_at(&entry.key, owner, Instant::now().into());
            return self.book.change(owner.as_str(), |entry| entry.turn = None);
        }
        if !is_of(seen.oldest.as_ref(), created) {
            return self.listen(owner, created, &seen);
        }
        let is_unwanted = grace_is_over || self.is_unexpected(owner, &entry, turn, &seen);
        if is_unwanted && self.book.leave(owner.as_str(), turn) {
            // If it is not known, whoever asks for the claim begins by doing so once more; and if
            // nobody does, its lease ends, since it is not kept alive any more.
            let _ = self.give_back(owner, &entry).await;
        }
    }

    /// Keeps the lease of a claim alive while it waits, and sees that it still does.
    pub(crate) async fn tend(self: &Arc<Core>, owner: &OwnerToken) {
        let Some(entry) = self.book.get(owner.as_str()) else {
            return;
        };
        let (Some(created), false) = (entry.created, entry.owns) else {
            return;
        };
        let mut lease = entry.lease;
        let Ok(alive) = self.leases.keep_alive(1, lease.id).await else {
            return;
        };
        // The look comes second, so it counts whatever the lease was at.
        let look = txns::look(&Layout::of(&entry.key), owner.as_str(), created);
        let Ok(seen) = self.txn(look).await.and_then(txns::looked) else {
            return;
        };
        if !is_of(seen.own.as_ref(), created) || alive == Alive::No {
            return self.sinks.ask_at(&entry.key, owner, Instant::now().into());
        }
        if lease.take_in(alive, seen.header.raft_term).is_ok() {
            self.book.change(owner.as_str(), |entry| {
                if entry.lease.id == lease.id {
                    entry.lease.proven = entry.lease.proven.max(lease.proven);
                }
            });
        }
    }

    /// Deletes a claim that nobody wants, and no later one of the same owner.
    async fn give_back(self: &Arc<Core>, owner: &OwnerToken, entry: &Entry) -> Result<(), Fault> {
        if let Some(created) = entry.created {
            let lock = Layout::of(&entry.key);
            self.txn(txns::withdraw(&lock, owner.as_str(), created))
                .await?;
        }
        self.forget(owner.as_str());
        if !entry.lent {
            self.end(entry.lease, entry.in_doubt);
        }
        Ok(())
    }

    /// Tells that the claim holds the lock, as was seen. Whether nobody expects it.
    fn is_unexpected(&self, owner: &OwnerToken, entry: &Entry, turn: Turn, seen: &Seen) -> bool {
        // The lease was proven before it was its turn, and lives for longer than the grace.
        let since = entry.lease.proven.filter(|proven| *proven <= turn.since);
        let Some(since) = since else {
            return false;
        };
        let Ok(tokens) = crate::core::tokens(seen.header.revision, 1) else {
            return false;
        };
        let valid_for = entry.grace.min(entry.lease.ttl());
        let mut grant = lock_protocol::Grant::new(tokens, valid_for);
        grant.contended = crate::core::contended(seen);
        let told = self
            .sinks
            .granted(&entry.key, owner.as_str(), grant, since.into());
        told == lock_protocol::Told::Unexpected
    }
}

/// What a question for the life of a lease brought, and when it was asked beside another.
enum Life {
    /// It was not asked: what was known is enough.
    Fresh,
    /// Before the other.
    Before(Result<Alive, Fault>),
    /// At the same time.
    Overlapping(Result<Alive, Fault>),
}

impl Life {
    /// Takes it in, with the term of the other answer. An error if nothing new is proven.
    fn take_in(self, lease: &mut Lease, term: u64) -> Result<(), Fault> {
        match self {
            Life::Fresh => Ok(()),
            Life::Before(alive) => lease.take_in(alive?, term),
            Life::Overlapping(alive) => lease.take_in_overlapping(alive?, term),
        }
    }
}

/// The lease of a next claim.
#[derive(Clone, Copy, Debug)]
struct Prepared {
    lease: Lease,
    /// Whether it was granted just now, and so has its whole ttl.
    is_new: bool,
    /// Whether it is that of the holder.
    is_shared: bool,
}

fn entrant<'a>(claim: &'a Claim, lease: &Lease) -> Entrant<'a> {
    Entrant {
        owner: claim.owner.as_str(),
        queue: claim.queue,
        lease: lease.id,
        ttl: lease.ttl,
    }
}

/// Whether a key is there that was put there at `created`.
fn is_of(key: Option<&KeyValue>, created: i64) -> bool {
    key.is_some_and(|key| key.create_revision == created)
}
