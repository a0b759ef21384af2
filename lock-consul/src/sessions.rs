//! The sessions that claims live by: one for each claim, used again after an end that is known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use crate::client::Client;
use crate::fault::Fault;
use crate::messages::{SessionCreate, SessionCreated};

/// The longest that a server keeps a lock from others after a session ended that held it, and so
/// the longest that a holder may believe in its lock without asking.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// For how long a session that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(10);
/// How many are kept.
const MOST_IDLE: usize = 256;
/// For how long withdrawn claims are remembered at the least, and twice as long at the most.
const MEMORY: Duration = Duration::from_secs(30);

/// A session of Consul.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: Arc<str>,
    /// The ttl of the claims that it is for.
    pub(crate) claims: Duration,
    /// For how long a server keeps it without a word.
    pub(crate) life: Duration,
    /// An instant before the last question of which the answer proved that it has its whole life;
    /// `None` if nothing is known.
    pub(crate) renewed: Option<Instant>,
    /// Which agent made it: it ends with that one's node.
    agent: Option<usize>,
}

impl Session {
    /// One that is known by its key alone, of a claim with this ttl.
    pub(crate) fn of_others(id: &str, claims: Duration) -> Session {
        Session {
            id: id.into(),
            claims,
            life: claims,
            renewed: None,
            agent: None,
        }
    }

    /// Whether nothing is left of it at `now` for certain.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        match self.renewed {
            // It lives twice as long once more if the leader changes.
            Some(renewed) => now.saturating_duration_since(renewed) > 2 * self.life,
            None => true,
        }
    }

    /// Whether so much of its life is over that it should be renewed before it is relied on.
    pub(crate) fn is_worn(&self, now: Instant) -> bool {
        match self.renewed {
            Some(renewed) => now.saturating_duration_since(renewed) > self.life / 8,
            None => true,
        }
    }
}

/// The sessions of a backend.
pub(crate) struct Sessions {
    client: Arc<Client>,
    /// The shortest ttl of sessions that the server takes, as far as is known, in milliseconds.
    shortest: AtomicU64,
    delay_share: f64,
    idle: Mutex<Vec<Idle>>,
    /// The session of what remembers withdrawn claims, and when it was asked for.
    memory: Mutex<Option<(Arc<str>, Instant)>>,
}

struct Idle {
    session: Session,
    since: Instant,
}

impl Sessions {
    pub(crate) fn new(client: &Arc<Client>, delay_share: f64) -> Sessions {
        Sessions {
            client: Arc::clone(client),
            // What servers say if they are not told otherwise.
            shortest: AtomicU64::new(10_000),
            delay_share,
            idle: Mutex::default(),
            memory: Mutex::default(),
        }
    }

    /// The shortest life that a session has: twice its shortest ttl, as servers count it.
    pub(crate) fn shortest_life(&self) -> Duration {
        2 * Duration::from_millis(self.shortest.load(Ordering::Relaxed))
    }

    /// Asks the server for the shortest ttl that it takes.
    pub(crate) async fn learn(&self) -> Result<(), Fault> {
        let asked = self.make(Duration::from_millis(1), Duration::ZERO, "delete");
        match asked.await {
            // It takes all.
            Ok(id) => {
                self.shortest.store(1, Ordering::Relaxed);
                self.destroy(&id).await
            }
            Err(Fault::Refused(text)) => match shortest(&text) {
                Some(shortest) => {
                    self.keep_shortest(shortest);
                    Ok(())
                }
                None => Err(Fault::Refused(text)),
            },
            Err(fault) => Err(fault),
        }
    }

    /// A session that nobody uses, if there is one, for a claim of this ttl.
    pub(crate) fn idle(&self, claims: Duration) -> Option<Session> {
        let now = Instant::now();
        let agent = self.client.place().agent;
        let mut idle = self.idle_ones();
        let place = idle.iter().rposition(|idle| {
            idle.session.claims == claims && idle.session.agent == Some(agent) && idle.is_fresh(now)
        })?;
        Some(idle.swap_remove(place).session)
    }

    /// Keeps the session of a claim that ended as one knows, and left nothing locked by it.
    pub(crate) fn put_back(&self, session: Session) -> Option<Session> {
        let since = Instant::now();
        let mut idle = self.idle_ones();
        if session.agent.is_some() && idle.len() < MOST_IDLE {
            idle.push(Idle { session, since });
            None
        } else {
            Some(session)
        }
    }

    /// Lets nobody use this session that is kept, if it is.
    pub(crate) fn take_out(&self, id: &str) {
        self.idle_ones().retain(|idle| &*idle.session.id != id);
    }

    /// Takes out the sessions that nobody has used for long, to be destroyed; all if `all`.
    pub(crate) fn stale(&self, all: bool) -> Vec<Session> {
        let now = Instant::now();
        let mut idle = self.idle_ones();
        let (stale, fresh) = idle.drain(..).partition(|idle| all || !idle.is_fresh(now));
        *idle = fresh;
        stale.into_iter().map(|idle: Idle| idle.session).collect()
    }

