//! Rounds of votes: how a claim gets the lock, or stands back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lock_protocol::{
    Acquired, BackendError, Claim, Grant, Holder, Instant, Overtaken, valid_until,
};
use tokio::time::{sleep, timeout};

use super::claims::claimed_by;
use super::config::too_long;
use super::course::{Course, Next};
use super::shared::{Shared, block};
use super::tally::{NodeAnswer, Tally, Verdict};
use crate::clock;
use crate::stores::redis::scripts::voting::Vote;

/// In how many round trips one who has votes and no majority asks again, at the most.
const PAUSE: u32 = 4;
/// How often the pause after a split is doubled, at the most, where one split follows another: the
/// votes may be those of a dead process.
const DOUBLED: u32 = 6;
/// The longest pause after a split.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// For how long a claim without a majority waits for the answers that are still to come, at least,
/// when a majority of the nodes has answered, and one of the others did so the last time.
const PATIENCE: Duration = Duration::from_millis(20);

impl Shared {
    pub(super) async fn acquire(self: &Arc<Self>, claim: &Claim) -> Result<Acquired, BackendError> {
        let longest = self.settings.longest_ttl();
        if claim.ttl > longest {
            return Err(BackendError::denied(too_long(claim.ttl, longest)));
        }
        let start = clock::now();
        let longest_try = self.settings.redis.command_timeout / 2;
        if !self.clock.is_known() {
            let within = self.settings.redis.command_timeout;
            let learned = self.learn_time(within).await;
            learned.map_err(BackendError::unavailable)?;
        }
        let (mut number, mut asked) = self.claims.begin(claim, self.nodes.len(), clock::now());
        let (mut least, mut course) = (0, Course::default());
        loop {
            let round = self.round(claim, (number, asked), least).await?;
            let (holder, lasted) = (round.tally.holder(), round.lasted);
            let now = clock::now();
            let who = (claim.owner.as_str(), claim.queue);
            let in_time = now.since(start) <= longest_try;
            let pause = match course.next(&round.tally, who, in_time, now) {
                Next::Granted { until, above } => {
                    let valid_for = until.since(start).min(claim.ttl);
                    let promised = valid_until(start, valid_for);
                    if !self.claims.promise(&claim.owner, number, promised) {
                        return Err(overtaken());
                    }
                    let block = block(round.proposal, above, claim.tokens);
                    return Ok(Acquired::Granted(Grant::new(block, valid_for)));
                }
                Next::Propose(at_least) => {
                    least = at_least;
                    Duration::ZERO
                }
                Next::Refused => {
                    self.stand_back(claim, number, false).await;
                    self.claims.refused(&claim.owner, clock::now());
                    return Ok(Acquired::Taken(holder));
                }
                Next::Unavailable => {
                    self.stand_back(claim, number, false).await;
                    return Err(self.why(round));
                }
                Next::Decline => {
                    let stubs = self.claims.decline(&claim.owner, number, clock::now());
                    self.give_back(stubs).await;
                    return Ok(Acquired::Queued(holder));
                }
                Next::Wait => return Ok(Acquired::Queued(holder)),
                Next::GiveWay => {
                    self.stand_back(claim, number, true).await;
                    let splits = self.claims.split(&claim.owner).min(DOUBLED);
                    let pause = (self.pause(lasted) * (1 << splits)).min(LONGEST_PAUSE);
                    return Ok(Acquired::Queued(Holder::of_ours(pause)));
                }
                Next::Lead => lasted.max(self.round_trip()),
                Next::Again => {
                    number = self.stand_back(claim, number, false).await;
                    self.pause(lasted)
                }
            };
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let begun = self.claims.begin_again(&claim.owner, number, clock::now());
            (number, asked) = begun.ok_or_else(overtaken)?;
        }
    }

    /// A random pause after a round that `lasted` so long, so that of those who have split the
    /// votes one asks first, and has asked before the next one does.
    fn pause(&self, lasted: Duration) -> Duration {
        let share = f64::from(clock::chance()) / f64::from(u32::MAX);
        (self.round_trip().max(lasted) * PAUSE).mul_f64(share)
    }

    /// Gives back what the claim has, as [`Claims::give_back`](super::claims::Claims::give_back)
    /// does. Returns the latest round.
    async fn stand_back(self: &Arc<Self>, claim: &Claim, number: u64, votes_only: bool) -> u64 {
        let now = clock::now();
        let (stubs, latest) = self.claims.give_back(&claim.owner, number, votes_only, now);
        self.give_back(stubs).await;
        latest
    }

