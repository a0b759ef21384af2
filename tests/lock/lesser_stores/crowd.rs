//! A store without an order. Either those who wait are told that something happened, and whoever
//! asks first gets the lock, or the lock is handed to whoever came last.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_conformance::Store;
use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Extension, FenceBlock, FencingToken, Grant,
    Holder, Limits, LockKey, News, Order, OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::time::Instant;

use super::lock;

/// Whoever asks first.
mod first {
    use super::Crowd;

    lock_conformance::conformance! { #[tokio::test(start_paused = true)] Crowd::default() }

    mod controls {
        use super::Crowd;

        lock_conformance::controls! { #[tokio::test(start_paused = true)] Crowd::default() }
    }
}

/// Whoever came last.
mod last {
    use super::Crowd;

    lock_conformance::conformance! { #[tokio::test(start_paused = true)] Crowd::last() }

    mod controls {
        use super::Crowd;

        lock_conformance::controls! { #[tokio::test(start_paused = true)] Crowd::last() }
    }
}

#[derive(Clone, Default)]
struct Crowd {
    state: Arc<Mutex<State>>,
    is_dark: Arc<AtomicBool>,
}

impl Crowd {
    fn last() -> Crowd {
        let crowd = Crowd::default();
        lock(&crowd.state).hands_over = true;
        crowd
    }
}

#[derive(Default)]
struct State {
    leases: HashMap<LockKey, Lease>,
    hands_over: bool,
    /// Those who were told to wait, and of which client they are.
    waiting: Vec<(Claim, usize)>,
    withdrawn: HashSet<OwnerToken>,
    /// Those of each client.
    sinks: Vec<(usize, Weak<dyn News>)>,
    clients: usize,
    last_token: u64,
}

struct Lease {
    owner: OwnerToken,
    tokens: FenceBlock,
    ends: Instant,
}

impl State {
    fn reserve(&mut self, tokens: u32) -> FenceBlock {
        let first = FencingToken::new(self.last_token + 1);
        self.last_token += u64::from(tokens);
        FenceBlock {
            first,
            last: FencingToken::new(self.last_token),
        }
    }

    fn acquire(&mut self, claim: &Claim, client: usize) -> Acquired {
        let ends = Instant::now() + claim.ttl;
        if self.withdrawn.contains(&claim.owner) {
            return Acquired::Taken(Holder::of_ours(Duration::ZERO));
        }
        match self.leases.get_mut(&claim.key) {
            Some(lease) if lease.owner == claim.owner => {
                lease.ends = lease.ends.max(ends);
                Acquired::Granted(Grant::new(lease.tokens, claim.ttl))
            }
            Some(lease) => {
                let holder = Holder::of_ours(lease.ends - Instant::now());
                if !claim.queue {
                    return Acquired::Taken(holder);
                }
                self.forget(&claim.owner);
                self.waiting.push((claim.clone(), client));
                Acquired::Queued(holder)
            }
            None => {
                self.forget(&claim.owner);
                Acquired::Granted(self.grant(claim, claim.ttl))
            }
        }
    }

    fn grant(&mut self, claim: &Claim, valid_for: Duration) -> Grant {
        let tokens = self.reserve(claim.tokens);
        let lease = Lease {
            owner: claim.owner.clone(),
            tokens,
            ends: Instant::now() + valid_for,
        };
        self.leases.insert(claim.key.clone(), lease);
        Grant::new(tokens, valid_for)
    }

    /// Whether the claim was waiting.
    fn forget(&mut self, owner: &OwnerToken) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiter, _)| waiter.owner != *owner);
        self.waiting.len() < before
    }

    /// Gives a free lock to whoever came last and is expected.
    fn hand_over(&mut self, key: &LockKey) {
        while self.hands_over && !self.leases.contains_key(key) {
            let last = self
                .waiting
                .iter()
                .rposition(|(claim, _)| claim.key == *key);
            let Some(last) = last else { return };
            let (claim, client) = self.waiting.remove(last);
            let grant = self.grant(&claim, claim.grace);
            let since = Instant::now().into_std().into();
            let of_client = self.sinks.iter().filter(|(of, _)| *of == client);
            let mut sinks = of_client.filter_map(|(_, sink)| sink.upgrade()).peekable();
            let is_there = sinks.peek().is_some();
            if is_there && !sinks.any(|sink| sink.granted(key, claim.owner.as_str(), grant, since))
            {
                self.leases.remove(key);
            }
        }
    }

    fn renew(&mut self, renewal: &Renewal) -> Renewed {
        let is_owner = self.is_owner(&renewal.key, &renewal.owner);
        let further = (is_owner && renewal.tokens > 0).then(|| self.reserve(renewal.tokens));
        match self.leases.get_mut(&renewal.key) {
            Some(lease) if is_owner => {
                lease.ends = lease.ends.max(Instant::now() + renewal.ttl);
                lease.tokens = further.unwrap_or(lease.tokens);
                Renewed::Held(Extension::with_tokens(further))
            }
            _ => Renewed::lost(),
        }
    }

    fn is_owner(&self, key: &LockKey, owner: &OwnerToken) -> bool {
        let lease = self.leases.get(key);
        lease.is_some_and(|lease| lease.owner == *owner)
    }

    /// Ends the lease, and hands the lock over or tells everybody. Whether there was one.
    fn end(&mut self, key: &LockKey, owner: &OwnerToken) -> bool {
        let is_owner = self.is_owner(key, owner);
        if is_owner {
            self.leases.remove(key);
            if !self.hands_over {
                let sinks = self.sinks.iter().filter_map(|(_, sink)| sink.upgrade());
                sinks.for_each(|sink| sink.ask_all());
            }
            self.hand_over(key);
        }
        is_owner
    }
}

impl Store for Crowd {
    type Backend = Client;

