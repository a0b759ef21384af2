//! From what the user configures to a pool whose connections behave.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use deadpool_redis::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use deadpool_redis::redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisError,
};
use deadpool_redis::{Config, Hook, HookError, Manager, Pool, PoolConfig, Runtime};
use lock_protocol::{Card, MAX_TTL};

use super::fault::Fault;

/// What a command or a connection attempt may take.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// The shortest time for which a lock is left free.
const MIN_GAP: Duration = Duration::from_millis(1);
/// How many lanes there may be.
const LANES: RangeInclusive<usize> = 1..=256;
/// How many connections there may be; the pool could not count many more.
const LARGEST_POOL: usize = 65_536;
/// For how many tokio runtimes a pool has room that nobody gave a size. The pool's own default
/// would depend on the machine.
const DIRECT_LINKS: usize = 32;

/// How the lock uses Redis, in addition to a [`deadpool_redis::Config`].
///
/// ```
/// use lock_runtime::redis::RedisSettings;
///
/// let mut settings = RedisSettings::default();
/// settings.lanes = 2;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisSettings {
    /// Number of connections for commands; at least 1, at most 256 and the size of the pool.
    ///
    /// Default: 1. One connection pipelines the commands of all tasks, and more gain little. If the
    /// pool has room, each tokio runtime that uses the backend gets a further connection, which
    /// saves its tasks the way to the backend's thread. A pool of the size `lanes` has no room for
    /// that.
    pub lanes: usize,
    /// Largest number of connections in all, from `lanes` to 65,536.
    ///
    /// Default: the `max_size` of the `pool` in the configuration, else room for 32 tokio runtimes
    /// beside the lanes, on every machine.
    pub pool_size: Option<usize>,
    /// Longest time for the answer to a command, including the wait for a connection; from 1 ms to
    /// 1 h.
    ///
    /// Default: 1 s, so that a lease of a few seconds survives a lost command.
    pub command_timeout: Duration,
    /// Longest time to open a connection, from 1 ms to 1 h. Default: 1 s.
    pub connect_timeout: Duration,
    /// Prefix of the keys, and of the names of the pub/sub channels, so that one ACL rule can name
    /// them. In channel names a `/` becomes `|`.
    pub key_prefix: String,
    /// Certificates to trust for `rediss://`, in PEM, *instead of* those of the system.
    pub tls_root_certificates: Option<Vec<u8>>,
    /// Client certificate chain for `rediss://`, in PEM: the certificate of this client first. It
    /// needs [`tls_client_key`](RedisSettings::tls_client_key).
    pub tls_client_certificate: Option<Vec<u8>>,
    /// The private key of the client certificate, in PEM.
    pub tls_client_key: Option<SecretPem>,
    /// How a lock with waiters is left free for libraries that poll. Default: not at all.
    pub foreign_gap: Option<ForeignGap>,
    /// For tests: calls go as those that share a command do, also without company.
    #[doc(hidden)]
    pub always_shared: bool,
    /// For tests: how often the process leaves its card.
    #[doc(hidden)]
    pub card_every: Duration,
}

/// How long and how often a lock is left free for libraries that poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignGap {
    /// Shortest time between two gaps.
    pub every: Duration,
    /// Length of a gap: at least the pause of those libraries.
    pub gap: Duration,
}

impl ForeignGap {
    fn checked(self) -> Result<ForeignGap, Fault> {
        let ForeignGap { every, gap } = self;
        let is_usable = gap >= MIN_GAP && gap < every && every <= MAX_TTL;
        is_usable.then_some(self).ok_or_else(|| {
            let shown = humantime::format_duration;
            Fault::Config(format!(
                "`foreign_gap` leaves locks free for {} every {}, but must be from {} on, less than \
                 every so often, and at least once in {}",
                shown(gap),
                shown(every),
                shown(MIN_GAP),
                shown(MAX_TTL)
            ))
        })
    }
}

/// A private key in PEM, which debug output does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretPem(Vec<u8>);

impl From<Vec<u8>> for SecretPem {
    fn from(pem: Vec<u8>) -> SecretPem {
        SecretPem(pem)
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(…)")
    }
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings {
            lanes: 1,
            pool_size: None,
            command_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            key_prefix: "lock:".to_owned(),
            tls_root_certificates: None,
            tls_client_certificate: None,
            tls_client_key: None,
            foreign_gap: None,
            always_shared: false,
            card_every: Card::PERIOD,
        }
    }
}

impl RedisSettings {
    /// What the names of the channels start with. The queue separates its fields by `/`, so they
    /// hold none.
    pub(super) fn channel_prefix(&self) -> String {
        self.key_prefix.replace('/', "|")
    }
}

