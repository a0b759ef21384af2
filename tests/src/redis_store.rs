//! The Redis backend on a real server as a store under test.

use std::time::Duration;

use lock_conformance::Store;
use lock_runtime::backend::LockKey;
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redis::{RedisBackend, RedisSettings};
use tokio::sync::Mutex;

use crate::faults::is_withdrawal;
use crate::server::Server;

/// A server; each backend connects to it as a process of its own would.
pub struct RedisStore {
    server: Mutex<Server>,
    settings: RedisSettings,
}

impl RedisStore {
    /// A store on a server of its own.
    pub fn start() -> RedisStore {
        RedisStore {
            server: Mutex::new(Server::start()),
            settings: RedisSettings::default(),
        }
    }

    /// The same, where each call goes as those do that share a command.
    pub fn shared() -> RedisStore {
        let mut store = RedisStore::start();
        store.settings.always_shared = true;
        store
    }
}

impl Store for RedisStore {
    type Backend = RedisBackend;

    /// A paused server costs several of its timeouts.
    const DEADLINE: Duration = Duration::from_secs(30);

    async fn connect(&self) -> RedisBackend {
        connect_by(&*self.server.lock().await, self.settings.clone()).await
    }

    async fn expire(&self, key: &LockKey) {
        let server = self.server.lock().await;
        server.run::<()>(&["DEL", key.stored()]);
    }

    async fn seize(&self, key: &LockKey) {
        let server = self.server.lock().await;
        server.run::<()>(&["SET", key.stored(), "another library's token"]);
        server.forgive(key.stored());
    }

    async fn go_dark(&self) {
        self.server.lock().await.pause();
    }

    async fn leftovers(&self) -> Vec<String> {
        let server = self.server.lock().await;
        let mut keys: Vec<String> = server.run(&["KEYS", "*"]);
        keys.retain(|key| !key.ends_with(":counter") && !is_withdrawal(key));
        keys
    }
}

/// A backend on `server`, with the default settings but for its patience with a busy machine.
pub async fn connect(server: &Server) -> RedisBackend {
    connect_by(server, RedisSettings::default()).await
}

/// The same, where each call goes as those do that share a command.
pub async fn connect_shared(server: &Server) -> RedisBackend {
    let mut settings = RedisSettings::default();
    settings.always_shared = true;
    connect_by(server, settings).await
}

async fn connect_by(server: &Server, mut settings: RedisSettings) -> RedisBackend {
    settings.command_timeout = Duration::from_secs(4);
    settings.connect_timeout = Duration::from_secs(4);
    let config = Config::from_url(server.url());
    RedisBackend::connect(config, settings).await.unwrap()
}

/// The counter that a lock called `lock:…` has its fencing tokens from, as the layout says.
pub fn counter(stored: &str) -> String {
    // FNV-1a.
    let hash = stored
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{{lock:}}:{:02x}:counter", (hash ^ (hash >> 32)) % 64)
}