    async fn connect(&self) -> Client {
        let mut state = lock(&self.state);
        state.clients += 1;
        Client {
            place: state.clients,
            crowd: self.clone(),
            numbers: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    async fn expire(&self, key: &LockKey) {
        lock(&self.state).leases.remove(key);
    }

    async fn go_dark(&self) {
        self.is_dark.store(true, Ordering::Relaxed);
    }

    async fn leftovers(&self) -> Vec<String> {
        let state = lock(&self.state);
        let held = state.leases.keys().map(ToString::to_string);
        let waiting = state
            .waiting
            .iter()
            .map(|(claim, _)| claim.owner.to_string());
        held.chain(waiting).collect()
    }
}

struct Client {
    place: usize,
    crowd: Crowd,
    numbers: Mutex<HashMap<LockKey, AskNumber>>,
    is_closed: AtomicBool,
}

impl Client {
    fn ask(&self, key: &LockKey, number: AskNumber) -> Result<MutexGuard<'_, State>, BackendError> {
        let is_dark = self.crowd.is_dark.load(Ordering::Relaxed);
        if is_dark || self.is_closed.load(Ordering::Relaxed) {
            return Err(BackendError::unavailable("nobody is there"));
        }
        let mut numbers = lock(&self.numbers);
        let largest = numbers.entry(key.clone()).or_default();
        if number > 0 && number < *largest {
            return Err(BackendError::unavailable("overtaken"));
        }
        *largest = number.max(*largest);
        let mut state = lock(&self.crowd.state);
        state.leases.retain(|_, lease| Instant::now() < lease.ends);
        state.hand_over(key);
        Ok(state)
    }
}

impl Backend for Client {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.order = Order::None;
        limits.hand_over = lock(&self.crowd.state).hands_over;
        limits.foreign_holders = false;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        lock(&self.crowd.state).sinks.push((self.place, news));
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let mut state = self.ask(&claim.key, claim.number)?;
        Ok(state.acquire(claim, self.place))
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let renew = |lease: &Renewal| Ok(self.ask(&lease.key, 0)?.renew(lease));
        leases.iter().map(renew).collect()
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let mut state = self.ask(&release.key, release.number)?;
        if !state.end(&release.key, &release.owner) {
            return Ok(Released::NotHeld);
        }
        let next = release.next.as_ref();
        let answer = next.map(|next| state.acquire(next, self.place));
        Ok(Released::Released(answer))
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        let mut state = self.ask(&claim.key, claim.number)?;
        let is_known = state.end(&claim.key, &claim.owner) || state.forget(&claim.owner);
        if claim.in_doubt || !is_known {
            state.withdrawn.insert(claim.owner.clone());
        }
        Ok(())
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}
