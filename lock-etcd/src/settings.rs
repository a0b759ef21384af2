//! Where etcd is, and how it is spoken to.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How a backend reaches etcd.
///
/// # Examples
///
/// ```
/// use lock_etcd::EtcdSettings;
///
/// let settings = EtcdSettings::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]);
/// assert_eq!(settings.endpoints.len(), 3);
/// assert_eq!(settings.command_timeout, std::time::Duration::from_secs(1));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct EtcdSettings {
    /// The members, as `host:port`, `http://host:port` or `https://host:port`. One is used at a
    /// time, and the next one where it fails.
    pub endpoints: Vec<String>,
    /// The name and the password of a user of etcd, where it wants one.
    pub user: Option<(String, String)>,
    /// How to speak TLS; `None` for endpoints that say `https` by themselves, or without it.
    pub tls: Option<EtcdTls>,
    /// What the names of all locks start with: what the user has to be allowed to write.
    pub key_prefix: String,
    /// How long a question may take, of which each call to etcd takes at most half. An endpoint
    /// that does not answer by then is left for the next one.
    pub command_timeout: Duration,
    /// A protection to take out.
    #[cfg(lock_mistakes)]
    #[doc(hidden)]
    pub mistake: Option<crate::Mistake>,
}

/// How to speak TLS to etcd.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct EtcdTls {
    /// The authorities to trust, in PEM format, instead of those of the system.
    pub authorities: Option<Vec<u8>>,
    /// The certificate to show, and its private key, both in PEM format.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the certificates of the members are for, instead of that of the endpoint.
    pub server_name: Option<String>,
}

/// A setting that cannot be used. It shows no value, since that may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSetting(pub(crate) String);

impl EtcdSettings {
    /// The defaults, with these members.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> EtcdSettings {
        EtcdSettings {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            tls: None,
            key_prefix: "lock:".to_owned(),
            command_timeout: Duration::from_secs(1),
            #[cfg(lock_mistakes)]
            mistake: None,
        }
    }

    /// How long one call may take.
    pub(crate) fn patience(&self) -> Duration {
        self.command_timeout / 2
    }

    /// The members as tonic has them.
    pub(crate) fn targets(&self) -> Result<Vec<Endpoint>, InvalidSetting> {
        if self.endpoints.is_empty() {
            return Err(InvalidSetting("no endpoint of etcd is given".to_owned()));
        }
        let targets = self.endpoints.iter().enumerate();
        targets
            .map(|(place, text)| self.target(place, text))
            .collect()
    }

    fn target(&self, place: usize, text: &str) -> Result<Endpoint, InvalidSetting> {
        let invalid = |what: &str| InvalidSetting(format!("endpoint {} of etcd {what}", place + 1));
        let text = text.trim();
        let (is_secure, address) = match text.split_once("://") {
            Some(("http", address)) => (false, address),
            Some(("https", address)) => (true, address),
            Some(_) => return Err(invalid("must be `host:port`, `http://…` or `https://…`")),
            None => (self.tls.is_some(), text),
        };
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
        let scheme = if is_secure { "https" } else { "http" };
        let mut target = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|_| invalid("is no `host:port`"))?
            .connect_timeout(self.patience())
            .tcp_nodelay(true)
            // The server closes connections that ping more often than every 5 s.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if is_secure {
            let tls = self.tls.clone().unwrap_or_default().config();
            target = target.tls_config(tls).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_else(|| error.to_string());
                InvalidSetting(format!("the TLS configuration of etcd: {cause}"))
            })?;
        }
        Ok(target)
    }

    /// What a user of etcd needs, as a command that gives it.
    pub(crate) fn permission(&self) -> String {
        let prefix = crate::layout::escaped(&self.key_prefix);
        format!(
            "the user needs a role with `etcdctl role grant-permission ROLE --prefix=true \
             readwrite '{prefix}'`"
        )
    }
}

impl EtcdTls {
    fn config(self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new();
        config = match self.authorities {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints.len())
            .field("has_user", &self.user.is_some())
            .field("tls", &self.tls)
            .field("key_prefix", &self.key_prefix)
            .field("command_timeout", &self.command_timeout)
            .finish()
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
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
            let settings = EtcdSettings::new(["good:2379", endpoint]);
            let fault = settings.targets().expect_err(endpoint).to_string();
            assert!(fault.contains("endpoint 2"), "{fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
        let none: [&str; 0] = [];
        assert!(EtcdSettings::new(none).targets().is_err());
        let good = ["host:2379", "http://host:2379", "[::1]:2379", "127.0.0.1:1"];
        assert!(EtcdSettings::new(good).targets().is_ok());
    }

    #[test]
    fn what_is_shown_of_settings_holds_no_secret() {
        let mut settings = EtcdSettings::new(["host:2379"]);
        settings.user = Some(("me".to_owned(), "secret".to_owned()));
        settings.tls = Some(EtcdTls {
            identity: Some((Vec::new(), b"secret".to_vec())),
            ..EtcdTls::default()
        });
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