    /// Asks all nodes for their votes for the claim, which each knows as `asked`, until it is
    /// decided. What is answered later is taken in as well.
    async fn round(
        self: &Arc<Self>,
        claim: &Claim,
        (number, asked): (u64, Vec<Claim>),
        least: u64,
    ) -> Result<Round, BackendError> {
        let sent_at = clock::now();
        let proposal = self.proposal(sent_at, least)?;
        let terms = self.terms(proposal);
        let mut flights = self.flights(0..self.nodes.len(), |shared, node| {
            let (asked, owner) = (asked[node].clone(), claim.owner.clone());
            async move {
                let answer = shared.nodes[node].vote(&asked, terms).await;
                shared.silent[node].store(answer.is_err(), Ordering::Relaxed);
                let now = clock::now();
                let time = match &answer {
                    Ok(Vote::Given { time, .. } | Vote::Refused { time, .. }) => Some(*time),
                    _ => None,
                };
                if let Some(time) = time {
                    shared.clock.heard(node, time, now);
                }
                if let Ok(vote) = &answer {
                    let voted = matches!(vote, Vote::Given { .. });
                    let queued = matches!(vote, Vote::Refused { queued: true, .. });
                    let place = (node, number);
                    let asked = &asked.owner;
                    let unwanted = shared.claims.answered(&owner, place, asked, voted, queued);
                    if let Some(stub) = unwanted {
                        shared.give_back(vec![stub]).await;
                    }
                }
                (node, answer)
            }
        });
        let mut round = Round {
            tally: Tally::new(self.nodes.len(), proposal),
            proposal,
            lasted: Duration::ZERO,
            errors: Vec::new(),
        };
        let mut open: Vec<bool> = vec![true; self.nodes.len()];
        let quorum = self.quorum();
        let mut answered = 0;
        flights
            .until(|(node, answer)| {
                answered += 1;
                open[node] = false;
                round.take(node, claim, sent_at, answer);
                answered >= quorum || round.tally.verdict(clock::now()) != Verdict::Pending
            })
            .await;
        self.took(clock::now().since(sent_at));
        // Of the rest some may hang, and nobody is to sit on votes as long: still less for those
        // that had no answer the last time.
        let short = self.round_trip() * PAUSE;
        for (patience, is_for_all) in [(short.max(PATIENCE), false), (short, true)] {
            let is_enough = |round: &Round, open: &[bool]| {
                round.tally.verdict(clock::now()) != Verdict::Pending
                    || !is_for_all && !self.may_come(open)
            };
            if is_enough(&round, &open) {
                continue;
            }
            let rest = flights.until(|(node, answer)| {
                open[node] = false;
                round.take(node, claim, sent_at, answer);
                is_enough(&round, &open)
            });
            // Whether it is decided then, the tally tells.
            let _ = timeout(patience, rest).await;
        }
        round.lasted = clock::now().since(sent_at);
        Ok(round)
    }

    /// Whether one of the nodes that have not answered yet did so when it was asked last.
    fn may_come(&self, open: &[bool]) -> bool {
        let mut nodes = open.iter().zip(&self.silent);
        nodes.any(|(is_open, silent)| *is_open && !silent.load(Ordering::Relaxed))
    }

    /// Why too few servers vote.
    fn why(&self, round: Round) -> BackendError {
        match round.tally.away() {
            Some(pause) => BackendError::unavailable(Restarted(pause)),
            None => self.worst(round.errors),
        }
    }
}

/// What became of one round.
struct Round {
    tally: Tally,
    proposal: u64,
    /// How long it was waited for its answers.
    lasted: Duration,
    errors: Vec<(usize, BackendError)>,
}

/// Why a lock cannot be had of servers that have restarted.
#[derive(Debug, thiserror::Error)]
#[error(
    "servers that may have lost their data vote again in {}, as `restart_delay` says",
    humantime::format_duration(*.0)
)]
struct Restarted(Duration);

impl Round {
    fn take(
        &mut self,
        node: usize,
        claim: &Claim,
        sent_at: Instant,
        answer: Result<Vote, BackendError>,
    ) {
        let answer = match answer {
            Ok(Vote::Given { before, .. }) => NodeAnswer::Vote {
                sent_at,
                ttl: claim.ttl,
                before,
            },
            // A free node, or one where it would wait, refuses only what was withdrawn.
            Ok(Vote::Refused { who, queued, .. }) if !queued && (claim.queue || who.is_empty()) => {
                NodeAnswer::Gone
            }
            Ok(Vote::Refused { holder, who, .. }) => NodeAnswer::Refused {
                holder,
                who: claimed_by(&who).into(),
            },
            Ok(Vote::Away(pause)) => NodeAnswer::Away(pause),
            Ok(Vote::Lost(_)) => NodeAnswer::Failed,
            Err(error) => {
                self.errors.push((node, error));
                NodeAnswer::Failed
            }
        };
        self.tally.take(node, answer);
    }
}

/// A later question about the claim went ahead, or its end.
fn overtaken() -> BackendError {
    BackendError::unavailable(Overtaken)
}
