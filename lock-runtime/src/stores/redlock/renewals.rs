//! How leases are renewed, and grow to the nodes that do not vote for them yet.

use std::sync::Arc;

use lock_protocol::{
    Backend, BackendError, Extension, Instant, LostReason, OwnerToken, Renewal, Renewed,
    valid_until,
};

use super::flights::Flights;
use super::shared::{PROPOSALS, Shared, block};
use super::tally::{NodeAnswer, Tally, Verdict};
use crate::clock;
use crate::stores::redis::scripts::voting::Vote;

impl Shared {
    pub(super) async fn renew(
        self: &Arc<Self>,
        leases: &[Renewal],
    ) -> Vec<Result<Renewed, BackendError>> {
        let (plain, wanting): (Vec<_>, Vec<_>) =
            (0..leases.len()).partition(|index| leases[*index].tokens == 0);
        let leases: Arc<[Renewal]> = leases.into();
        let asked = wanting.iter().map(|index| {
            let (shared, leases, index) = (Arc::clone(self), Arc::clone(&leases), *index);
            Box::pin(async move { (index, shared.renew_with_tokens(&leases[index]).await) }) as _
        });
        let mut asked = Flights::new(&self.handle, asked.collect());
        let mut answers = Vec::with_capacity(leases.len());
        let with_tokens = asked.until(|answer| {
            answers.push(answer);
            false
        });
        let (_, others) = tokio::join!(with_tokens, self.renew_plain(&leases, plain));
        answers.extend(others);
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn renew_plain(
        self: &Arc<Self>,
        leases: &Arc<[Renewal]>,
        wanted: Vec<usize>,
    ) -> Vec<(usize, Result<Renewed, BackendError>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let sent_at = clock::now();
        let nodes = self.nodes.len();
        let mut batches = vec![Vec::with_capacity(wanted.len()); nodes];
        for index in &wanted {
            let tokens = self.claims.tokens(&leases[*index].owner, nodes);
            for (batch, token) in batches.iter_mut().zip(tokens) {
                let mut renewal = leases[*index].clone();
                renewal.owner = token;
                batch.push(renewal);
            }
        }
        let batches: Arc<[Vec<Renewal>]> = batches.into();
        let wanted: Arc<[usize]> = wanted.into();
        let mut asked = self.flights(0..nodes, |shared, node| {
            let (batches, leases) = (Arc::clone(&batches), Arc::clone(leases));
            let wanted = Arc::clone(&wanted);
            async move {
                let answers = shared.nodes[node].renew(&batches[node]).await;
                for ((index, asked), answer) in wanted.iter().zip(&batches[node]).zip(&answers) {
                    let owner = &leases[*index].owner;
                    if let Ok(renewed) = answer {
                        let is_held = matches!(renewed, Renewed::Held(_));
                        let asked = &asked.owner;
                        shared.claims.renewed_at(owner, node, asked, is_held);
                    }
                }
                (node, answers)
            }
        });
        let (quorum, spare) = (self.quorum(), self.spare());
        let mut counts: Vec<(usize, Lost)> = vec![(0, Lost::default()); wanted.len()];
        let mut errors: Vec<Vec<(usize, BackendError)>> =
            wanted.iter().map(|_| Vec::new()).collect();
        asked
            .until(|(node, answers)| {
                for (place, answer) in answers.into_iter().enumerate() {
                    match answer {
                        Ok(Renewed::Held(_)) => counts[place].0 += 1,
                        Ok(Renewed::Lost(reason)) => counts[place].1.add(reason),
                        Ok(_) => {}
                        Err(error) => errors[place].push((node, error)),
                    }
                }
                let mut decided = counts.iter().zip(&errors);
                decided.all(|((held, lost), errors)| {
                    *held >= quorum || lost.nodes > spare || errors.len() > spare
                })
            })
            .await;
        let mut answers = Vec::with_capacity(wanted.len());
        for ((index, (held, lost)), errors) in wanted.iter().zip(counts).zip(errors) {
            let answer = if held >= quorum {
                self.join(&leases[*index], sent_at);
                Ok(Renewed::held())
            } else if lost.nodes > spare {
                Ok(Renewed::Lost(lost.reason()))
            } else {
                Err(self.worst(errors))
            };
            answers.push((*index, answer));
        }
        answers
    }

    async fn renew_with_tokens(
        self: &Arc<Self>,
        renewal: &Renewal,
    ) -> Result<Renewed, BackendError> {
        let nodes = self.nodes.len();
        let mut least = 0;
        for _ in 0..PROPOSALS {
            let sent_at = clock::now();
            let proposal = self.proposal(sent_at, least)?;
            let terms = self.terms(proposal);
            let tokens: Arc<[OwnerToken]> = self.claims.tokens(&renewal.owner, nodes).into();
            let mut asked = self.flights(0..nodes, |shared, node| {
                let (mut own, owner) = (renewal.clone(), renewal.owner.clone());
                own.owner = tokens[node].clone();
                async move {
                    let answer = shared.nodes[node].renew_vote(&own, terms).await;
                    if let Ok(vote) = &answer {
                        let is_held = matches!(vote, Vote::Given { .. });
                        shared.claims.renewed_at(&owner, node, &own.owner, is_held);
                    }
                    (node, answer)
                }
            });
            let mut tally = Tally::new(nodes, proposal);
            let (mut lost, mut errors) = (Lost::default(), Vec::new());
            let spare = self.spare();
            asked
                .until(|(node, answer)| {
                    tally.take(
                        node,
                        match answer {
                            Ok(Vote::Given { before, time }) => {
                                self.clock.heard(node, time, clock::now());
                                NodeAnswer::Vote {
                                    sent_at,
                                    ttl: renewal.ttl,
                                    before,
                                }
                            }
                            Ok(Vote::Lost(reason)) => {
                                lost.add(reason);
                                NodeAnswer::Gone
                            }
                            Ok(_) => NodeAnswer::Failed,
                            Err(error) => {
                                errors.push((node, error));
                                NodeAnswer::Failed
                            }
                        },
                    );
                    tally.verdict(clock::now()) != Verdict::Pending || lost.nodes > spare
                })
                .await;
            match tally.verdict(clock::now()) {
                Verdict::Granted { above, .. } => {
                    self.join(renewal, sent_at);
                    let block = block(proposal, above, renewal.tokens);
                    return Ok(Renewed::Held(Extension::with_tokens(Some(block))));
                }
                Verdict::Behind(known) => least = known + 1,
                _ if lost.nodes > spare => return Ok(Renewed::Lost(lost.reason())),
                _ => return Err(self.worst(errors)),
            }
        }
        Err(BackendError::unavailable(
            "others draw fencing tokens faster",
        ))
    }

    /// Takes in that a renewal that was sent at this instant was confirmed by a majority, and joins
    /// the nodes that do not vote for the lease, in the background.
    fn join(self: &Arc<Self>, renewal: &Renewal, sent_at: Instant) {
        let until = valid_until(sent_at, renewal.ttl);
        let (question, lacking) = self.claims.renewed(renewal, until, clock::now());
        for (node, claim) in lacking {
            let (shared, owner) = (Arc::clone(self), renewal.owner.clone());
            self.handle.spawn(async move {
                if let Some(proposal) = shared.clock.next(clock::now()) {
                    let mut terms = shared.terms(proposal);
                    terms.proven = true;
                    let answer = shared.nodes[node].vote(&claim, terms).await;
                    if let Ok(vote) = answer {
                        let voted = matches!(vote, Vote::Given { .. });
                        let asked = &claim.owner;
                        let place = (node, question);
                        shared.claims.answered(&owner, place, asked, voted, false);
                    }
                }
                shared.claims.joined(&owner, node, &claim.owner);
            });
        }
    }
}

/// The nodes that do not vote for a lease any more.
#[derive(Clone, Copy, Default)]
struct Lost {
    nodes: usize,
    taken_over: usize,
}

impl Lost {
    fn add(&mut self, reason: LostReason) {
        self.nodes += 1;
        self.taken_over += usize::from(reason == LostReason::TakenOver);
    }

    /// Why the lease is lost: where one of them votes for another, that may have the lock.
    fn reason(self) -> LostReason {
        match self.taken_over {
            0 => LostReason::Deleted,
            _ => LostReason::TakenOver,
        }
    }
}
