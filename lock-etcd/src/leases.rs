//! The leases that claims live by: one for each claim, used again after an end that is known.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{Client, method};
use crate::fault::Fault;
use crate::keep_alive::{Alive, KeepAlives};
use crate::layout::seconds;
use crate::messages::{
    Done, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};

/// For how long a lease that nobody uses is kept, if its ttl is long enough.
const IDLE: Duration = Duration::from_secs(10);
/// How many are kept.
const MOST_IDLE: usize = 1024;
/// For how long withdrawn claims are remembered at the least, and twice as long at the most.
const MEMORY: Duration = Duration::from_secs(30);

/// Up to how many seconds a ttl is never remembered by halves: servers note what is left of leases
/// every five minutes.
const UNREMEMBERED: i64 = 300;

/// A lease of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// In seconds, as the server granted it.
    pub(crate) ttl: i64,
    /// An instant before the last question of which the answer proved that it has its whole ttl;
    /// `None` if nothing is known.
    pub(crate) proven: Option<Instant>,
}

/// Which part of a lease may have passed for a claim to be granted by it as it is. A question for
/// its life costs the server as much as the claim itself.
const FRESH: u32 = 50;

impl Lease {
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.unsigned_abs())
    }

    /// What is left of it at `now`, at the least.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let Some(proven) = self.proven else {
            return Duration::ZERO;
        };
        let passed = now.saturating_duration_since(proven);
        // The server's clock may be faster: whoever is told this allows for that in what is left.
        self.ttl().saturating_sub(passed + passed / 100)
    }

    /// Whether it was just proven, so that a claim by it at `now` has nearly its whole ttl: the
    /// holder is told how much.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.ttl().saturating_sub(self.left(now)) <= self.ttl() / FRESH
    }

    /// Whether a question for its life and a look at its claim may be asked at the same time, at
    /// `now`. If not, the look has to come second.
    ///
    /// A server that has begun to end a lease may say that it lives (before 3.4.38, 3.5.23 and
    /// 3.6.5), and a look that came before sees the claim; so the lease must not be near its end.
    /// And of leases that live for long a new leader may remember how much was left, where it gives
    /// others the whole ttl again, which a look that came before relies on.
    pub(crate) fn may_overlap(&self, now: Instant) -> bool {
        self.ttl <= UNREMEMBERED && self.left(now) > self.ttl() / 3
    }

    /// Takes in what a question for its life brought that was asked at the same time as the look at
    /// its claim: it counts only if the lease cannot have ended meanwhile.
    pub(crate) fn take_in_overlapping(&mut self, alive: Alive, term: u64) -> Result<(), Fault> {
        if self.left(Instant::now()).is_zero() && alive != Alive::No {
            return Err(Fault::TooLate);
        }
        self.take_in(alive, term)
    }

    /// Takes in what a question for its life brought, if it counts: the leader who answered was
    /// still the leader in the term of an answer that no other leader can give.
    pub(crate) fn take_in(&mut self, alive: Alive, term: u64) -> Result<(), Fault> {
        match alive {
            Alive::Yes { sent, term: its } if its == term => {
                self.proven = self.proven.max(Some(sent));
                Ok(())
            }
            Alive::Yes { .. } => Err(Fault::LeaderChanged),
            Alive::No => Err(Fault::NoLease),
        }
    }
}

/// The leases of a backend.
pub(crate) struct Leases {
    client: Arc<Client>,
    keep_alives: KeepAlives,
    /// The shortest ttl that the server grants, as far as is known, in seconds.
    shortest: AtomicI64,
    idle: Mutex<Vec<Idle>>,
    /// The lease of what remembers withdrawn claims, and when it was asked for.
    memory: Mutex<Option<(i64, Instant)>>,
}

struct Idle {
    lease: Lease,
    since: Instant,
}

impl Leases {
    pub(crate) fn new(client: &Arc<Client>, keep_alives: KeepAlives) -> Leases {
        Leases {
            client: Arc::clone(client),
            keep_alives,
            shortest: AtomicI64::new(1),
            idle: Mutex::default(),
            memory: Mutex::default(),
        }
    }

    /// The shortest ttl that the server grants, as far as is known.
    pub(crate) fn shortest(&self) -> Duration {
        Duration::from_secs(self.shortest.load(Ordering::Relaxed).unsigned_abs())
    }

    /// The seconds for which a lease lives that is to live for `ttl`.
    pub(crate) fn kept(&self, ttl: Duration) -> i64 {
        seconds(ttl).max(self.shortest.load(Ordering::Relaxed))
    }

    /// A lease that nobody uses, if there is one, of so many seconds.
    pub(crate) fn idle(&self, ttl: i64) -> Option<Lease> {
        let now = Instant::now();
        let mut idle = self.idle_ones();
        let place = idle
            .iter()
            .rposition(|idle| idle.lease.ttl == ttl && idle.is_fresh(now))?;
        Some(idle.swap_remove(place).lease)
    }

