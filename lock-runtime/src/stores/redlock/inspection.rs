//! What those who look after locks ask: all servers at once, of which a majority is believed.

use std::collections::HashMap;
use std::sync::Arc;

use lock_protocol::{BackendError, Card, Condition, Inspected, LockKey, Member, OwnerToken};

use super::shared::Shared;
use crate::clock;
use crate::stores::redis::scripts::voting::Vote;

impl Shared {
    /// Whose a majority says the lock is; nobody's if none does.
    pub(super) async fn inspect(
        self: &Arc<Self>,
        key: &LockKey,
    ) -> Result<Option<Inspected>, BackendError> {
        let mut asked = self.flights(0..self.nodes.len(), |shared, node| {
            let key = key.clone();
            async move { (node, shared.nodes[node].inspected(&key).await) }
        });
        let (quorum, spare) = (self.quorum(), self.spare());
        let (mut votes, mut errors) = (Vec::<(usize, Inspected)>::new(), Vec::new());
        let (mut free, mut winner) = (0, None);
        asked
            .until(|(node, answer)| {
                match answer {
                    Ok(None) => free += 1,
                    Ok(Some(seen)) => {
                        let same = votes.iter().filter(|(_, vote)| vote.owner == seen.owner);
                        if same.count() + 1 >= quorum {
                            winner = Some(seen.owner.clone());
                        }
                        votes.push((node, seen));
                    }
                    Err(error) => errors.push((node, error)),
                }
                winner.is_some() || free > spare || errors.len() > spare
            })
            .await;
        if errors.len() > spare {
            return Err(self.worst(errors));
        }
        Ok(winner.map(|winner| merged(&winner, votes.into_iter().map(|(_, vote)| vote))))
    }

    /// The cards of all processes that any server knows, each once.
    pub(super) async fn cards(self: &Arc<Self>, prefix: &str) -> Result<Vec<Card>, BackendError> {
        let mut asked = self.flights(0..self.nodes.len(), |shared, node| {
            let prefix = prefix.to_owned();
            async move { (node, shared.nodes[node].told_cards(&prefix).await) }
        });
        let (mut cards, mut errors) = (Vec::new(), Vec::new());
        asked
            .until(|(node, answer)| {
                match answer {
                    Ok(told) => cards.extend(told),
                    Err(error) => errors.push((node, error)),
                }
                false
            })
            .await;
        if errors.len() > self.spare() {
            return Err(self.worst(errors));
        }
        Ok(youngest(cards))
    }

    /// Which servers would vote, and whether they are enough.
    pub(super) async fn condition(self: &Arc<Self>) -> Condition {
        let mut asked = self.flights(0..self.nodes.len(), |shared, node| async move {
            (node, shared.votes(node).await)
        });
        let mut members = Vec::new();
        asked
            .until(|member| {
                members.push(member);
                false
            })
            .await;
        members.sort_by_key(|(node, _)| *node);
        let members = members.into_iter().map(|(_, member)| member);
        Condition::of(members.collect(), self.quorum())
    }

    /// Whether the server would vote for a claim now.
    async fn votes(self: &Arc<Self>, node: usize) -> Member {
        let server = &self.nodes[node];
        let member = server.is_well().await;
        let redis = &self.settings.redis;
        let time = self.clock.next(clock::now());
        let name = LockKey::new(&redis.key_prefix, "inspection").ok();
        let (None, Some(time), Some(name)) = (&member.trouble, time, name) else {
            return member;
        };
        let vote = server.attend(&name, self.terms(time), redis.command_timeout);
        match vote.await {
            Ok(Vote::Away(rest)) => {
                let rest = humantime::format_duration(rest);
                let away = BackendError::unavailable(format!("it votes for nobody for {rest}"));
                Member::new(server.address(), Err(away))
            }
            _ => member,
        }
    }
}

/// What the servers that voted for `winner` know of its lease: a majority has it for as long as the
/// shortest of theirs at least.
fn merged(winner: &OwnerToken, votes: impl Iterator<Item = Inspected>) -> Inspected {
    let mut merged = Inspected::new(winner.clone(), None);
    for vote in votes {
        if vote.owner == *winner {
            let shorter = [merged.remaining, vote.remaining]
                .into_iter()
                .flatten()
                .min();
            merged.remaining = shorter;
        }
        if vote.waiting > merged.waiting {
            (merged.waiting, merged.waiters) = (vote.waiting, vote.waiters);
        }
        merged.cards.extend(vote.cards);
    }
    merged.cards = youngest(merged.cards);
    merged
}

/// Of each process the card that it left last.
fn youngest(cards: Vec<Card>) -> Vec<Card> {
    let mut youngest = HashMap::<String, Card>::new();
    for card in cards {
        match youngest.get(&card.id) {
            Some(known) if known.age <= card.age => {}
            _ => {
                youngest.insert(card.id.clone(), card);
            }
        }
    }
    youngest.into_values().collect()
}
