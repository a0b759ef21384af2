//! What those who look after locks ask, and the card by which a process answers them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_protocol::{
    BackendError, Card, Condition, Inspected, LockKey, Member, OwnerToken, Release, Released,
};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::call::Call;
use super::fault::Fault;
use super::link::Link;
use super::scripts::{self, company, inspecting};
use super::wakeups::Wakeups;
use super::{RedisBackend, decode};
use crate::backend::Backend;
use crate::sync::lock;

/// The key of no lock: what is asked about none is asked with its prefix.
const NO_LOCK: &str = "inspection";

/// Leaves the cards of those who use a backend.
pub(super) struct Cards {
    pub(super) lane: Arc<Link>,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) timeout: Duration,
    /// Those that were left.
    pub(super) left: Left,
}

/// The cards that a backend has left.
pub(super) type Left = Arc<Mutex<Vec<Card>>>;

impl Cards {
    /// Leaves the cards until the backend is closed, or dropped. The first is left after a period:
    /// what lives no longer costs nothing.
    pub(super) async fn run(self, period: Duration, mut closing: watch::Receiver<bool>) {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = closing.changed() => return,
            }
            for card in self.wakeups.cards() {
                let Some(name) = no_lock(&card.prefix) else {
                    continue;
                };
                {
                    let mut left = lock(&self.left);
                    left.retain(|old| old.id != card.id);
                    left.push(Card::new(
                        card.prefix.clone(),
                        card.id.clone(),
                        String::new(),
                    ));
                }
                let call = inspecting::leave_card(&name, &card, Card::TTL);
                // One that is not left is missed by nobody but those who look.
                let _ = self.lane.ask_within(call, self.timeout).reply().await;
            }
        }
    }
}

impl RedisBackend {
    /// Tells who holds the lock.
    pub(in crate::stores) async fn inspected(
        &self,
        key: &LockKey,
    ) -> Result<Option<Inspected>, BackendError> {
        let call = inspecting::inspect(key);
        self.looked(call, key, |reply| inspecting::inspected(reply, key))
            .await
    }

    /// Tells the cards of this prefix, among which are those of who uses this backend, as they are
    /// now.
    pub(in crate::stores) async fn told_cards(
        &self,
        prefix: &str,
    ) -> Result<Vec<Card>, BackendError> {
        let name =
            no_lock(prefix).ok_or_else(|| BackendError::denied("the prefix is of no lock"))?;
        let call = inspecting::cards(&name);
        let told = |reply: &_| inspecting::told(reply, prefix);
        let mut cards = self.looked(call, &name, told).await?;
        for own in self.wakeups.cards() {
            cards.retain(|card| card.id != own.id);
            cards.push(own);
        }
        cards.retain(|card| card.prefix == prefix);
        Ok(cards)
    }

    /// Ends the lease of whoever has it.
    pub(super) async fn broken(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        let alone = Release::new(key.clone(), owner.clone());
        if let Released::Released(next) = self.release(&alone).await? {
            return Ok(Released::Released(next));
        }
        let call = company::evict(key, owner);
        let ended = |reply: &_| scripts::released(reply, None);
        self.looked(call, key, ended).await
    }

    /// Whether a lock could be granted.
    pub(in crate::stores) async fn is_well(&self) -> Member {
        let answer = match no_lock(&self.key_prefix) {
            Some(name) => {
                let call = inspecting::well(&name);
                self.looked(call, &name, inspecting::done).await
            }
            None => Ok(()),
        };
        Member::new(self.node.address(), answer)
    }

    pub(super) async fn told_condition(&self) -> Condition {
        Condition::of(vec![self.is_well().await], 1)
    }

    /// Takes away the cards that were left: the process is not there any more.
    pub(super) async fn take_cards_away(&self) {
        let left = std::mem::take(&mut *lock(&self.left_cards));
        let lane = &self.node.lanes()[0];
        if !lane.works() {
            return;
        }
        let asked = left.iter().filter_map(|card| {
            let call = inspecting::leave_card(&no_lock(&card.prefix)?, card, Duration::ZERO);
            // There has to be time to close the connections.
            Some(lane.ask_within(call, self.command_timeout / 4))
        });
        for mut asked in asked.collect::<Vec<_>>() {
            // One that is not taken away ends by itself.
            let _ = asked.reply().await;
        }
    }

    /// The answer to a question that has no turn among those of its key.
    async fn looked<T>(
        &self,
        call: Call,
        key: &LockKey,
        answer: impl FnOnce(&deadpool_redis::redis::Value) -> Option<T>,
    ) -> Result<T, BackendError> {
        let lane = &self.node.lanes()[0];
        let reply = lane.ask_within(call, self.command_timeout).reply().await;
        let answer = decode(reply, key, answer);
        answer.map_err(|fault: Fault| fault.explained(&self.operator_rule).into())
    }
}

fn no_lock(prefix: &str) -> Option<LockKey> {
    LockKey::new(prefix, NO_LOCK).ok()
}
