//! The raw commands of a lock on one server, and what all sides share.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_runtime::backend::OwnerToken;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, IntoConnectionInfo, Script, cmd};

/// Whatever goes wrong ends the run.
pub use lock_peers::Failure;

/// The ttl of every lock, on every side: our default.
pub const TTL: Duration = Duration::from_secs(30);

/// How often the raw lock and rlock ask for a lock that is taken.
pub const POLL: Duration = Duration::from_millis(1);

/// An owner token as long as those that ours makes by default.
pub fn owner() -> OwnerToken {
    OwnerToken::unique("00000000-0000-4000-8000-000000000000")
}

/// One multiplexed connection, with TCP_NODELAY as ours has it.
pub async fn multiplexed(url: &str) -> Result<MultiplexedConnection, Failure> {
    let tcp = TcpSettings::default().set_nodelay(true);
    let info = url.into_connection_info()?.set_tcp_settings(tcp);
    Ok(redis::Client::open(info)?
        .get_multiplexed_async_connection()
        .await?)
}

/// The two commands of the raw lock.
pub struct Commands {
    release: String,
    /// How a token begins, and how long it is: as long as those of ours, and made without what
    /// theirs cost.
    token: (String, usize),
    next: AtomicU64,
}

impl Commands {
    pub async fn load(connection: &mut impl ConnectionLike) -> Result<Commands, Failure> {
        const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
        cmd("SCRIPT")
            .arg("LOAD")
            .arg(RELEASE)
            .exec_async(connection)
            .await?;
        Ok(Commands {
            release: Script::new(RELEASE).get_hash().to_owned(),
            token: (format!("{}-", std::process::id()), owner().as_str().len()),
            next: AtomicU64::new(0),
        })
    }

    /// The commands that take and give back the lock under a token of their own.
    pub fn of_claim(&self, key: &str) -> (Cmd, Cmd) {
        let (start, length) = &self.token;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut token = String::with_capacity(*length);
        // Writing to a string does not fail.
        let _ = write!(token, "{start}{number:0>0$}", length - start.len());
        let (mut take, mut give) = (cmd("SET"), cmd("EVALSHA"));
        take.arg(key)
            .arg(&token)
            .arg("NX")
            .arg("PX")
            .arg(TTL.as_millis() as u64);
        give.arg(&self.release).arg(1).arg(key).arg(&token);
        (take, give)
    }
}
