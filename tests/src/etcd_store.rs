//! The etcd backend on a real server as a store under test.

use std::time::{Duration, Instant};

use lock_conformance::{Remaining, Store};
use lock_etcd::{EtcdBackend, EtcdSettings};
use lock_protocol::{Acquired, Backend, Claim, LockKey};
use tokio::time::sleep;

use crate::etcd::Cluster;

/// A server; each backend connects to it as a process of its own would.
pub struct EtcdStore {
    cluster: Cluster,
}

impl EtcdStore {
    /// A store on a server of its own.
    pub fn start() -> EtcdStore {
        EtcdStore {
            cluster: Cluster::start(),
        }
    }
}

impl Store for EtcdStore {
    type Backend = EtcdBackend;

    // The server tells whole seconds, rounded down.
    const REMAINING: Remaining = Remaining::Exact(Duration::from_millis(1_500));

    async fn connect(&self) -> EtcdBackend {
        connect(&self.cluster).await
    }

    async fn expire(&self, key: &LockKey) {
        if let Some((owner, _)) = self.cluster.owner(key.stored()) {
            self.cluster.ctl(&["del", &owner]);
        }
    }

    async fn seize(&self, key: &LockKey) {
        let contenders = format!("{}/", key.stored());
        self.cluster.ctl(&["del", "--prefix", &contenders]);
        let foreign = format!("{contenders}694d5cc0ffee");
        self.cluster.ctl(&["put", &foreign, "another library's"]);
    }

    async fn go_dark(&self) {
        self.cluster.pause(0);
    }

    async fn leftovers(&self) -> Vec<String> {
        self.cluster.claims()
    }
}

/// A backend on `cluster`, that has patience with it.
pub async fn connect(cluster: &Cluster) -> EtcdBackend {
    let mut settings = EtcdSettings::new(cluster.endpoints());
    // A busy machine is no fault of the store.
    settings.command_timeout = Duration::from_secs(4);
    EtcdBackend::connect(settings).await.unwrap()
}

/// Asks for `claim` until the answer is as wanted, for so long at the most.
pub async fn acquire_within(
    limit: Duration,
    backend: &impl Backend,
    claim: &Claim,
    is_wanted: fn(&Acquired) -> bool,
) {
    let deadline = Instant::now() + limit;
    loop {
        let answer = backend.acquire(claim).await;
        if answer.as_ref().is_ok_and(is_wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
