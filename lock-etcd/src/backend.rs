//! The backend: the verbs as those who use a store see them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lock_protocol::{
    Acquired, AskNumber, Backend, BackendError, Claim, Condition, Executor, GraceBy, Inspected,
    Limits, LockKey, News, OwnerToken, Release, Released, Renewal, Renewed, Sinks,
};
use lock_store::{KeyOrder, Thread};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::book::Book;
use crate::client::Client;
use crate::core::Core;
use crate::fault::Fault;
use crate::housekeeping;
use crate::keep_alive::KeepAlives;
use crate::layout::Layout;
use crate::leases::Leases;
use crate::settings::{EtcdSettings, InvalidSetting};
use crate::txns::{self, Entrant};
use crate::watching::Watching;

/// However long commands may take, [`EtcdBackend::connect`] fails by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long [`close`](Backend::close) waits for the leases that nobody uses to be ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How much later than its ttl the server ends a lease: it looks twice a second.
const LATENESS: Duration = Duration::from_millis(1_100);

/// Locks held by etcd (3.4 or newer).
///
/// The calls run on a thread of their own: the verbs may be awaited on any executor. Dropping the
/// backend ends the thread, without waiting for it.
pub struct EtcdBackend {
    core: Arc<Core>,
    order: Arc<KeyOrder>,
    key_prefix: String,
    command_timeout: Duration,
    closed: AtomicBool,
    thread: Thread,
}

/// Why a backend was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// There is no etcd, or it refuses.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl EtcdBackend {
    /// Connects, and tries on a lock that nobody uses what locks need.
    ///
    /// # Errors
    ///
    /// Within 5 s: [`ConnectError::Setting`] if a setting cannot be used, and
    /// [`ConnectError::Backend`] if there is no etcd, or if it [refuses](BackendError::is_denied).
    pub async fn connect(settings: EtcdSettings) -> Result<EtcdBackend, ConnectError> {
        let within = CONNECT_LIMIT.min(settings.command_timeout.saturating_mul(4));
        let backend = EtcdBackend::connect_lazily(settings)?;
        let (tell, told) = oneshot::channel();
        let core = Arc::clone(&backend.core);
        let probe = LockKey::new(
            &backend.key_prefix,
            &format!("probe:{:016x}", fastrand::u64(..)),
        );
        let probe = probe.map_err(|fault| InvalidSetting(fault.to_string()))?;
        backend.thread.handle().spawn(async move {
            let tried = timeout(within, try_out(&core, &probe)).await;
            let _ = tell.send(tried.unwrap_or(Err(Fault::Timeout)));
        });
        let tried = told.await.unwrap_or(Err(Fault::Closed));
        tried.map_err(BackendError::from)?;
        Ok(backend)
    }

    /// Starts without waiting for etcd; it connects when it is first asked.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Setting`] if a setting cannot be used.
    pub fn connect_lazily(settings: EtcdSettings) -> Result<EtcdBackend, ConnectError> {
        let thread = Thread::start("lock-etcd").map_err(BackendError::unavailable)?;
        let handle = thread.handle().clone();
        let entered = handle.enter();
        let client = Arc::new(Client::new(&settings)?);
        let (book, sinks) = (Arc::<Book>::default(), Arc::<Sinks>::default());
        let (keep_alives, streams) = KeepAlives::new(&client);
        for stream in streams {
            handle.spawn(stream);
        }
        let (watching, stream) = Watching::new(&client, &book, &sinks);
        handle.spawn(stream);
        let core = Arc::new(Core {
            leases: Leases::new(&client, keep_alives),
            client,
            watching,
            book,
            sinks,
            handle: handle.clone(),
            #[cfg(lock_mistakes)]
            mistake: settings.mistake,
        });
        let order = Arc::<KeyOrder>::default();
        handle.spawn(housekeeping::run(Arc::downgrade(&core), Arc::clone(&order)));
        drop(entered);
        Ok(EtcdBackend {
            core,
            order,
            key_prefix: settings.key_prefix,
            command_timeout: settings.command_timeout,
            closed: AtomicBool::new(false),
            thread,
        })
    }

    /// Runs a verb about one key on the thread, in its turn. It is not begun too late, unless it
    /// `is_needed` whether or not anybody hears what became of it.
    async fn ask<T, V>(
        &self,
        key: &LockKey,
        number: AskNumber,
        is_needed: bool,
        verb: impl FnOnce(Arc<Core>) -> V,
    ) -> Result<T, BackendError>
    where
        T: Send + 'static,
        V: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::Closed.into());
        }
        let begin_by = (!is_needed).then(|| Instant::now() + self.command_timeout);
        let (handle, verb) = (self.thread.handle(), verb(Arc::clone(&self.core)));
        let asking = self.order.ask(handle, key, number, begin_by, verb);
        Ok(asking.await.map_err(Fault::from)??)
    }
}

