//! A sink of news whose news can be awaited.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lock_protocol::{Backend, Claim, Grant, Instant, LockKey, News, OwnerToken};
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// What a claim was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The lock was handed over to it.
    Granted {
        /// The lease.
        grant: Grant,
        /// What it is counted from.
        since: tokio::time::Instant,
    },
    /// It is time to ask.
    Ask,
}

/// Keeps what a backend tells, until somebody asks for it.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    /// Told whenever something came.
    came: Notify,
}

#[derive(Default)]
struct State {
    /// The claims that are expected; `None` for all but the unexpected.
    expected: Option<HashSet<OwnerToken>>,
    unexpected: HashSet<OwnerToken>,
    granted: HashMap<String, (Grant, Instant)>,
    ask_at: HashMap<OwnerToken, Instant>,
    /// How often all were to ask.
    asks: u64,
    /// How many of these each claim has heard of.
    heard: HashMap<OwnerToken, u64>,
}

impl Inbox {
    /// An inbox that expects every claim, attached to `backend`.
    pub fn of(backend: &impl Backend) -> Arc<Inbox> {
        let inbox = Arc::<Inbox>::default();
        inbox.attach_to(backend);
        inbox
    }

    /// An inbox that expects these claims alone, attached to `backend`.
    pub fn of_claims<'a>(
        backend: &impl Backend,
        claims: impl IntoIterator<Item = &'a Claim>,
    ) -> Arc<Inbox> {
        let inbox = Arc::<Inbox>::default();
        let owners = claims.into_iter().map(|claim| claim.owner.clone());
        inbox.state().expected = Some(owners.collect());
        inbox.attach_to(backend);
        inbox
    }

    /// From now on the claim `owner` is expected, where not all are. Whether it was not before.
    pub fn expect(&self, owner: &OwnerToken) -> bool {
        let mut state = self.state();
        let expected = state.expected.get_or_insert_default();
        expected.insert(owner.clone())
    }

    /// From now on the claim `owner` is not expected any more.
    pub fn forget(&self, owner: &OwnerToken) {
        if let Some(expected) = &mut self.state().expected {
            expected.remove(owner);
        }
    }

    fn attach_to(self: &Arc<Inbox>, backend: &impl Backend) {
        let news: Weak<Inbox> = Arc::downgrade(self);
        backend.attach(news);
    }

    /// From now on `claim` is not expected.
    pub fn refuse(&self, claim: &Claim) {
        self.state().unexpected.insert(claim.owner.clone());
    }

    /// Whether a hand-over to `claim` lies here.
    pub fn holds(&self, claim: &Claim) -> bool {
        self.state().granted.contains_key(claim.owner.as_str())
    }

    /// Resolves with the news of `claim`, which it takes out.
    pub async fn changed(&self, claim: &Claim) -> Told {
        loop {
            let mut came = std::pin::pin!(self.came.notified());
            came.as_mut().enable();
            match self.take(&claim.owner) {
                Ok(told) => return told,
                Err(Some(at)) => drop(timeout_at(from_seam(at), came).await),
                Err(None) => came.await,
            }
        }
    }

    /// The news of `owner`, or else when it is to ask.
    fn take(&self, owner: &OwnerToken) -> Result<Told, Option<Instant>> {
        let mut state = self.state();
        if let Some((grant, since)) = state.granted.remove(owner.as_str()) {
            let since = from_seam(since);
            return Ok(Told::Granted { grant, since });
        }
        let asks = state.asks;
        if state.heard.insert(owner.clone(), asks).unwrap_or_default() < asks {
            return Ok(Told::Ask);
        }
        match state.ask_at.get(owner) {
            Some(at) if from_seam(*at) <= tokio::time::Instant::now() => {
                state.ask_at.remove(owner);
                Ok(Told::Ask)
            }
            at => Err(at.copied()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News for Inbox {
    fn granted(&self, _key: &LockKey, owner: &str, grant: Grant, since: Instant) -> bool {
        let mut state = self.state();
        let expected = match &state.expected {
            Some(expected) => expected.contains(owner),
            None => !state.unexpected.contains(owner),
        };
        if expected {
            state.granted.insert(owner.to_owned(), (grant, since));
            self.came.notify_waiters();
        }
        expected
    }

    fn ask_at(&self, _key: &LockKey, owner: &OwnerToken, at: Instant) {
        let mut state = self.state();
        // Whoever asks hears when to ask next.
        let known = state.ask_at.entry(owner.clone()).or_insert(at);
        *known = at.min(*known);
        drop(state);
        self.came.notify_waiters();
    }

    fn ask_all(&self) {
        self.state().asks += 1;
        self.came.notify_waiters();
    }
}

fn from_seam(instant: Instant) -> tokio::time::Instant {
    tokio::time::Instant::from_std(instant.into())
}
