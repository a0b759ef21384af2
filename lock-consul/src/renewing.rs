//! The renewal of many leases at once: each session is renewed, and each lock is read.
//!
//! The read is what proves a lease: as long as it is not older than the delay of the lock, nobody
//! else can have it. The renewal keeps the session from ending by itself.

use std::sync::Arc;
use std::time::Instant;

use lock_protocol::{Extension, LostReason, Renewal, Renewed};
use tokio::sync::Semaphore;

use crate::book::{Entry, Place};
use crate::client::by;
use crate::core::{Core, believed, tokens, written};
use crate::fault::Fault;
use crate::layout::Layout;
use crate::sessions::Session;
use crate::txn::{Conflicts, Done, MOST_OPS, Txn};

/// How many sessions are renewed at a time.
const AT_ONCE: usize = 16;

type Answer = Result<Renewed, Fault>;

impl Core {
    /// See [`Backend::renew`](lock_protocol::Backend::renew).
    pub(crate) async fn renew(self: &Arc<Core>, renewals: Vec<Renewal>) -> Vec<Answer> {
        let (asked, end) = (Instant::now(), self.client.verb_ends());
        let entries: Vec<Option<Entry>> = renewals
            .iter()
            .map(|renewal| self.entry_of(renewal, asked))
            .collect();
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        for (renewal, entry) in renewals.iter().zip(&entries) {
            if let Some(entry) = entry {
                self.renew_session(renewal, entry, &at_once);
            }
        }
        // All is on its way before the first answer is waited for.
        let mut checks = Vec::new();
        for start in (0..renewals.len()).step_by(MOST_OPS) {
            let end = renewals.len().min(start + MOST_OPS);
            let mut txn = Txn::default();
            let mut places = Vec::new();
            for place in start..end {
                if let Some(entry) = &entries[place]
                    && let Place::Owns(index) = entry.place
                {
                    let layout = Layout::of(&renewals[place].key);
                    txn.unchanged(layout.lock(), index);
                    places.push((place, layout.lock(), index));
                }
            }
            let core = Arc::clone(self);
            checks.push(self.handle.spawn(async move {
                let done = match places.is_empty() {
                    true => Ok(Done::Yes(Vec::new())),
                    false => core.txn(&txn).await,
                };
                (places, done)
            }));
        }
        let mut states: Vec<State> = entries.iter().map(|_| State::Unknown).collect();
        for check in checks {
            // Without an answer the thread ends.
            let Ok((places, done)) = check.await else {
                break;
            };
            for (step, (place, key, index)) in places.into_iter().enumerate() {
                states[place] = match &done {
                    // Only an answer that names the lock as it was says that it is held.
                    Ok(Done::Yes(pairs)) => match pairs.get(step) {
                        Some(pair) if pair.key == key && pair.modify_index == index => State::Held,
                        _ => State::Failed(Fault::Strange),
                    },
                    Ok(Done::No(conflicts)) => state_of(conflicts, step),
                    Err(fault) => State::Failed(fault.clone()),
                };
            }
        }
        // Together, since some of them ask: one after the other they would take too long.
        let all = renewals.into_iter().zip(entries).zip(states);
        let judged: Vec<_> = all
            .map(|((renewal, entry), state)| {
                let core = Arc::clone(self);
                self.handle.spawn(by(
                    end,
                    async move { core.judge(renewal, entry, state).await },
                ))
            })
            .collect();
        let mut answers = Vec::with_capacity(judged.len());
        for answer in judged {
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
            }
        });
        self.book.get(owner)
    }

    /// Renews the session of a claim, in the background: whether its lease is held is seen by its
    /// key.
    fn renew_session(self: &Arc<Core>, renewal: &Renewal, entry: &Entry, at_once: &Arc<Semaphore>) {
        if entry.leaving {
            return;
        }
        let (core, at_once) = (Arc::clone(self), Arc::clone(at_once));
        let (owner, id) = (renewal.owner.clone(), Arc::clone(&entry.session.id));
        self.handle.spawn(async move {
            let Ok(_place) = at_once.acquire().await else {
                return;
            };
            let renewed = core.sessions.renew(&id).await;
            core.book.change(owner.as_str(), |entry| {
                if entry.session.id == id {
                    entry.take_in(renewed);
                }
            });
        });
    }

    /// The answer to one renewal.
    async fn judge(
        self: &Arc<Core>,
        renewal: Renewal,
        entry: Option<Entry>,
        state: State,
    ) -> Answer {
        let owner = renewal.owner.as_str();
        if entry.as_ref().is_some_and(|entry| entry.leaving) {
            return Err(Fault::Unknown("the claim is being given back".to_owned()));
        }
        match (state, entry) {
            (State::Failed(fault), _) => Err(fault),
            (State::Held, Some(entry)) => {
                let Place::Owns(index) = entry.place else {
                    return Err(Fault::Strange);
                };
                entry.is_renewed()?;
                self.held(&renewal, &entry.session, index, &entry).await
            }
            (State::Held, None) => Err(Fault::Strange),
            (State::Unknown, entry) => {
                let layout = Layout::of(&renewal.key);
                let tree = self.tree(&layout).await?;
                let Some(slot) = tree.held_by(owner) else {
                    if let Some(entry) = entry {
                        self.lost(owner, &entry);
                    }
                    // An operator, or the end of its session, leaves nobody.
                    return Ok(Renewed::Lost(match tree.held() {
                        Some(_) => LostReason::TakenOver,
                        None => LostReason::Deleted,
                    }));
                };
                let (Some(id), Some(said)) = (&slot.session, &slot.said) else {
                    return Err(Fault::Strange);
                };
                let session = match &entry {
                    Some(entry) if *entry.session.id == **id => entry.session.clone(),
                    // It lives by a session of which nothing is known here.
                    _ => {
                        self.sessions.renew(id).await?;
                        Session::of_others(id, said.ttl)
                    }
                };
                let Some(mut entry) = entry else {
                    return Ok(Renewed::Held(extension(&renewal, &session, None)));
                };
                entry.said = said.clone();
                self.held(&renewal, &session, slot.index, &entry).await
            }
        }
    }

    /// The claim holds the lock, whose key has this index.
    async fn held(
        &self,
        renewal: &Renewal,
        session: &Session,
        mut index: u64,
        entry: &Entry,
    ) -> Answer {
        let owner = renewal.owner.as_str();
        let mut said = entry.said.clone();
        let mut further = None;
        if renewal.tokens > 0 {
            // Another value gives the key a larger index, by which its tokens are larger than all
            // before.
            said.raised += 1;
            let layout = Layout::of(&renewal.key);
            let mut txn = Txn::default();
            txn.rewrite(layout.lock(), index, &said);
            match self.txn(&txn).await? {
                Done::Yes(pairs) => index = written(&pairs, &layout.lock())?,
                Done::No(_) => {
                    let text = "the lock was changed meanwhile".to_owned();
                    return Err(Fault::Unknown(text));
                }
            }
            further = Some(tokens(index, renewal.tokens)?);
        }
        let mut watched = None;
        self.book.change(owner, |entry| {
            entry.place = Place::Owns(index);
            entry.said = said;
            entry.turn = None;
            if entry.session.id != session.id {
                entry.session = session.clone();
            }
            watched = entry.watched.take();
        });
        if let Some(watched) = watched {
            self.watching.forget(&watched);
        }
        Ok(Renewed::Held(extension(renewal, session, further)))
    }

    /// The claim does not hold the lock any more. Its session may live by now for what the engine
    /// has asked for since, so it is left to end by itself.
    fn lost(&self, owner: &str, known: &Entry) {
        self.book.change(owner, |entry| {
            if entry.place == known.place && matches!(entry.place, Place::Owns(_)) {
                entry.place = Place::Unknown;
            }
        });
    }
}

/// What is known of a lease that is to be renewed.
enum State {
    /// Its key is as it was.
    Held,
    /// It has to be read.
    Unknown,
    /// There was no answer.
    Failed(Fault),
}

fn state_of(conflicts: &Conflicts, step: usize) -> State {
    match conflicts.at(step) {
        true => State::Unknown,
        false => State::Held,
    }
}

fn extension(
    renewal: &Renewal,
    session: &Session,
    tokens: Option<lock_protocol::FenceBlock>,
) -> Extension {
    let mut extension = Extension::with_tokens(tokens);
    let valid_for = believed(renewal.ttl, session);
    if valid_for < renewal.ttl {
        extension.valid_for = Some(valid_for);
    }
    extension
}
