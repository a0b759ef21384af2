//! What the server holds, and the four scripts, each line for line what `lock-runtime/src/stores/redis/scripts/*.lua` does.

use crate::{BLOCK, Bug, Process, Protocol, Seen};

/// One claim of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// Of which process.
    pub process: usize,
    /// The how-manieth.
    pub number: u8,
}

/// Fencing tokens that were reserved together, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// The first of them.
    pub first: u8,
    /// The last of them.
    pub last: u8,
}

/// The value of the lock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Whose lock it is.
    pub claim: Claim,
    /// Which grant, counted from one: known to onlookers only.
    pub grant: u8,
    /// Whether it has a ttl.
    pub leased: bool,
    /// Whether that ends before its holder expects it.
    pub cut: bool,
}

/// The keys of the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Store {
    /// The lock key.
    pub owner: Option<Owner>,
    /// The waiters, the oldest first.
    pub queue: Vec<Claim>,
    /// The last fencing token; zero if the key is not there.
    pub fence: u8,
    /// `TIME`, in the unit of fencing tokens.
    pub time: u8,
    /// How many grants there were: known to onlookers only.
    pub grants: u8,
}

/// What a script answers to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It owns the lock.
    Granted(Block),
    /// It waits.
    Queued,
}

/// The message of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) to: Claim,
    pub(crate) block: Block,
    pub(crate) grant: u8,
}

/// A script while it runs.
pub(crate) struct Script<'a> {
    pub(crate) protocol: &'a Protocol,
    pub(crate) store: &'a mut Store,
    pub(crate) processes: &'a [Process],
    pub(crate) seen: &'a mut Seen,
    /// How far `TIME` moves on if it grants.
    pub(crate) takes: u8,
    pub(crate) sent: Vec<Message>,
}