impl EtcdBackend {
    /// Runs on the thread what has no turn among the verbs of a key.
    async fn look<T: Send + 'static>(
        &self,
        looking: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, BackendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::Closed.into());
        }
        let looked = self.thread.handle().spawn(looking).await;
        Ok(looked.map_err(|_| Fault::Closed)??)
    }
}

/// Does what a lock needs: a lease, a key that lives by it, and its end.
async fn try_out(core: &Core, probe: &LockKey) -> Result<(), Fault> {
    // The shortest: the answer tells what the server makes of it.
    let lease = core.leases.grant(1).await?;
    let entrant = Entrant {
        owner: "probe",
        queue: false,
        lease: lease.id,
        ttl: lease.ttl,
    };
    let tried = core.txn(txns::probe(&Layout::of(probe), entrant)).await;
    let revoked = core.leases.revoke(lease.id).await;
    tried?;
    revoked
}

impl Backend for EtcdBackend {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.min_ttl = self.core.leases.shortest();
        limits.ttl_step = Duration::from_secs(1);
        limits.lateness = LATENESS;
        limits.grace = GraceBy::Process;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.core.sinks.attach(news);
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let asked = claim.clone();
        let verb = |core: Arc<Core>| async move { core.acquire(&asked).await };
        self.ask(&claim.key, claim.number, false, verb).await
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let count = leases.len();
        let unknown = |fault: &Fault| (0..count).map(|_| Err(fault.clone().into())).collect();
        if self.closed.load(Ordering::Acquire) {
            return unknown(&Fault::Closed);
        }
        let (core, leases) = (Arc::clone(&self.core), leases.to_vec());
        let renewing = self
            .thread
            .handle()
            .spawn(async move { core.renew(leases).await });
        match renewing.await {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| answer.map_err(BackendError::from))
                .collect(),
            Err(_) => unknown(&Fault::Closed),
        }
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let asked = release.clone();
        let verb = |core: Arc<Core>| async move { core.release(&asked).await };
        self.ask(&release.key, release.number, true, verb).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        let asked = claim.clone();
        let verb = |core: Arc<Core>| async move { core.abandon(&asked).await };
        self.ask(&claim.key, claim.number, true, verb).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Inspected>, BackendError> {
        self.look(Arc::clone(&self.core).inspect(key.clone())).await
    }

    async fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        let core = Arc::clone(&self.core);
        self.look(core.break_lock(key.clone(), owner.clone())).await
    }

    async fn condition(&self) -> Result<Condition, BackendError> {
        let core = Arc::clone(&self.core);
        self.look(async move { Ok(core.condition().await) }).await
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        Some(self.thread.executor())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let core = Arc::clone(&self.core);
        let (tell, told) = oneshot::channel();
        self.thread.handle().spawn(async move {
            let ending = async {
                let mut all = tokio::task::JoinSet::new();
                for lease in core.leases.stale(true) {
                    let core = Arc::clone(&core);
                    all.spawn(async move { core.leases.revoke(lease).await });
                }
                all.join_all().await;
            };
            let _ = timeout(CLOSE_LIMIT, ending).await;
            let _ = tell.send(());
        });
        let _ = told.await;
    }
}

impl fmt::Debug for EtcdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackend")
            .field("key_prefix", &self.key_prefix)
            .finish_non_exhaustive()
    }
}
