//! The nodes, and what is asked of all of them beside rounds of votes.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_protocol::{
    Backend, BackendError, BoxError, Claim, FenceBlock, FencingToken, Instant, LockKey, Overtaken,
    OwnerToken, Release, Released, Sinks,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::claims::{Claims, Stub};
use super::clock::Clock;
use super::config::RedlockSettings;
use super::flights::Flights;
use super::tally::majority;
use crate::backoff::{Backoff, Retry};
use crate::clock;
use crate::error::LockError;
use crate::stores::redis::RedisBackend;
use crate::stores::redis::scripts::voting::Terms;

/// The pauses between attempts to give back what a node has not heard of.
const GIVE_BACK: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(1),
};
/// How many claims may be withdrawn in the background at one node. A node that is down for long
/// would gather as many as are made in a ttl; what is left out ends by its ttl, and few have got
/// there.
const LATER: usize = 1024;
/// How often a larger fencing token is proposed in a row.
pub(super) const PROPOSALS: u32 = 3;

/// The nodes, and what is known of claims and time.
pub(super) struct Shared {
    pub(super) nodes: Vec<RedisBackend>,
    pub(super) settings: RedlockSettings,
    pub(super) claims: Claims,
    pub(super) clock: Clock,
    pub(super) sinks: Sinks,
    /// Where the background work runs: on the thread of the nodes.
    pub(super) handle: Handle,
    /// Of each node, whether the last question to it that has ended had no answer.
    pub(super) silent: Vec<AtomicBool>,
    /// About how long a round takes, in microseconds.
    round_trip: AtomicU64,
    /// Of each node, how many more claims may be withdrawn there in the background.
    later: Vec<Arc<Semaphore>>,
}

impl Shared {
    pub(super) fn new(
        nodes: Vec<RedisBackend>,
        settings: RedlockSettings,
        handle: Handle,
    ) -> Shared {
        Shared {
            claims: Claims::default(),
            clock: Clock::new(nodes.len()),
            sinks: Sinks::default(),
            silent: nodes.iter().map(|_| AtomicBool::default()).collect(),
            round_trip: AtomicU64::new(1_000),
            later: nodes
                .iter()
                .map(|_| Arc::new(Semaphore::new(LATER)))
                .collect(),
            nodes,
            settings,
            handle,
        }
    }

    pub(super) fn quorum(&self) -> usize {
        majority(self.nodes.len())
    }

    /// How many nodes may fail.
    pub(super) fn spare(&self) -> usize {
        self.nodes.len() - self.quorum()
    }

    /// The fencing token to propose `now`, not below `least`.
    pub(super) fn proposal(&self, now: Instant, least: u64) -> Result<u64, BackendError> {
        let time = self.clock.next(now);
        let unknown = || BackendError::unavailable("the time of the servers is not known");
        Ok(time.ok_or_else(unknown)?.max(least))
    }

    pub(super) fn terms(&self, proposal: u64) -> Terms {
        Terms {
            proposal,
            restart_delay: self.settings.restart_delay,
            proven: false,
        }
    }

