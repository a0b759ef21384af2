//! The Consul backend on a real server as a store under test.

use std::time::{Duration, Instant};

use lock_conformance::{Remaining, Store};
use lock_consul::{ConsulBackend, ConsulSettings};
use lock_protocol::{Acquired, Backend, Claim, LockKey};
use tokio::time::sleep;

use crate::consul::Cluster;

/// A server; each backend connects to it as a process of its own would.
pub struct ConsulStore {
    cluster: Cluster,
}

impl ConsulStore {
    /// A store on a server of its own.
    pub fn start() -> ConsulStore {
        ConsulStore {
            cluster: Cluster::start(),
        }
    }
}

impl Store for ConsulStore {
    type Backend = ConsulBackend;

    // The server does not tell when it will end a session.
    const REMAINING: Remaining = Remaining::AtMost;

    // A session has one ttl.
    const TTL_CHANGES: bool = false;

    async fn connect(&self) -> ConsulBackend {
        connect(&self.cluster).await
    }

    async fn expire(&self, key: &LockKey) {
        self.cluster.unlock(key.stored());
    }

    async fn seize(&self, key: &LockKey) {
        let lock = key.stored();
        self.cluster
            .ask("DELETE", &format!("/v1/kv/{lock}/?recurse"), "");
        let session = self.cluster.new_session();
        let path = format!("/v1/kv/{lock}/.lock?acquire={session}&flags=3304740253564472344");
        assert_eq!(
            self.cluster.ask("PUT", &path, "another library's").trim(),
            "true"
        );
    }

    async fn go_dark(&self) {
        self.cluster.pause(0);
    }

    async fn leftovers(&self) -> Vec<String> {
        self.cluster.claims()
    }
}

/// A backend on `cluster`, that has patience with it.
pub async fn connect(cluster: &Cluster) -> ConsulBackend {
    let mut settings = ConsulSettings::new(cluster.endpoints());
    // A busy machine is no fault of the store.
    settings.command_timeout = Duration::from_secs(4);
    ConsulBackend::connect(settings).await.unwrap()
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