    /// Keeps a lease whose claim ended as one knows.
    pub(crate) fn put_back(&self, lease: Lease) {
        let since = Instant::now();
        let mut idle = self.idle_ones();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { lease, since });
        }
    }

    /// Lets nobody use this lease that is kept, if it is.
    pub(crate) fn take_out(&self, id: i64) {
        self.idle_ones().retain(|idle| idle.lease.id != id);
    }

    /// Takes out the leases that nobody has used for long, to be revoked; all if `all`.
    pub(crate) fn stale(&self, all: bool) -> Vec<i64> {
        let now = Instant::now();
        let mut idle = self.idle_ones();
        let (stale, fresh) = idle.drain(..).partition(|idle| all || !idle.is_fresh(now));
        *idle = fresh;
        stale.into_iter().map(|idle: Idle| idle.lease.id).collect()
    }

    pub(crate) fn has_idle(&self) -> bool {
        !self.idle_ones().is_empty()
    }

    /// Asks for a new lease of so many seconds.
    pub(crate) async fn grant(&self, ttl: i64) -> Result<Lease, Fault> {
        let sent = Instant::now();
        // Another one at each attempt: one that was asked for without an answer belongs to nobody.
        let id = fastrand::i64(1..=i64::MAX);
        let question = LeaseGrantRequest { ttl, id };
        let answer: Result<LeaseGrantResponse, Fault> =
            self.client.ask(method::LEASE_GRANT, question).await;
        match answer {
            Ok(answer) if answer.id == id && answer.ttl >= ttl => {
                if answer.ttl > ttl {
                    self.shortest.fetch_max(answer.ttl, Ordering::Relaxed);
                }
                Ok(Lease {
                    id,
                    ttl: answer.ttl,
                    proven: Some(sent),
                })
            }
            Ok(_) => Err(Fault::Strange),
            Err(fault) => Err(fault),
        }
    }

    /// Ends a lease, and with it the keys that live by it. One that is not there is no fault.
    pub(crate) async fn revoke(&self, id: i64) -> Result<(), Fault> {
        let question = LeaseRevokeRequest { id };
        let answer: Result<Done, Fault> = self.client.ask(method::LEASE_REVOKE, question).await;
        match answer {
            Ok(_) | Err(Fault::NoLease) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Asks for the whole ttl of a lease again; the question is on its way when this returns. What
    /// it brings counts only if no other leader has come meanwhile: see [`Lease::take_in`].
    pub(crate) fn keep_alive(
        &self,
        stream: usize,
        id: i64,
    ) -> impl Future<Output = Result<Alive, Fault>> + use<> {
        self.keep_alives.ask(stream, id)
    }

    /// What is left of a lease, in whole seconds.
    pub(crate) async fn remaining(&self, id: i64) -> Result<Duration, Fault> {
        let question = LeaseTimeToLiveRequest { id };
        let answer: LeaseTimeToLiveResponse = self
            .client
            .ask(method::LEASE_TIME_TO_LIVE, question)
            .await?;
        Ok(Duration::from_secs(answer.ttl.max(0).unsigned_abs()))
    }

    /// A lease by which a withdrawn claim is remembered for half a minute from now.
    pub(crate) async fn memory(&self) -> Result<i64, Fault> {
        let known = *self.memory_one();
        if let Some((id, asked)) = known
            && asked.elapsed() < MEMORY
        {
            return Ok(id);
        }
        // Its holder may not write with it before half a minute, and then it lives as long again.
        let asked = Instant::now();
        let ttl = self.kept(2 * MEMORY + self.client.patience());
        let lease = self.grant(ttl).await?;
        *self.memory_one() = Some((lease.id, asked));
        Ok(lease.id)
    }

    /// The lease by which claims were remembered does not live as it should.
    pub(crate) fn forget_memory(&self, id: i64) {
        let mut memory = self.memory_one();
        if memory.is_some_and(|(known, _)| known == id) {
            *memory = None;
        }
    }

    fn idle_ones(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_one(&self) -> MutexGuard<'_, Option<(i64, Instant)>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Whether it is likely to be there still, and worth keeping.
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE
            && self.lease.left(now) > self.lease.ttl() * 3 / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_lease_allows_for_a_server_whose_clock_is_faster() {
        let proven = Instant::now();
        let lease = Lease {
            id: 1,
            ttl: 60,
            proven: Some(proven),
        };
        let second = Duration::from_secs(1);
        assert_eq!(lease.left(proven), 60 * second);
        // One hundredth of what has passed.
        assert_eq!(lease.left(proven + 50 * second), 9_500 * second / 1_000);
        assert_eq!(lease.left(proven + 60 * second), Duration::ZERO);
    }
}