    /// Asks each node by `ask`, all at the same time.
    pub(super) fn flights<T: Send + 'static, F>(
        self: &Arc<Self>,
        nodes: impl IntoIterator<Item = usize>,
        ask: impl Fn(Arc<Shared>, usize) -> F,
    ) -> Flights<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let ask = |node| Box::pin(ask(Arc::clone(self), node)) as _;
        Flights::new(&self.handle, nodes.into_iter().map(ask).collect())
    }

    /// Takes in how long a round took.
    pub(super) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros())
            .unwrap_or(u64::MAX)
            .min(50_000);
        let known = self.round_trip.load(Ordering::Relaxed);
        self.round_trip
            .store((known * 7 + micros) / 8, Ordering::Relaxed);
    }

    /// About how long a round takes.
    pub(super) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed).max(500))
    }

    fn at(&self, node: usize, error: BackendError) -> AtServer {
        AtServer {
            address: self.nodes[node].address().to_owned(),
            source: error.into_source(),
        }
    }

    /// Waits until a majority has told its time, and makes sure that no two are the same.
    pub(super) async fn meet(
        self: &Arc<Self>,
        name: &LockKey,
        within: Duration,
    ) -> Result<(), LockError> {
        self.learn_time(within).await?;
        let mut marks = self.flights(0..self.nodes.len(), |shared, node| {
            let name = name.clone();
            async move {
                let mark = node.to_string();
                let time = shared.clock.next(clock::now()).unwrap_or(0);
                // What it answers is for those who want its vote.
                let _ = shared.nodes[node]
                    .attend(&name, shared.terms(time), within)
                    .await;
                (node, shared.nodes[node].mark(&name, &mark, within).await)
            }
        });
        let (mut found, mut answered) = (None, 0);
        let quorum = self.quorum();
        marks
            .until(|(node, mark)| {
                if let Ok(mark) = mark {
                    answered += 1;
                    if mark != node.to_string() {
                        found = Some((node, mark));
                    }
                }
                found.is_some()
            })
            .await;
        match found {
            Some((node, mark)) => {
                let other = mark
                    .parse()
                    .ok()
                    .and_then(|other: usize| self.nodes.get(other));
                let other = other.map_or("another", RedisBackend::address);
                Err(same(other, self.nodes[node].address()))
            }
            None if answered < quorum => Err(BackendError::unavailable(
                "fewer than a majority of the servers can be written to",
            )
            .into()),
            None => Ok(()),
        }
    }

    /// Asks the nodes for their time. An error if no majority tells it.
    pub(super) async fn learn_time(self: &Arc<Self>, within: Duration) -> Result<(), LockError> {
        let mut asked = self.flights(0..self.nodes.len(), |shared, node| async move {
            let time = shared.nodes[node].time(within).await;
            if let Ok(time) = &time {
                shared.clock.heard(node, *time, clock::now());
            }
            (node, time.map(drop))
        });
        let (quorum, spare) = (self.quorum(), self.spare());
        let (mut told, mut errors) = (0, Vec::new());
        asked
            .until(|(node, answer)| {
                match answer {
                    Ok(()) => told += 1,
                    Err(error) => errors.push((node, error)),
                }
                told >= quorum || errors.len() > spare
            })
            .await;
        if told >= quorum {
            return Ok(());
        }
        // What no time mends goes first.
        errors.sort_by_key(|(_, error)| !error.is_denied());
        let Some((node, error)) = errors.into_iter().next() else {
            return Err(BackendError::unavailable("no server answered").into());
        };
        let address = self.nodes[node].address().to_owned();
        Err(match error {
            LockError::Denied(source) => LockError::Denied(Box::new(AtServer { address, source })),
            LockError::Unavailable(source) => {
                LockError::Unavailable(Box::new(AtServer { address, source }))
            }
            other => other,
        })
    }

    /// Ends what a claim has at nodes: once now, and until they have heard of it in the background.
    pub(super) async fn give_back(self: &Arc<Self>, stubs: Vec<Stub>) {
        let asked = stubs.into_iter().map(|stub| {
            let shared = Arc::clone(self);
            Box::pin(async move { shared.end_at(stub).await.is_ok() }) as _
        });
        Flights::new(&self.handle, asked.collect()).send().await;
    }

    /// Withdraws a claim at one node. Where that fails it is tried again in the background, for as
    /// long as a vote may live there.
    async fn end_at(self: &Arc<Self>, stub: Stub) -> Result<(), BackendError> {
        let answer = self.nodes[stub.node].abandon(&stub.claim).await;
        // Also where another question went ahead at this node alone: elsewhere it took effect, and
        // its caller may not ask again.
        if answer.is_err() {
            self.end_later(stub);
        }
        answer
    }

    /// Withdraws a claim at one node in the background, unless too many are by now.
    fn end_later(self: &Arc<Self>, stub: Stub) {
        if let Ok(permit) = Arc::clone(&self.later[stub.node]).try_acquire_owned() {
            let shared = Arc::downgrade(self);
            self.handle.spawn(async move {
                let _permit = permit;
                end_later(shared, stub).await;
            });
        }
    }

    pub(super) async fn abandon(self: &Arc<Self>, claim: &Claim) -> Result<(), BackendError> {
        let stubs = self.claims.end(&claim.owner);
        let mut stubs = stubs.unwrap_or_else(|| self.unknown(claim));
        for stub in &mut stubs {
            stub.claim.in_doubt |= claim.in_doubt;
            stub.claim.number = claim.number;
            stub.is_blank &= !claim.in_doubt;
        }
        let (quorum, spare) = (self.quorum(), self.spare());
        let mut done = stubs.iter().filter(|stub| stub.is_blank).count();
        stubs.retain(|stub| !stub.is_blank);
        let asked = stubs.into_iter().map(|stub| {
            let (shared, node) = (Arc::clone(self), stub.node);
            Box::pin(async move { (node, shared.end_at(stub).await) }) as _
        });
        let mut asked = Flights::new(&self.handle, asked.collect());
        let mut errors = Vec::new();
        asked
            .until(|(node, answer)| {
                match answer {
                    Ok(()) => done += 1,
                    Err(error) => errors.push((node, error)),
                }
                done >= quorum || errors.len() > spare
            })
            .await;
        match done >= quorum {
            true => Ok(()),
            false => Err(self.worst(errors)),
        }
    }

    /// What a claim may have anywhere of which nothing is known here.
    fn unknown(&self, claim: &Claim) -> Vec<Stub> {
        let stub = |node| Stub {
            node,
            claim: claim.clone(),
            voted: true,
            is_blank: false,
        };
        (0..self.nodes.len()).map(stub).collect()
    }

    /// Why too few servers do what they are asked.
    pub(super) fn worst(&self, errors: Vec<(usize, BackendError)>) -> BackendError {
        let denied = errors.iter().filter(|(_, error)| error.is_denied()).count();
        // Fewer refuse than would have to, for asking again to be useless.
        let is_for_good = denied > self.spare();
        if errors.iter().any(|(_, error)| is_overtaken(error)) {
            return BackendError::unavailable(Overtaken);
        }
        let too_few = TooFew(
            errors
                .into_iter()
                .map(|(node, error)| self.at(node, error))
                .collect(),
        );
        match is_for_good {
            true => BackendError::denied(too_few),
            false => BackendError::unavailable(too_few),
        }
    }

    pub(super) async fn release(
        self: &Arc<Self>,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        let plain = Claim::new(key.clone(), owner.clone(), self.settings.longest_ttl());
        let stubs = self.claims.end(owner);
        let mut stubs = stubs.unwrap_or_else(|| self.unknown(&plain));
        let voted = stubs.iter().filter(|stub| stub.voted).count();
        let mut free = stubs.iter().filter(|stub| stub.is_blank).count();
        stubs.retain(|stub| !stub.is_blank);
        let asked = stubs.into_iter().map(|stub| {
            let shared = Arc::clone(self);
            Box::pin(async move {
                let node = stub.node;
                let is_vote = stub.voted;
                (node, is_vote, shared.release_at(stub).await)
            }) as _
        });
        let mut asked = Flights::new(&self.handle, asked.collect());
        let (quorum, spare) = (self.quorum(), self.spare());
        let (mut released, mut lost, mut errors) = (0, 0, Vec::new());
        asked
            .until(|(node, is_vote, answer)| {
                match answer {
                    Ok(true) if is_vote => released += 1,
                    Ok(true) => free += 1,
                    Ok(false) => lost += 1,
                    Err(error) => errors.push((node, error)),
                }
                released + free >= quorum && released * 2 > voted
                    || lost > spare
                    || errors.len() > spare
            })
            .await;
        if errors.len() > spare {
            return Err(self.worst(errors));
        }
        Ok(match released > 0 && lost <= spare {
            true => Released::Released(None),
            false => Released::NotHeld,
        })
    }

    /// Ends a vote, or what may be one, at one node. Whether it was there, as far as is known.
    async fn release_at(self: &Arc<Self>, stub: Stub) -> Result<bool, BackendError> {
        if !stub.voted || stub.claim.in_doubt {
            return self.end_at(stub).await.map(|()| true);
        }
        let release = Release::new(stub.claim.key.clone(), stub.claim.owner.clone());
        let answer = self.nodes[stub.node].release(&release).await;
        if answer.is_err() {
            self.end_later(stub);
        }
        Ok(matches!(answer?, Released::Released(_)))
    }
}