    /// Makes a new session for a claim of this ttl, which is at most [`LONGEST_DELAY`].
    pub(crate) async fn create(&self, claims: Duration) -> Result<Session, Fault> {
        let mut is_again = false;
        loop {
            let shortest = self.shortest.load(Ordering::Relaxed);
            // The server waits for twice the ttl of the session before it ends one.
            let half = claims.as_millis().div_ceil(2);
            let half = u64::try_from(half).unwrap_or(u64::MAX);
            let ttl = Duration::from_millis(half.max(shortest));
            // Whoever holds the lock believes in it for so long at the most after a proof.
            let delay = claims.min(LONGEST_DELAY).mul_f64(self.delay_share);
            let (asked, agent) = (Instant::now(), self.client.place().agent);
            match self.make(ttl, delay, "release").await {
                Ok(id) => {
                    return Ok(Session {
                        id: id.into(),
                        claims,
                        life: 2 * ttl,
                        renewed: Some(asked),
                        agent: Some(agent).filter(|agent| *agent == self.client.place().agent),
                    });
                }
                Err(Fault::Refused(text)) if !is_again => match self::shortest(&text) {
                    // It was started anew with another setting.
                    Some(shortest) => {
                        self.keep_shortest(shortest);
                        is_again = true;
                    }
                    None => return Err(Fault::Refused(text)),
                },
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn make(
        &self,
        ttl: Duration,
        lock_delay: Duration,
        behavior: &'static str,
    ) -> Result<String, Fault> {
        let question = SessionCreate {
            name: "lock-consul",
            ttl: format!("{}ms", ttl.as_millis()),
            // Without a unit small numbers are seconds.
            lock_delay: format!("{}ms", lock_delay.as_millis()),
            behavior,
            node_checks: [],
        };
        let body = serde_json::to_vec(&question).map_err(|_| Fault::Strange)?;
        let answer = self.client.put("/v1/session/create", body.into()).await?;
        let created: SessionCreated =
            serde_json::from_slice(&answer.body).map_err(|_| Fault::Strange)?;
        Ok(created.id)
    }

    /// Makes a session that takes with it what it has locked when it ends, which it soon does.
    pub(crate) async fn passing(&self) -> Result<String, Fault> {
        let shortest = self.shortest_life() / 2;
        self.make(shortest, Duration::ZERO, "delete").await
    }

    /// Asks for the whole life of a session again; when that was.
    pub(crate) async fn renew(&self, id: &str) -> Result<Instant, Fault> {
        let asked = Instant::now();
        let path = format!("/v1/session/renew/{id}");
        let answer = self.client.put(&path, Bytes::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(Fault::NoSession),
            _ => Ok(asked),
        }
    }

    /// Ends a session. What it has locked stays taken for its delay.
    pub(crate) async fn destroy(&self, id: &str) -> Result<(), Fault> {
        let path = format!("/v1/session/destroy/{id}");
        self.client.put(&path, Bytes::new()).await.map(drop)
    }

    /// A session by which a withdrawn claim is remembered for half a minute from now. It is not
    /// renewed, so the server ends it after a minute, and with it what it has locked.
    pub(crate) async fn memory(&self) -> Result<Arc<str>, Fault> {
        let known = self.memory_one().clone();
        if let Some((id, asked)) = known
            && asked.elapsed() + self.client.patience() < MEMORY
        {
            return Ok(id);
        }
        let asked = Instant::now();
        let ttl = MEMORY.max(self.shortest_life() / 2);
        let id = self.make(ttl, Duration::ZERO, "delete").await?;
        let id: Arc<str> = id.into();
        *self.memory_one() = Some((Arc::clone(&id), asked));
        Ok(id)
    }

    /// The session by which claims were remembered has ended.
    pub(crate) fn forget_memory(&self, id: &str) {
        let mut memory = self.memory_one();
        if memory.as_ref().is_some_and(|(known, _)| &**known == id) {
            *memory = None;
        }
    }

    fn keep_shortest(&self, shortest: Duration) {
        let millis = u64::try_from(shortest.as_millis()).unwrap_or(u64::MAX);
        self.shortest.store(millis.max(1), Ordering::Relaxed);
    }

    fn idle_ones(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_one(&self) -> MutexGuard<'_, Option<(Arc<str>, Instant)>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Whether it is likely to be there still, and worth keeping.
    fn is_fresh(&self, now: Instant) -> bool {
        let renewed = self.session.renewed;
        let age = renewed.map(|renewed| now.saturating_duration_since(renewed));
        now.saturating_duration_since(self.since) < IDLE
            && age.is_some_and(|age| age < self.session.life / 2)
    }
}

/// The shortest ttl of a session, in what a server says of one that is too short:
/// `Invalid Session TTL '1000000', must be between [10s=24h0m0s]`.
fn shortest(text: &str) -> Option<Duration> {
    let (_, bounds) = text.split_once("must be between [")?;
    duration(bounds.split_once('=')?.0)
}

/// A duration as Go writes it, as in `1m30s` or `500ms`, rounded up to milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c.is_alphabetic() || c == 'µ')?;
        let number: f64 = rest[..unit].parse().ok()?;
        let end = rest[unit..].find(|c: char| c.is_ascii_digit());
        let end = end.map_or(rest.len(), |end| unit + end);
        total += number
            * match &rest[unit..end] {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1_000.0,
                "ms" => 1.0,
                "µs" => 0.001,
                "ns" => 0.000_001,
                _ => return None,
            };
        rest = &rest[end..];
    }
    // A day at the most.
    (total <= 86_400_000.0).then(|| Duration::from_millis(total.ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_ttl_is_read_from_what_a_server_refuses() {
        let said = |bounds: &str| {
            let text = format!("Invalid Session TTL '1000000', must be between [{bounds}=24h0m0s]");
            shortest(&text)
        };
        let ms = Duration::from_millis;
        for (text, least) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1_500),
        ] {
            assert_eq!(said(text), Some(ms(least)), "{text}");
        }
        assert_eq!(said("soon"), None);
        assert_eq!(shortest("rpc error"), None);
    }
}
