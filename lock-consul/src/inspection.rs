//! What those who look after locks ask: nothing is decided by it.

use std::sync::Arc;

use lock_protocol::{Condition, Inspected, LockKey, Member, OwnerToken, Released, Waiting};

use crate::core::{Core, TRIES};
use crate::fault::Fault;
use crate::layout::Layout;
use crate::tree::{Slot, Tree};
use crate::txn::{Done, Txn};

impl Core {
    /// See [`Backend::inspect`](lock_protocol::Backend::inspect). What is left of a lease is not
    /// more than all of it, and nothing else is known.
    pub(crate) async fn inspect(self: Arc<Core>, key: LockKey) -> Result<Option<Inspected>, Fault> {
        let tree = self.tree(&Layout::of(&key)).await?;
        Ok(inspected(&tree))
    }

    /// See [`Backend::break_lock`](lock_protocol::Backend::break_lock). That of another program is
    /// named by its session.
    pub(crate) async fn break_lock(
        self: Arc<Core>,
        key: LockKey,
        owner: OwnerToken,
    ) -> Result<Released, Fault> {
        let layout = Layout::of(&key);
        let is_broken = self.break_lease(&layout, owner.as_str()).await?
            || self.break_foreign(&layout, owner.as_str()).await?;
        Ok(match is_broken {
            true => Released::Released(None),
            false => Released::NotHeld,
        })
    }

    /// See [`Backend::condition`](lock_protocol::Backend::condition). Each agent speaks for all
    /// servers, so one that answers is enough.
    pub(crate) async fn condition(self: Arc<Core>) -> Condition {
        let answers = self.client.each_agent().await.into_iter();
        let members = answers.map(|(address, answer)| {
            let answer = answer.map_err(lock_protocol::BackendError::from);
            Member::new(address, answer)
        });
        Condition::of(members.collect(), 1)
    }

    /// Takes the lock from another program that holds it by `session`, and gives it to the claim
    /// that has waited longest. Whether that program held it.
    async fn break_foreign(&self, layout: &Layout, session: &str) -> Result<bool, Fault> {
        for _ in 0..TRIES {
            let tree = self.tree(layout).await?;
            let is_it = |slot: &&Slot| slot.said.is_none() && owner(slot) == session;
            let Some(slot) = tree.held().filter(is_it) else {
                return Ok(false);
            };
            let mut txn = Txn::default();
            txn.take_away(layout.lock(), slot.index);
            if let Done::Yes(_) = self.txn(&txn).await? {
                // If that fails, whoever waits looks by itself.
                let _ = self.served(layout).await;
                return Ok(true);
            }
        }
        Err(Fault::Busy)
    }
}

/// What is told of a lock, if somebody holds it.
fn inspected(tree: &Tree) -> Option<Inspected> {
    let slot = tree.held()?;
    let holder = owner(slot);
    let remaining = slot.said.as_ref().map(|said| said.ttl);
    let mut inspected = Inspected::new(OwnerToken::new(holder), remaining);
    // A question that came late may have put the holder into the queue as well.
    let waiters = tree.alive().map(|waiter| waiter.said.owner.as_str());
    let waiters: Vec<&str> = waiters.filter(|waiter| *waiter != holder).collect();
    inspected.waiting = waiters.len();
    let named = waiters.into_iter().take(Inspected::MOST_NAMED);
    inspected.waiters = named
        .map(|waiter| Waiting::new(OwnerToken::new(waiter)))
        .collect();
    Some(inspected)
}

/// Whose a lock is that is held: of another program its session, since the value may be nothing, or
/// that of the next one as well.
fn owner(slot: &Slot) -> &str {
    match &slot.said {
        Some(said) => &said.owner,
        None => slot.session.as_deref().unwrap_or_default(),
    }
}