/// Two servers are the same.
fn same(one: &str, other: &str) -> LockError {
    LockError::Config(format!(
        "{one} and {other} are the same server, which can vote only once"
    ))
}

/// What went wrong at one server.
#[derive(Debug, thiserror::Error)]
#[error("the server {address} cannot be used")]
struct AtServer {
    address: String,
    #[source]
    source: BoxError,
}

/// What went wrong at the servers without which there is no majority.
#[derive(Debug)]
struct TooFew(Vec<AtServer>);

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too few servers can be used")?;
        for (place, error) in self.0.iter().enumerate() {
            let before = if place == 0 { ": " } else { "; " };
            write!(f, "{before}{}: {}", error.address, error.source)?;
        }
        Ok(())
    }
}

impl Error for TooFew {}

fn is_overtaken(error: &BackendError) -> bool {
    error.source().is_some_and(|cause| cause.is::<Overtaken>())
}

/// Tries to withdraw a claim at one node until it is done, or its votes have ended by themselves.
async fn end_later(shared: Weak<Shared>, mut stub: Stub) {
    stub.claim.number = 0;
    let until = clock::now() + stub.claim.ttl;
    let mut failures = 0;
    while clock::now() < until {
        failures += 1;
        sleep(GIVE_BACK.pause(failures).unwrap_or(GIVE_BACK.longest)).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match shared.nodes[stub.node].abandon(&stub.claim).await {
            Ok(()) => return,
            Err(error) if error.is_denied() => return,
            Err(_) => {}
        }
    }
}

/// The fencing tokens of one who wanted so many, where `proposal` was stored, and nothing above
/// `above` before.
pub(super) fn block(proposal: u64, above: u64, wanted: u32) -> FenceBlock {
    let first = proposal.saturating_sub(wanted.saturating_sub(1).into());
    FenceBlock {
        first: FencingToken::new(first.max(above + 1)),
        last: FencingToken::new(proposal),
    }
}
