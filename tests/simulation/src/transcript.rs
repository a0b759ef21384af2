//! What happened to the store in a history, in the order in which the store took it.

use std::time::Duration;

use lock_protocol::store::{Messages, Word};
use lock_protocol::{Grant, Mode, OwnerToken};

use crate::server::{Body, Reply, Way, instant};
use crate::world::World;

/// Something that happened to the store.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The number of the key.
    pub key: usize,
    /// What was kept of it before, as it was then: what has run out is not in it.
    pub before: Kept,
    /// What happened.
    pub what: Event,
    /// What is kept of it afterwards.
    pub after: Kept,
}

/// Who has a lock, and who waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Who has it, in the order of their owner tokens.
    pub leases: Vec<Leased>,
    /// Who waits.
    pub queue: Vec<OwnerToken>,
    /// What the first of them wants, if there is room for it: nobody has looked at the store since
    /// a lease ran out.
    pub unserved: Option<Mode>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Whose.
    pub owner: OwnerToken,
    /// What it is.
    pub mode: Mode,
    /// Which part of the key.
    pub shard: u8,
    /// How long it lives from now; `None` if it does not end by itself.
    pub left: Option<Duration>,
}

/// What can happen to a store.
#[derive(Clone, Debug)]
pub enum Event {
    /// It was asked, and answered.
    Asked(Box<Asked>),
    /// Another program took a free lock.
    Stolen,
    /// The other program gave it back.
    TheftEnds,
    /// All data was lost.
    DataLost,
    /// The lock was lost, and those who wait for it were not.
    Evicted,
}

/// A question, and what came of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The process that asked, in one of its lives.
    pub way: Way,
    /// What was asked.
    pub question: Body,
    /// What was answered.
    pub answer: Reply,
    /// To whom it told a hand-over, and by which way.
    pub told: Vec<(Way, OwnerToken, Grant)>,
}

impl World {
    /// What is kept of a key; `None` if nobody writes down what happens.
    pub(crate) fn kept(&self, key: usize) -> Option<Kept> {
        self.transcript.as_ref()?;
        let queue = self.server.queue(key, self.now);
        let leases = self.server.leases(key, self.now).map(|lease| Leased {
            owner: lease.owner.clone(),
            mode: lease.mode,
            shard: lease.shard,
            left: lease.ends.map(|ends| ends.since(instant(self.now))),
        });
        let mut leases: Vec<Leased> = leases.collect();
        leases.sort_by(|one, other| one.owner.cmp(&other.owner));
        Some(Kept {
            leases,
            queue: queue.into_iter().cloned().collect(),
            unserved: self.server.unserved(key, self.now),
        })
    }

    /// Writes down what happened to a key of which this was kept `before`.
    pub(crate) fn note(&mut self, key: usize, before: Option<Kept>, what: impl FnOnce() -> Event) {
        if let (Some(before), Some(after)) = (before, self.kept(key))
            && let Some(transcript) = &mut self.transcript
        {
            let what = what();
            transcript.push(Entry {
                key,
                before,
                what,
                after,
            });
        }
    }
}

/// A question, its answer, and the hand-overs that were told.
pub(crate) fn asked(way: Way, question: &Body, answer: &Reply, messages: &Messages<Way>) -> Event {
    let told = messages.iter().filter_map(|message| match message.word {
        Word::Granted(grant, _) => Some((message.way, message.owner.clone(), grant)),
        Word::AskAt(_) => None,
    });
    Event::Asked(Box::new(Asked {
        way,
        question: question.clone(),
        answer: answer.clone(),
        told: told.collect(),
    }))
}