/// The pool for `config`, whose connections push to `receive`, and the address it connects to.
pub(super) fn pool(
    config: &Config,
    settings: &RedisSettings,
    receive: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
) -> Result<(Pool, String), Fault> {
    settings.foreign_gap.map(ForeignGap::checked).transpose()?;
    for timeout in [settings.command_timeout, settings.connect_timeout] {
        if !TIMEOUTS.contains(&timeout) {
            return Err(Fault::Config(format!(
                "a timeout of {timeout:?}, where 1 ms to 1 h are possible"
            )));
        }
    }
    let info = connection_info(config, settings)?;
    let address = info.addr().to_string();
    let connections = AsyncConnectionConfig::new()
        .set_response_timeout(Some(settings.command_timeout))
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_pipeline_buffer_size(1024)
        .set_push_sender(receive);
    let manager = Manager::new_with_config(info, connections).map_err(|error| wrong(&error))?;

    if !LANES.contains(&settings.lanes) {
        return Err(Fault::Config(format!(
            "{} lanes, where 1 to 256 are possible",
            settings.lanes
        )));
    }
    let mut pool_config = config
        .pool
        .unwrap_or_else(|| PoolConfig::new(settings.lanes + DIRECT_LINKS));
    pool_config.max_size = settings.pool_size.unwrap_or(pool_config.max_size);
    if !(settings.lanes..=LARGEST_POOL).contains(&pool_config.max_size) {
        return Err(Fault::Config(format!(
            "a pool of {} connections, where {} (the lanes) to {LARGEST_POOL} are possible",
            pool_config.max_size, settings.lanes
        )));
    }
    // The pool's own default is to wait for ever.
    for timeout in [
        &mut pool_config.timeouts.wait,
        &mut pool_config.timeouts.create,
        &mut pool_config.timeouts.recycle,
    ] {
        timeout.get_or_insert(settings.connect_timeout);
    }
    let pool = Pool::builder(manager)
        .config(pool_config)
        .runtime(Runtime::Tokio1)
        // A connection that somebody else has used is driven by the tokio runtime it was used in,
        // which may be blocked or gone.
        .pre_recycle(Hook::sync_fn(|_, _| {
            Err(HookError::message("the lock uses fresh connections only"))
        }))
        .build()
        .map_err(|error| Fault::Config(error.to_string()))?;
    Ok((pool, address))
}

fn connection_info(config: &Config, settings: &RedisSettings) -> Result<ConnectionInfo, Fault> {
    let info = match (&config.url, &config.connection) {
        (Some(_), Some(_)) => {
            return Err(Fault::Config(
                "both `url` and `connection` are given".into(),
            ));
        }
        (Some(url), None) => parsed(url)?,
        (None, connection) => ConnectionInfo::from(connection.clone().unwrap_or_default()),
    };
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if redis.db() < 0 {
        return Err(Fault::Config(format!(
            "there is no database {}",
            redis.db()
        )));
    }
    let info = info
        .set_redis_settings(redis)
        .set_tcp_settings(tcp_settings(settings));
    match info.addr() {
        ConnectionAddr::TcpTls { .. } => with_tls(info, settings),
        ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => Ok(info),
        other => Err(Fault::Config(format!(
            "the address {other} is not supported"
        ))),
    }
}

fn parsed(url: &str) -> Result<ConnectionInfo, Fault> {
    // The client would not say which feature of which crate is missing.
    if cfg!(not(feature = "tls")) && (url.starts_with("rediss:") || url.starts_with("valkeys:")) {
        return Err(without_tls());
    }
    url.into_connection_info().map_err(|error| wrong(&error))
}

fn without_tls() -> Fault {
    Fault::Config("`rediss://` needs the feature `tls` of lock-runtime".into())
}

fn tcp_settings(settings: &RedisSettings) -> TcpSettings {
    // Finds out within some ten seconds that an idle connection is dead: waiters may depend on it
    // without sending anything.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        // What has not left when a connection is given up must never arrive: a claim that is
        // delivered late, after its withdrawal came by the next connection, would hold the lock for
        // nobody.
        .set_linger_time(Duration::ZERO);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let tcp = tcp.set_user_timeout(settings.command_timeout.max(Duration::from_secs(5)));
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    let _ = settings;
    tcp
}

#[cfg(feature = "tls")]
fn with_tls(info: ConnectionInfo, settings: &RedisSettings) -> Result<ConnectionInfo, Fault> {
    use deadpool_redis::redis::{Client, ClientTlsConfig, TlsCertificates};
    use rustls::crypto::{CryptoProvider, ring};

    // rustls panics at the first connection if the process has no provider. Another thread may be
    // faster, which is as good.
    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
    let certificate = settings.tls_client_certificate.clone();
    let client_tls = match (certificate, settings.tls_client_key.clone()) {
        (Some(client_cert), Some(SecretPem(client_key))) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        (None, None) => None,
        _ => {
            return Err(Fault::Config(
                "a client needs both `tls_client_certificate` and `tls_client_key`".into(),
            ));
        }
    };
    let root_cert = settings.tls_root_certificates.clone();
    if client_tls.is_none() && root_cert.is_none() {
        return Ok(info);
    }
    let certificates = TlsCertificates {
        client_tls,
        root_cert,
    };
    let client = Client::build_with_tls(info, certificates).map_err(|error| wrong(&error))?;
    Ok(client.get_connection_info().clone())
}

#[cfg(not(feature = "tls"))]
fn with_tls(_: ConnectionInfo, _: &RedisSettings) -> Result<ConnectionInfo, Fault> {
    Err(without_tls())
}

/// The text of an error of the client, which never repeats the URL and the password in it.
fn wrong(error: &RedisError) -> Fault {
    Fault::Config(error.to_string())
}

#[cfg(all(test, not(feature = "tls")))]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_needs_tls_says_which_feature_is_missing() {
        for url in ["rediss://localhost", "valkeys://localhost:1/2"] {
            let config = Config::from_url(url);
            let fault = pool(&config, &RedisSettings::default(), |_| Ok(())).map(drop);
            let text = fault.expect_err("without the feature").to_string();
            assert!(text.contains("feature `tls`"), "{text}");
        }
    }
}
