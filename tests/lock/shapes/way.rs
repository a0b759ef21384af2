//! A store whose questions are counted, and which may know the exclusive mode only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, Limits, Mode, News, Release, Released, Renewal, Renewed,
};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockGuard, LockRuntime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

pub(crate) const LONG: Duration = Duration::from_secs(600);

/// How long a question takes.
pub(crate) const TRIP: Duration = Duration::from_millis(1);

/// The way of a process to the store.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) store: MemoryBackend,
    /// How many questions of all verbs were asked.
    asked: Arc<AtomicUsize>,
    /// How many of them were renewals, each of all leases that were due.
    renewed: Arc<AtomicUsize>,
    /// Whether the store says that it knows no modes: then it is not asked for any.
    is_plain: bool,
}

impl Way {
    pub(crate) fn new(store: &MemoryBackend, is_plain: bool) -> Way {
        Way {
            store: store.clone(),
            asked: Arc::default(),
            renewed: Arc::default(),
            is_plain,
        }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    pub(crate) async fn process(&self) -> LockRuntime {
        let locks = LockRuntime::backend(self.clone());
        locks.default_wait(LONG).build().await.unwrap()
    }

    async fn travel(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        sleep(TRIP / 2).await;
    }

    fn known(&self, claim: &Claim) -> Claim {
        assert!(!self.is_plain || claim.mode == Mode::Exclusive, "{claim:?}");
        claim.clone()
    }
}

/// Processes with a store of their own that ignores modes, or does not, and their ways.
pub(crate) async fn processes<const N: usize>(is_plain: bool) -> [(Way, LockRuntime); N] {
    let store = MemoryBackend::new();
    let mut all = Vec::new();
    for _ in 0..N {
        // A handle of its own, as a process has.
        let way = Way::new(&store.clone(), is_plain);
        let locks = way.process().await;
        all.push((way, locks));
    }
    all.try_into().ok().unwrap()
}

/// Somebody who waits for what `acquire` gets, in the queue already.
pub(crate) async fn waiting(acquire: lock_runtime::Lock) -> JoinHandle<LockGuard> {
    let waiting = tokio::spawn(async { acquire.wait(LONG).acquire().await.unwrap() });
    sleep(TRIP * 3).await;
    for _ in 0..20 {
        yield_now().await;
    }
    waiting
}

/// Lets everything happen that happens without time, and what is on its way arrive.
pub(crate) async fn settled() {
    sleep(TRIP * 5).await;
}

impl Backend for Way {
    fn limits(&self) -> Limits {
        let mut limits = self.store.limits();
        limits.modes = !self.is_plain;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.store.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        self.travel().await;
        let answer = self.store.acquire(&self.known(claim)).await;
        sleep(TRIP / 2).await;
        answer
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        self.renewed.fetch_add(1, Ordering::Relaxed);
        self.travel().await;
        self.store.renew(leases).await
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        self.travel().await;
        let mut release = release.clone();
        release.next = release.next.map(|next| self.known(&next));
        self.store.release(&release).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        self.travel().await;
        self.store.abandon(claim).await
    }
}