impl Script<'_> {
    /// `acquire.lua`: take the lock, or queue for it. What is `late` asks for less than a younger
    /// question did.
    pub(crate) fn acquire(&mut self, claim: Claim, late: bool) -> Answer {
        match self.store.owner {
            Some(owner) if owner.claim == claim && !self.protocol.has(Bug::OwnerNotRecognised) => {
                self.store.queue.retain(|waiter| *waiter != claim);
                if let Some(owner) = &mut self.store.owner {
                    owner.cut |= late && self.protocol.has(Bug::LateQuestionShortens);
                }
                if self.store.fence > 0 {
                    let last = self.store.fence;
                    return Answer::Granted(Block { first: last, last });
                }
                Answer::Granted(self.reserve(BLOCK))
            }
            Some(_) => self.stand_back(claim),
            None => {
                if !self.protocol.has(Bug::FreeForAnyone) && self.hand_over(Some(claim)) {
                    return self.stand_back(claim);
                }
                self.note_overtaken(claim);
                self.store.queue.retain(|waiter| *waiter != claim);
                self.make_owner(claim)
            }
        }
    }

    /// `renew.lua`: extend the lease if this owner still holds it, and reserve further tokens. `None` if it is lost.
    pub(crate) fn renew(&mut self, claim: Claim, grant: u8, tokens: u8) -> Option<Option<Block>> {
        if !self.owns(claim) {
            if !self.protocol.has(Bug::RenewWithoutCompare) {
                return None;
            }
            self.note_eviction();
            self.store.owner = Some(Owner {
                claim,
                grant,
                leased: true,
                cut: false,
            });
        }
        if let Some(owner) = &mut self.store.owner {
            owner.leased = true;
            owner.cut = false;
        }
        if tokens == 0 {
            return Some(None);
        }
        Some(Some(self.reserve(tokens)))
    }

    /// `release.lua`: end the lease of this owner, hand the lock over, and queue the next claim of the same process. `None` if it is not
    /// held.
    pub(crate) fn release(&mut self, claim: Claim, next: Option<Claim>) -> Option<Option<Answer>> {
        if !self.owns(claim) {
            if !self.protocol.has(Bug::ReleaseWithoutCompare) {
                return None;
            }
            self.note_eviction();
        }
        if !self.protocol.has(Bug::ReleaseForgetsQueue) && self.hand_over(None) {
            return Some(next.map(|next| self.stand_back(next)));
        }
        self.store.owner = None;
        Some(next.map(|next| self.make_owner(next)))
    }

    /// `abandon.lua`: withdraw a claim.
    pub(crate) fn abandon(&mut self, claim: Claim) {
        self.store.queue.retain(|waiter| *waiter != claim);
        let frees = self.owns(claim) && !self.protocol.has(Bug::AbandonOnlyLeavesQueue);
        if frees && (self.protocol.has(Bug::AbandonForgetsQueue) || !self.hand_over(None)) {
            self.store.owner = None;
        }
        self.seen.withdrawn_stayed |= self.owns(claim) || self.store.queue.contains(&claim);
    }

    fn owns(&self, claim: Claim) -> bool {
        self.store.owner.is_some_and(|owner| owner.claim == claim)
    }

    /// Makes the first of the queue the owner for its grace; if its process is gone, the next one, and so on as far as `own`. Whether
    /// there was one.
    fn hand_over(&mut self, own: Option<Claim>) -> bool {
        while let Some(&waiter) = self.store.queue.first().filter(|w| Some(**w) != own) {
            self.store.queue.remove(0);
            if !self.hears(waiter) {
                continue;
            }
            let block = if self.protocol.has(Bug::HandOffKeepsToken) {
                self.last_again()
            } else {
                self.reserve(BLOCK)
            };
            let grant = self.set_owner(waiter, !self.protocol.has(Bug::HandOffWithoutLease));
            self.sent.push(Message {
                to: waiter,
                block,
                grant,
            });
            return true;
        }
        false
    }

    /// Whether `PUBLISH` counts a receiver.
    fn hears(&self, claim: Claim) -> bool {
        self.processes[claim.process].connected
    }

    fn stand_back(&mut self, claim: Claim) -> Answer {
        if !self.store.queue.contains(&claim) || self.protocol.has(Bug::RepeatQueuesAgain) {
            self.store.queue.push(claim);
        }
        Answer::Queued
    }

    fn make_owner(&mut self, claim: Claim) -> Answer {
        let block = self.reserve(BLOCK);
        self.set_owner(claim, true);
        Answer::Granted(block)
    }

    fn set_owner(&mut self, claim: Claim, leased: bool) -> u8 {
        self.store.grants += 1;
        let grant = self.store.grants;
        self.store.owner = Some(Owner {
            claim,
            grant,
            leased,
            cut: false,
        });
        self.seen.lapsed = false;
        grant
    }

    /// The next block of tokens: larger than all before, and not below the time. Where the counter runs ahead of the time it is one
    /// token, lest it outrun what has to save it.
    fn reserve(&mut self, tokens: u8) -> Block {
        self.store.time += self.takes;
        let mut block = Block {
            first: self.store.fence + 1,
            last: self.store.fence + tokens,
        };
        if !self.protocol.has(Bug::TokensWithoutTime) {
            if block.first <= self.store.time {
                block.first = self.store.time;
                block.last = block.first + tokens - 1;
            } else if !self.protocol.has(Bug::BlocksOutrunTime) {
                block.last = block.first;
            }
        }
        self.store.fence = block.last;
        self.note_tokens(block);
        block
    }

    fn last_again(&mut self) -> Block {
        let last = self.store.fence;
        let block = Block { first: last, last };
        self.note_tokens(block);
        block
    }

    fn note_tokens(&mut self, block: Block) {
        self.seen.token_fell |= block.first <= self.seen.token;
        self.seen.token = self.seen.token.max(block.last);
    }

    fn note_eviction(&mut self) {
        let owner = self.store.owner;
        self.seen.evicted |= owner.is_some_and(|owner| self.processes[owner.claim.process].lives());
    }

    fn note_overtaken(&mut self, claim: Claim) {
        let mut before = self.store.queue.iter().take_while(|w| **w != claim);
        let waits = |waiter: &Claim| self.processes[waiter.process].lives() && self.hears(*waiter);
        self.seen.overtaken |= before.any(waits);
    }
}
