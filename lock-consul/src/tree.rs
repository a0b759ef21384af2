//! What a lock looks like: its keys, as one read has them.

use std::time::Duration;

use lock_protocol::{Contended, Holder, Process};

use crate::layout::{Layout, Said};
use crate::messages::Pair;
use crate::txn::Txn;

/// All keys of one lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) lock: Option<Slot>,
    /// The index of what says that somebody may wait, if it is there.
    pub(crate) queue: Option<u64>,
    /// The claims that wait, those that have waited longest first.
    pub(crate) waiters: Vec<Waiter>,
}

/// The key that is the lock.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Who has locked it, if anybody has.
    pub(crate) session: Option<String>,
    pub(crate) index: u64,
    /// What its value says, or that of the last who held it; `None` if that is foreign.
    pub(crate) said: Option<Said>,
}

/// The key of a claim that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) key: String,
    /// Without one its process is dead, or lost its session.
    pub(crate) session: Option<String>,
    created: u64,
    pub(crate) index: u64,
    pub(crate) said: Said,
}

impl Tree {
    /// The question for all keys of a lock.
    pub(crate) fn question(layout: &Layout) -> Txn {
        let mut txn = Txn::default();
        txn.tree(layout.all());
        txn
    }

    /// What the pairs of a lock say. Whatever others have put beside them is not looked at.
    pub(crate) fn read(layout: &Layout, pairs: Vec<Pair>) -> Tree {
        let (lock, queue, waiters) = (layout.lock(), layout.queue(), layout.waiters());
        let mut tree = Tree::default();
        for pair in pairs {
            if pair.key == lock {
                tree.lock = Some(Slot::read(pair));
            } else if pair.key == queue {
                tree.queue = Some(pair.modify_index);
            } else if pair.key.starts_with(&waiters)
                && let Some(said) = pair.text().as_deref().and_then(Said::read)
            {
                tree.waiters.push(Waiter {
                    key: pair.key.clone(),
                    created: pair.create_index,
                    index: pair.modify_index,
                    session: pair.session(),
                    said,
                });
            }
        }
        tree.waiters.sort_by_key(|waiter| waiter.created);
        tree
    }

    /// The lock, if somebody holds it.
    pub(crate) fn held(&self) -> Option<&Slot> {
        self.lock.as_ref().filter(|slot| slot.session.is_some())
    }

    /// The lock, if `owner` holds it.
    pub(crate) fn held_by(&self, owner: &str) -> Option<&Slot> {
        self.held().filter(|slot| {
            let said = slot.said.as_ref();
            said.is_some_and(|said| said.owner == owner)
        })
    }

    /// The claim that waits longest of those that live.
    pub(crate) fn head(&self) -> Option<&Waiter> {
        self.alive().next()
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = &Waiter> {
        let waiters = self.waiters.iter();
        waiters.filter(|waiter| waiter.session.is_some())
    }

    /// The key by which a claim waits, or did, if it has lost its session since.
    pub(crate) fn waiter<'a>(&'a self, owner: &'a str) -> Option<&'a Waiter> {
        let alive = self.alive().find(|waiter| waiter.said.owner == owner);
        alive.or_else(|| self.waiters_of(owner).next())
    }

    /// All keys by which a claim waits or did: one for each session that it had.
    pub(crate) fn waiters_of<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Waiter> {
        let waiters = self.waiters.iter();
        waiters.filter(move |waiter| waiter.said.owner == owner)
    }

    /// The session of the waiter with this key has ended, as is known by now.
    pub(crate) fn bury(&mut self, key: &str) {
        let mut waiters = self.waiters.iter_mut();
        if let Some(waiter) = waiters.find(|waiter| waiter.key == key) {
            waiter.session = None;
        }
    }

    /// What a waiter has to listen to, and at which index: the claim in front of it, or the lock,
    /// if that is there.
    pub(crate) fn ahead(&self, layout: &Layout, owner: &str) -> Option<(String, u64)> {
        let alive = self.alive().take_while(|waiter| waiter.said.owner != owner);
        if let Some(ahead) = alive.last() {
            return Some((ahead.key.clone(), ahead.index));
        }
        let slot = self.lock.as_ref()?;
        Some((layout.lock(), slot.index))
    }

    /// Whether others than the holder are there.
    pub(crate) fn contended(&self) -> Contended {
        match self.head() {
            Some(_) => Contended::Yes,
            None => Contended::No,
        }
    }

    /// What others are told of the holder.
    pub(crate) fn holder(&self) -> Holder {
        match &self.lock {
            // What is left of its lease is not more than all of it. Where nobody holds it, it may
            // not be had yet, for the ttl of the last holder at the most.
            Some(slot) => match &slot.said {
                Some(said) => {
                    let mut holder = Holder::of_ours(said.ttl);
                    let owner = slot.session.as_ref().map(|_| &said.owner);
                    holder.process = owner.and_then(|owner| Process::of(owner));
                    holder
                }
                None if slot.session.is_some() => {
                    let mut holder = Holder::foreign(None);
                    // Its end is seen as that of ours is.
                    holder.silent = false;
                    holder
                }
                None => Holder::of_ours(Duration::ZERO),
            },
            None => Holder::of_ours(Duration::ZERO),
        }
    }
}

impl Slot {
    pub(crate) fn read(pair: Pair) -> Slot {
        Slot {
            index: pair.modify_index,
            said: pair.text().as_deref().and_then(Said::read),
            session: pair.session(),
        }
    }
}
