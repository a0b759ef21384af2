//! The Redlock backend on five real servers as a store under test.

use std::time::Duration;

use lock_conformance::Store;
use lock_runtime::backend::LockKey;
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redlock::{RedlockBackend, RedlockSettings};
use tokio::sync::Mutex;

use crate::faults::is_withdrawal;
use crate::server::Server;

/// Five servers; each backend connects to them as a process of its own would.
pub struct RedlockStore {
    servers: Mutex<Vec<Server>>,
}

impl RedlockStore {
    /// A store on servers of its own.
    pub fn start() -> RedlockStore {
        RedlockStore {
            servers: Mutex::new(five()),
        }
    }
}

/// Five servers.
pub fn five() -> Vec<Server> {
    (0..5).map(|_| Server::start()).collect()
}

/// Where they listen, as one URL each.
pub fn urls(servers: &[Server]) -> Vec<String> {
    servers.iter().map(Server::url).collect()
}

/// A backend on `servers` that votes as soon as they are there.
pub async fn connect(servers: &[Server]) -> RedlockBackend {
    let configs: Vec<_> = urls(servers).into_iter().map(Config::from_url).collect();
    let mut settings = RedlockSettings::default();
    settings.restart_delay = Duration::ZERO;
    RedlockBackend::connect(&configs, settings).await.unwrap()
}

impl Store for RedlockStore {
    type Backend = RedlockBackend;

    async fn connect(&self) -> RedlockBackend {
        connect(&self.servers.lock().await).await
    }

    async fn expire(&self, key: &LockKey) {
        for server in &*self.servers.lock().await {
            server.run::<()>(&["DEL", key.stored()]);
        }
    }

    async fn seize(&self, key: &LockKey) {
        for server in &*self.servers.lock().await {
            server.run::<()>(&["SET", key.stored(), "another library's token"]);
            server.forgive(key.stored());
        }
    }

    async fn go_dark(&self) {
        for server in &mut *self.servers.lock().await {
            server.pause();
        }
    }

    async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for server in &*self.servers.lock().await {
            let keys: Vec<String> = server.run(&["KEYS", "*"]);
            left.extend(keys);
        }
        let is_numbers = |key: &str| key.ends_with(":counter") || key.ends_with(":fence");
        left.retain(|key| !is_numbers(key) && !is_withdrawal(key));
        left
    }
}
