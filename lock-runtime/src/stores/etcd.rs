//! Locks on etcd: the crate `lock-etcd`, as services configure it.

use std::ffi::OsString;

pub use lock_etcd::{ConnectError, EtcdBackend, EtcdSettings, EtcdTls, InvalidSetting};

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

/// Whether a URL with this scheme leads to etcd.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    matches!(scheme, "etcd" | "etcds" | "etcd+http" | "etcd+https")
}

/// The settings that a URL and the variables of `etcdctl` give:
/// `etcd://[user:password@]host:port[,host:port]…`, and `etcds://` with TLS.
///
/// What is wrong is told without a value, which may hold a password.
pub(crate) fn settings(
    url: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<EtcdSettings, String> {
    let form = "must be `etcd://[user:password@]host:port,host:port` or `etcds://…`";
    let (scheme, rest) = url.split_once("://").ok_or(form)?;
    let is_secure = matches!(scheme, "etcds" | "etcd+https");
    let (user, members) = match rest.rsplit_once('@') {
        Some((user, members)) => (Some(user), members),
        None => (None, rest),
    };
    let members = members.strip_suffix('/').unwrap_or(members);
    if members.is_empty() {
        return Err(form.to_owned());
    }
    let protocol = if is_secure { "https" } else { "http" };
    let members = members.split(',');
    let mut settings =
        EtcdSettings::new(members.map(|member| format!("{protocol}://{}", member.trim())));

    let text = |name: &str| match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(format!("is set, but `{name}` is no text")),
    };
    settings.user = match user {
        Some(user) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let decoded = decoded(name).zip(decoded(password));
            Some(decoded.ok_or("has a user or a password with a `%` that is no `%25`")?)
        }
        None => match (text("ETCDCTL_USER")?, text("ETCDCTL_PASSWORD")?) {
            (Some(name), Some(password)) => Some((name, password)),
            (Some(both), None) => {
                let (name, password) = both.split_once(':').ok_or(
                    "is set, and so is `ETCDCTL_USER`, without a password; write `user:password`, \
                     or set `ETCDCTL_PASSWORD`",
                )?;
                Some((name.to_owned(), password.to_owned()))
            }
            (None, _) => None,
        },
    };

    if is_secure {
        let file = |name: &str| match variable(name) {
            None => Ok(None),
            Some(path) => std::fs::read(path)
                .map(Some)
                .map_err(|error| format!("leads to TLS, but the file of `{name}`: {error}")),
        };
        let mut tls = EtcdTls::default();
        tls.authorities = file("ETCDCTL_CACERT")?;
        tls.identity = match (file("ETCDCTL_CERT")?, file("ETCDCTL_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(
                    "leads to TLS, but of `ETCDCTL_CERT` and `ETCDCTL_KEY` only one is set"
                        .to_owned(),
                );
            }
        };
        settings.tls = Some(tls);
    }
    Ok(settings)
}

/// Text in which `%40` stands for `@`, and so on.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, variables: &[(&str, &str)]) -> Result<EtcdSettings, String> {
        settings(url, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn user(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.to_owned(), password.to_owned()))
    }

    #[test]
    fn a_url_names_the_members_the_user_and_whether_they_speak_tls() {
        let plain = read("etcd://a:1,b:2/", &[]).expect("two members");
        assert_eq!(plain.endpoints, ["http://a:1", "http://b:2"]);
        assert!(plain.user.is_none() && plain.tls.is_none());
        for url in ["etcds://me:p%40ss@a:1", "etcd+https://me:p%40ss@a:1"] {
            let secure = read(url, &[]).expect("a user and a member");
            assert_eq!(secure.endpoints, ["https://a:1"]);
            assert_eq!(secure.user, user("me", "p@ss"));
            assert!(secure.tls.is_some());
        }
    }

    #[test]
    fn the_variables_of_etcdctl_give_user_and_certificates() {
        let one = [("ETCDCTL_USER", "me:secret")];
        let two = [("ETCDCTL_USER", "me"), ("ETCDCTL_PASSWORD", "secret")];
        for variables in [&one[..], &two[..]] {
            let settings = read("etcd://a:1", variables).expect("a user");
            assert_eq!(settings.user, user("me", "secret"));
        }
        let settings = read("etcd://you:there@a:1", &one).expect("the URL counts more");
        assert_eq!(settings.user, user("you", "there"));
    }

    #[test]
    fn what_is_wrong_is_told_without_a_secret() {
        for (url, variables) in [
            ("etcd://", &[][..]),
            ("etcd://me:secret@", &[][..]),
            ("etcd://me:secret%@a:1", &[][..]),
            ("etcd://me:secret%+f@a:1", &[][..]),
            ("etcd://a:1", &[("ETCDCTL_USER", "secret")][..]),
            ("etcds://a:1", &[("ETCDCTL_CACERT", "/nowhere/ca.pem")][..]),
            ("etcds://a:1", &[("ETCDCTL_KEY", "/nowhere/key.pem")][..]),
        ] {
            let fault = read(url, variables).expect_err(url);
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
