//! Where Consul is, and how it is spoken to.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;

/// How a backend reaches Consul.
///
/// # Examples
///
/// ```
/// use lock_consul::ConsulSettings;
///
/// let settings = ConsulSettings::new(["127.0.0.1:8500"]);
/// assert_eq!(settings.endpoints.len(), 1);
/// assert_eq!(settings.command_timeout, std::time::Duration::from_secs(1));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ConsulSettings {
    /// The agents, as `host:port`, `http://host:port` or `https://host:port`. One is used at a
    /// time, and the next one where it fails. A lock ends when the agent's node is lost by which it
    /// was taken, so the agent of the own machine is the best one.
    pub endpoints: Vec<String>,
    /// The secret of an ACL token, where Consul wants one.
    pub token: Option<String>,
    /// How to speak TLS; `None` for endpoints that say `https` by themselves, or without it.
    pub tls: Option<ConsulTls>,
    /// What the names of all locks start with: what the token has to be allowed to write.
    pub key_prefix: String,
    /// How long a question may take once it is begun, however many calls to Consul it takes, and an
    /// hour at the most. Each of them takes half of it at most: an agent that does not answer by
    /// then is left for the next one.
    pub command_timeout: Duration,
    /// How many connections the questions take at the most, from 1 on. An agent lets all processes
    /// of one address together have 200 connections, unless `http_max_conns_per_client` says
    /// otherwise.
    pub connections: usize,
    /// How many waiters are listened for, each on a connection of its own. For what is above that,
    /// it is looked four times a second whether their turn has come.
    pub long_polls: usize,
    /// For how long a key stays taken after a session was ended that held it, as a share of the ttl
    /// of its lock. It must be 1: with less, the lock goes to another while its holder still
    /// believes in it. For tests that show this.
    #[doc(hidden)]
    pub lock_delay_share: f64,
}

/// How to speak TLS to Consul.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ConsulTls {
    /// The authorities to trust, in PEM format, instead of those of the system.
    pub authorities: Option<Vec<u8>>,
    /// The certificate to show, and its private key, both in PEM format.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the certificates of the agents are for, instead of that of the endpoint.
    pub server_name: Option<String>,
}

/// A setting that cannot be used. It shows no value, since that may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSetting(pub(crate) String);

/// An agent, as its endpoint names it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) authority: Authority,
    pub(crate) is_secure: bool,
}

impl ConsulSettings {
    /// The defaults, with these agents.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> ConsulSettings {
        ConsulSettings {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            token: None,
            tls: None,
            key_prefix: "lock:".to_owned(),
            command_timeout: Duration::from_secs(1),
            connections: 16,
            long_polls: 16,
            lock_delay_share: 1.0,
        }
    }

    /// How long one call may take.
    pub(crate) fn patience(&self) -> Duration {
        self.time() / 2
    }

    /// How long a question may take. Whoever wants to wait longer than an hour may ask again.
    pub(crate) fn time(&self) -> Duration {
        self.command_timeout.min(Duration::from_secs(3_600))
    }

    /// The agents, each with its port.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, InvalidSetting> {
        if self.endpoints.is_empty() {
            return Err(InvalidSetting("no endpoint of Consul is given".to_owned()));
        }
        if self.connections == 0 {
            return Err(InvalidSetting(
                "`connections` to Consul must be 1 or more".to_owned(),
            ));
        }
        if self.command_timeout.is_zero() {
            return Err(InvalidSetting(
                "`command_timeout` of Consul must be longer than nothing".to_owned(),
            ));
        }
        if !(0.0..=1.0).contains(&self.lock_delay_share) {
            return Err(InvalidSetting(
                "`lock_delay_share` must be from 0 to 1".to_owned(),
            ));
        }
        let targets = self.endpoints.iter().enumerate();
        targets
            .map(|(place, text)| self.target(place, text))
            .collect()
    }

    fn target(&self, place: usize, text: &str) -> Result<Target, InvalidSetting> {
        let invalid =
            |what: &str| InvalidSetting(format!("endpoint {} of Consul {what}", place + 1));
        let text = text.trim();
        let (is_secure, address) = match text.split_once("://") {
            Some(("http", address)) => (false, address),
            Some(("https", address)) => (true, address),
            Some(_) => return Err(invalid("must be `host:port`, `http://…` or `https://…`")),
            None => (self.tls.is_some(), text),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.is_empty() || address.contains(['@', '/', '?', '#']) {
            return Err(invalid(
                "must be a host and a port, without a user or a path",
            ));
        }
        if self.tls.is_some() && !is_secure {
            return Err(invalid(
                "says `http`, but TLS is configured; make it `https`",
            ));
        }
        let authority: Authority = address.parse().map_err(|_| invalid("is no `host:port`"))?;
        if authority.host().is_empty() {
            return Err(invalid("is no `host:port`"));
        }
        Ok(Target {
            authority,
            is_secure,
        })
    }

    /// The token as the header has it.
    pub(crate) fn token_header(&self) -> Result<Option<HeaderValue>, InvalidSetting> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let mut value = HeaderValue::from_str(token)
            .map_err(|_| InvalidSetting("the token of Consul cannot stand in a header".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// What a token of Consul needs, as a policy that gives it.
    pub(crate) fn policy(&self) -> String {
        let prefix = crate::layout::escaped(&self.key_prefix);
        let prefix = prefix.replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "the token needs a policy with `key_prefix \"{prefix}\" {{ policy = \"write\" }}` and \
             `session_prefix \"\" {{ policy = \"write\" }}`"
        )
    }
}

impl Target {
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.host();
        let within = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        within.unwrap_or(host)
    }

    pub(crate) fn port(&self) -> u16 {
        let usual = if self.is_secure { 8501 } else { 8500 };
        self.authority.port_u16().unwrap_or(usual)
    }
}

