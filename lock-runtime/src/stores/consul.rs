//! Locks on Consul: the crate `lock-consul`, as services configure it.

use std::ffi::OsString;

pub use lock_consul::{ConnectError, ConsulBackend, ConsulSettings, ConsulTls, InvalidSetting};

use crate::error::LockError;

impl From<ConnectError> for LockError {
    fn from(error: ConnectError) -> LockError {
        match error {
            ConnectError::Setting(fault) => LockError::Config(fault.to_string()),
            ConnectError::Backend(error) => error.into(),
            other => LockError::Config(other.to_string()),
        }
    }
}

/// Whether a URL with this scheme leads to Consul.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    matches!(scheme, "consul" | "consul+http" | "consul+https")
}

/// The settings that a URL and the variables of `consul` give: `consul://host:port[,host:port]…`,
/// and `consul+https://` with TLS. Without a host it is `CONSUL_HTTP_ADDR` that says where Consul
/// is.
///
/// What is wrong is told without a value, which may hold a token.
pub(crate) fn settings(
    url: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<ConsulSettings, String> {
    let form = "must be `consul://host:port,host:port` or `consul+https://…`";
    let text = |name: &str| match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(format!("is set, but `{name}` is no text")),
    };
    let (scheme, agents) = url.split_once("://").ok_or(form)?;
    if agents.contains('@') {
        return Err(format!(
            "{form}; a token is set by `CONSUL_HTTP_TOKEN` or `CONSUL_HTTP_TOKEN_FILE`"
        ));
    }
    let mut is_secure = scheme == "consul+https";
    let mut agents = agents.strip_suffix('/').unwrap_or(agents).to_owned();
    if agents.is_empty() {
        let address = text("CONSUL_HTTP_ADDR")?
            .ok_or_else(|| format!("{form}, or `CONSUL_HTTP_ADDR` be set for `consul://`"))?;
        is_secure |= address.starts_with("https://") || is_true(&text("CONSUL_HTTP_SSL")?);
        let host = address.split_once("://").map(|(_, host)| host.to_owned());
        agents = host.unwrap_or(address);
    }
    if agents.split(',').any(|agent| agent.trim().is_empty()) {
        return Err(form.to_owned());
    }
    let protocol = if is_secure { "https" } else { "http" };
    let agents = agents.split(',');
    let mut settings =
        ConsulSettings::new(agents.map(|agent| format!("{protocol}://{}", agent.trim())));

    let file = |name: &str| match variable(name).filter(|path| !path.is_empty()) {
        None => Ok(None),
        Some(path) => std::fs::read(path)
            .map(Some)
            .map_err(|error| format!("leads to Consul, but the file of `{name}`: {error}")),
    };
    // The file counts more, as for the programs of Consul, unless nothing is in it.
    let in_file = match file("CONSUL_HTTP_TOKEN_FILE")?.map(String::from_utf8) {
        Some(Ok(token)) => Some(token.trim().to_owned()).filter(|token| !token.is_empty()),
        Some(Err(_)) => {
            return Err(
                "leads to Consul, but the file of `CONSUL_HTTP_TOKEN_FILE` is no text".into(),
            );
        }
        None => None,
    };
    settings.token = match in_file {
        Some(token) => Some(token),
        None => text("CONSUL_HTTP_TOKEN")?,
    };
    if !is_secure {
        return Ok(settings);
    }
    if text("CONSUL_HTTP_SSL_VERIFY")?.is_some_and(|text| !is_true(&Some(text))) {
        return Err(
            "leads to TLS, but `CONSUL_HTTP_SSL_VERIFY` is off; certificates are always verified, \
             by the authorities of `CONSUL_CACERT` if that is set"
                .to_owned(),
        );
    }
    let mut tls = ConsulTls::default();
    tls.authorities = file("CONSUL_CACERT")?;
    tls.server_name = text("CONSUL_TLS_SERVER_NAME")?;
    tls.identity = match (file("CONSUL_CLIENT_CERT")?, file("CONSUL_CLIENT_KEY")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(
                "leads to TLS, but of `CONSUL_CLIENT_CERT` and `CONSUL_CLIENT_KEY` only one is set"
                    .to_owned(),
            );
        }
    };
    settings.tls = Some(tls);
    Ok(settings)
}

/// Whether a switch is on, as Go reads it.
fn is_true(text: &Option<String>) -> bool {
    let text = text.as_deref().unwrap_or_default();
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, variables: &[(&str, &str)]) -> Result<ConsulSettings, String> {
        settings(url, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn a_url_names_the_agents_and_whether_they_speak_tls() {
        for url in ["consul://a:1,b:2/", "consul+http://a:1, b:2"] {
            let plain = read(url, &[]).expect("two agents");
            assert_eq!(plain.endpoints, ["http://a:1", "http://b:2"]);
            assert!(plain.token.is_none() && plain.tls.is_none());
        }
        let secure = read("consul+https://a:1", &[]).expect("an agent");
        assert_eq!(secure.endpoints, ["https://a:1"]);
        assert!(secure.tls.is_some());
    }

    #[test]
    fn the_variables_of_consul_say_where_it_is_and_who_asks() {
        let there = [
            ("CONSUL_HTTP_ADDR", "https://a:1"),
            ("CONSUL_HTTP_TOKEN", "secret"),
            ("CONSUL_TLS_SERVER_NAME", "consul.example"),
        ];
        let settings = read("consul://", &there).expect("an address");
        assert_eq!(settings.endpoints, ["https://a:1"]);
        assert_eq!(settings.token.as_deref(), Some("secret"));
        let name = settings.tls.and_then(|tls| tls.server_name);
        assert_eq!(name.as_deref(), Some("consul.example"));
        let settings = read("consul://b:2", &there).expect("the URL counts more");
        assert_eq!(settings.endpoints, ["http://b:2"]);
        let switched = [("CONSUL_HTTP_ADDR", "a:1"), ("CONSUL_HTTP_SSL", "true")];
        let settings = read("consul://", &switched).expect("an address");
        assert_eq!(settings.endpoints, ["https://a:1"]);
    }

    #[test]
    fn the_file_of_a_token_counts_more_than_the_token_of_a_variable() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let path = path.to_str().expect("a path that is text");
        let there = [
            ("CONSUL_HTTP_TOKEN", "of the variable"),
            ("CONSUL_HTTP_TOKEN_FILE", path),
        ];
        for (in_file, counts) in [("of the file\n", "of the file"), ("\n", "of the variable")] {
            std::fs::write(path, in_file).expect("a file");
            let settings = read("consul://a:1", &there).expect("an agent");
            assert_eq!(settings.token.as_deref(), Some(counts));
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_a_secret() {
        let off = [("CONSUL_HTTP_SSL_VERIFY", "false")];
        for (url, variables) in [
            ("consul://", &[][..]),
            ("consul:a", &[][..]),
            ("consul://a:1,,b:2", &[][..]),
            ("consul://secret@a:1", &[][..]),
            (
                "consul://a:1",
                &[("CONSUL_HTTP_TOKEN_FILE", "/nowhere/token")][..],
            ),
            (
                "consul+https://a:1",
                &[("CONSUL_CACERT", "/nowhere/ca.pem")][..],
            ),
            (
                "consul+https://a:1",
                &[("CONSUL_CLIENT_KEY", "/nowhere/key.pem")][..],
            ),
            ("consul+https://a:1", &off[..]),
        ] {
            let fault = read(url, variables).expect_err(url);
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
