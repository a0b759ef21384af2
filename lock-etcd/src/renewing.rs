//! The renewal of many leases at once: each is asked to be kept alive, and each claim is read.
//!
//! Neither is enough by itself. A lease may live when its key has been deleted, and a leader that
//! has been replaced without noticing may answer for a lease.

use std::sync::Arc;
use std::time::Instant;

use lock_protocol::{Extension, LostReason, Renewal, Renewed};
use tokio::time::timeout;

use crate::book::Entry;
use crate::core::{Core, tokens};
use crate::fault::Fault;
use crate::keep_alive::{Alive, STREAMS};
use crate::layout::{Layout, ttl_of};
use crate::leases::Lease;
use crate::messages::{Header, KeyValue};
use crate::mistake::Mistake;
use crate::txns::{self, Entrant};

/// How many claims are read in one transaction, at most two keys each; a server takes 128.
const READ_AT_ONCE: usize = 60;
/// From how many leases on the streams share the work.
const PER_STREAM: usize = 64;

type Answer = Result<Renewed, Fault>;

impl Core {
    /// See [`Backend::renew`](lock_protocol::Backend::renew).
    pub(crate) async fn renew(self: &Arc<Core>, renewals: Vec<Renewal>) -> Vec<Answer> {
        let asked = Instant::now();
        let entries: Vec<Option<Entry>> = renewals
            .iter()
            .map(|renewal| self.entry_of(renewal, asked))
            .collect();

        // All is on its way before the first answer is waited for.
        let in_use = renewals.len().div_ceil(PER_STREAM).clamp(1, STREAMS);
        let lives: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let entry = entry.as_ref().filter(|entry| !entry.leaving);
                entry.map(|entry| self.leases.keep_alive(place % in_use, entry.lease.id))
            })
            .collect();
        let (overlapping, mut known_lives) = (overlaps(&entries, asked), Vec::new());
        let mut lives = lives.into_iter();
        if !overlapping {
            for life in lives.by_ref() {
                known_lives.push(match life {
                    Some(life) => Some(life.await),
                    None => None,
                });
            }
        }
        let reads: Vec<_> = (0..renewals.len())
            .step_by(READ_AT_ONCE)
            .map(|start| {
                let end = renewals.len().min(start + READ_AT_ONCE);
                let core = Arc::clone(self);
                let wanted: Vec<_> = (start..end)
                    .map(|place| {
                        let renewal = &renewals[place];
                        let owns = entries[place].as_ref().is_some_and(|entry| entry.owns);
                        (Layout::of(&renewal.key), renewal.owner.clone(), !owns)
                    })
                    .collect();
                self.handle.spawn(async move { core.read(wanted).await })
            })
            .collect();

        let mut found = Vec::with_capacity(renewals.len());
        for read in reads {
            match read.await {
                Ok(read) => found.extend(read),
                // The thread ends.
                Err(_) => break,
            }
        }
        for life in lives {
            known_lives.push(match life {
                Some(life) => Some(life.await),
                None => None,
            });
        }
        // Together, since some of them write: one after the other they would take too long.
        let mut found = found.into_iter();
        let all = renewals.into_iter().zip(entries).zip(known_lives);
        let judged: Vec<_> = all
            .map(|((renewal, entry), life)| {
                let found = found.next().unwrap_or(Err(Fault::Closed));
                let life = life.map(|life| (life, overlapping));
                let core = Arc::clone(self);
                self.handle
                    .spawn(async move { core.judge(renewal, entry, life, found, asked).await })
            })
            .collect();
        let mut answers = Vec::with_capacity(judged.len());
        for answer in judged {
            // Without an answer the thread ends.
            answers.push(answer.await.unwrap_or(Err(Fault::Closed)));
        }
        answers
    }

    /// What is known of a lease that is to be renewed, which its owner has asked for by that.
    fn entry_of(&self, renewal: &Renewal, asked: Instant) -> Option<Entry> {
        let owner = renewal.owner.as_str();
        self.book.change(owner, |entry| {
            if !entry.leaving {
                entry.asked = asked;
                entry.turn = None;
            }
        });
        self.book.get(owner).filter(|entry| entry.created.is_some())
    }

    /// Reads claims, and the holders of the locks of which that is asked.
    async fn read(
        &self,
        wanted: Vec<(Layout, lock_protocol::OwnerToken, bool)>,
    ) -> Vec<Result<Found, Fault>> {
        let claims = wanted
            .iter()
            .map(|(lock, owner, with_oldest)| (lock, owner.as_str(), *with_oldest));
        let answer = match self.txn(txns::read(claims)).await {
            Ok(answer) => answer,
            Err(fault) => return wanted.iter().map(|_| Err(fault.clone())).collect(),
        };
        let header = answer.header;
        let mut responses = answer.responses.into_iter();
        let found = wanted.iter().map(|(_, _, with_oldest)| {
            Ok(Found {
                header: header.ok_or(Fault::Strange)?,
                own: txns::first(responses.next())?,
                oldest: match with_oldest {
                    true => txns::first(responses.next())?,
                    false => None,
                },
            })
        });
        found.collect()
    }

    /// The answer to one renewal.
    async fn judge(
        self: &Arc<Core>,
        renewal: Renewal,
        entry: Option<Entry>,
        life: Option<(Result<Alive, Fault>, bool)>,
        found: Result<Found, Fault>,
        asked: Instant,
    ) -> Answer {
        let owner = renewal.owner.as_str();
        if self.made(Mistake::RenewsByTheLeaseAlone)
            && matches!(life, Some((Ok(Alive::Yes { .. }), _)))
        {
            return Ok(Renewed::Held(Extension::default()));
        }
        let Found {
            header,
            own,
            oldest,
        } = found?;
        if entry.as_ref().is_some_and(|entry| entry.leaving) {
            return Err(Fault::Unknown("the claim is being given back".to_owned()));
        }
        let known = entry.as_ref().and_then(|entry| entry.created);
        let Some(own) = own.filter(|own| known.is_none_or(|known| known == own.create_revision))
        else {
            return Ok(self.lost(&renewal, known).await);
        };
        let created = own.create_revision;
        let is_owner = entry.as_ref().is_some_and(|entry| entry.owns)
            || oldest.is_some_and(|oldest| oldest.create_revision == created);
        if !is_owner {
            return Ok(Renewed::Lost(LostReason::TakenOver));
        }

        let mut lease = match &entry {
            Some(entry) if entry.lease.id == own.lease => entry.lease,
            // It lives by a lease of which nothing is known here.
            _ => Lease {
                id: own.lease,
                ttl: ttl_of(&own.value).ok_or(Fault::Strange)?,
                proven: None,
            },
        };
        let lock = Layout::of(&renewal.key);
        let (life, overlapping, header) = match (&entry, life) {
            (Some(entry), Some((life, overlapping))) if entry.lease.id == own.lease => {
                (life, overlapping, header)
            }
            _ => {
                let life = self.leases.keep_alive(0, lease.id).await;
                let again = self.txn(txns::read([(&lock, owner, false)])).await?;
                let header = again.header.ok_or(Fault::Strange)?;
                let found = txns::first(again.responses.into_iter().next())?;
                if found.is_none_or(|found| found.create_revision != created) {
                    return Ok(self.lost(&renewal, known).await);
                }
                (life, false, header)
            }
        };
        // The term of a read that came before proves as much: a leader that came since has given
        // every lease its whole ttl from when it came.
        let term = header.raft_term;
        let proof = life.and_then(|alive| match overlapping {
            true => lease.take_in_overlapping(alive, term),
            false => lease.take_in(alive, term),
        });
        match proof {
            Ok(()) => {}
            Err(Fault::NoLease) => return Ok(self.lost(&renewal, known).await),
            Err(fault) => return Err(fault),
        }
        self.book.change(owner, |entry| {
            // It may have entered anew meanwhile, behind others.
            if entry.created.is_none_or(|known| known == created) {
                entry.lease = lease;
                entry.owns = true;
                entry.turn = None;
            }
        });

        let needed = self.leases.kept(renewal.ttl);
        let mut revision = None;
        if lease.ttl != needed {
            let old = lease;
            match self
                .prolong(&lock, &renewal.owner, created, old, needed)
                .await?
            {
                Some((longer, at)) => (lease, revision) = (longer, Some(at)),
                None => return Err(Fault::Unknown("the claim was changed meanwhile".to_owned())),
            }
        }
        let mut extension = Extension::default();
        if renewal.tokens > 0 {
            let at = match revision {
                Some(at) => at,
                None => self.raise(&lock, &renewal, created, &lease).await?,
            };
            extension.tokens = Some(tokens(at, renewal.tokens)?);
        }
        let left = lease.left(asked);
        if left.is_zero() {
            return Err(Fault::TooLate);
        }
        if left < renewal.ttl {
            extension.valid_for = Some(left);
        }
        Ok(Renewed::Held(extension))
    }

    /// Makes a revision at which the claim is there: its tokens are larger than all before.
    async fn raise(
        &self,
        lock: &Layout,
        renewal: &Renewal,
        created: i64,
        lease: &Lease,
    ) -> Result<i64, Fault> {
        let entrant = Entrant {
            owner: renewal.owner.as_str(),
            queue: true,
            lease: lease.id,
            ttl: lease.ttl,
        };
        let txn = txns::rewrite(lock, created, lease.id, entrant);
        let answer = self.txn(txn).await?;
        match answer.header {
            Some(header) if answer.succeeded => Ok(header.revision),
            _ => Err(Fault::Unknown("the claim was changed meanwhile".to_owned())),
        }
    }

    /// The claim that was put there at `created` has gone. Its lease may live by now for what the
    /// front has asked for since, so it is left to end by itself.
    async fn lost(&self, renewal: &Renewal, created: Option<i64>) -> Renewed {
        let owner = renewal.owner.as_str();
        self.book.change(owner, |entry| {
            if created.is_some() && entry.created == created {
                entry.owns = false;
                entry.created = None;
            }
        });
        // It happens once in the life of a lease, so that a question is worth to know why; but the
        // answers to all other renewals of the batch wait for it.
        let wanted = vec![(Layout::of(&renewal.key), renewal.owner.clone(), true)];
        let patience = self.client.patience().min(renewal.ttl / 8);
        let read = timeout(patience, self.read(wanted)).await;
        let reason = match read.ok().and_then(|mut read| read.pop()) {
            Some(Ok(Found {
                oldest: Some(oldest),
                own,
                ..
            })) if own.as_ref().is_none_or(|own| own.key != oldest.key) => LostReason::TakenOver,
            Some(Ok(_)) => LostReason::Deleted,
            _ => LostReason::NotHeld,
        };
        Renewed::Lost(reason)
    }
}

/// Whether the leases may be asked for their lives and the claims be read at the same time.
fn overlaps(entries: &[Option<Entry>], now: Instant) -> bool {
    let mut known = entries.iter().flatten();
    known.all(|entry| entry.lease.may_overlap(now))
}

/// What was read of one claim.
struct Found {
    header: Header,
    own: Option<KeyValue>,
    /// Where it was read.
    oldest: Option<KeyValue>,
}