impl fmt::Debug for ConsulSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulSettings")
            .field("endpoints", &self.endpoints.len())
            .field("has_token", &self.token.is_some())
            .field("tls", &self.tls)
            .field("key_prefix", &self.key_prefix)
            .field("command_timeout", &self.command_timeout)
            .field("connections", &self.connections)
            .field("long_polls", &self.long_polls)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConsulTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulTls")
            .field("has_authorities", &self.authorities.is_some())
            .field("has_identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_cannot_be_used_are_told_by_their_place() {
        let refused = [
            "",
            "user:secret@host:1",
            "ftp://host:1",
            "host:1/path",
            "http://",
            "http://host:port:secret",
        ];
        for endpoint in refused {
            let settings = ConsulSettings::new(["good:8500", endpoint]);
            let fault = settings.targets().expect_err(endpoint).to_string();
            assert!(fault.contains("endpoint 2"), "{fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
        let none: [&str; 0] = [];
        assert!(ConsulSettings::new(none).targets().is_err());
        let good = [
            "host:8500",
            "http://host:8500/",
            "[::1]:8500",
            "127.0.0.1:1",
            "host",
        ];
        let targets = ConsulSettings::new(good)
            .targets()
            .expect("each can be used");
        assert_eq!((targets[2].host(), targets[2].port()), ("::1", 8500));
        assert_eq!((targets[4].host(), targets[4].port()), ("host", 8500));
    }

    #[test]
    fn settings_beyond_reason_are_refused_or_bounded_without_a_panic() {
        let mut settings = ConsulSettings::new(["host:8500"]);
        settings.command_timeout = Duration::MAX;
        settings.connections = usize::MAX;
        settings.long_polls = usize::MAX;
        assert_eq!(settings.time(), Duration::from_secs(3_600));
        assert!(crate::client::Client::new(&settings).is_ok());
        settings.long_polls = 0;
        assert!(crate::client::Client::new(&settings).is_ok());
        let refused: [fn(&mut ConsulSettings); 4] = [
            |settings| settings.command_timeout = Duration::ZERO,
            |settings| settings.connections = 0,
            |settings| settings.lock_delay_share = f64::NAN,
            |settings| settings.lock_delay_share = -1.0,
        ];
        for (place, make_wrong) in refused.into_iter().enumerate() {
            let mut settings = ConsulSettings::new(["host:8500"]);
            make_wrong(&mut settings);
            assert!(settings.targets().is_err(), "{place}");
        }
    }

    #[test]
    fn what_is_shown_of_settings_holds_no_secret() {
        let mut settings = ConsulSettings::new(["host:8500"]);
        settings.token = Some("secret".to_owned());
        settings.tls = Some(ConsulTls {
            identity: Some((Vec::new(), b"secret".to_vec())),
            ..ConsulTls::default()
        });
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
