//! The configuration of a runtime by environment variables.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

#[cfg(feature = "redis")]
use percent_encoding::percent_decode_str;

use crate::api::builder::LockRuntimeBuilder;
use crate::api::runtime::LockRuntime;
use crate::error::LockError;
use crate::settings;
#[cfg(feature = "consul")]
use crate::stores::consul;
#[cfg(feature = "etcd")]
use crate::stores::etcd;
use crate::stores::memory::MemoryBackend;

const LOCK_URL: &str = "LOCK_URL";

/// What [`LOCK_URL`] may be.
const FORMS: &str = "`redis://host:port`, `rediss://host:port`, `unix:///path/to/socket`, \
     `redis+redlock://host:port,host:port,host:port`, `etcd://host:port,host:port`, \
     `etcds://host:port`, `consul://host:port`, `consul+https://host:port` or `memory:`";

/// Hands the value of a variable to the builder, or says what is wrong with it.
type Set = fn(LockRuntimeBuilder, &str) -> Result<LockRuntimeBuilder, String>;

/// The variables beside [`LOCK_URL`], each with its setter.
const VARIABLES: &[(&str, Set)] = &[
    ("LOCK_PREFIX", |builder, text| Ok(builder.key_prefix(text))),
    ("LOCK_TTL", |builder, text| {
        Ok(builder.default_ttl(period(text)?))
    }),
    ("LOCK_WAIT", |builder, text| {
        Ok(builder.default_wait(duration(text)?))
    }),
    ("LOCK_RENEW_EVERY", |builder, text| {
        Ok(builder.renew_every(duration(text)?))
    }),
    ("LOCK_COMMAND_TIMEOUT", |builder, text| {
        Ok(builder.command_timeout(period(text)?))
    }),
    ("LOCK_SHUTDOWN_TIMEOUT", |builder, text| {
        Ok(builder.shutdown_timeout(duration(text)?))
    }),
    ("LOCK_GRACE", |builder, text| {
        Ok(builder.grace(period(text)?))
    }),
    ("LOCK_HEARTBEAT", |builder, text| {
        Ok(builder.heartbeat(period(text)?))
    }),
    ("LOCK_LOCAL_PASSES", |builder, text| {
        Ok(builder.local_passes(parsed(text, "a whole number, as in `32`")?))
    }),
    ("LOCK_LOCAL_SHARE", |builder, text| {
        Ok(builder.local_share(parsed(text, "a number from 0 to 1, as in `0.1`")?))
    }),
    ("LOCK_SERVICE", |builder, text| Ok(builder.service(text))),
    ("LOCK_PROCESS_CARD", |builder, text| {
        Ok(builder.process_card(parsed(text, "`true` or `false`")?))
    }),
    #[cfg(feature = "redis")]
    ("LOCK_LANES", |builder, text| {
        Ok(builder.lanes(parsed(text, "a whole number, as in `1`")?))
    }),
    #[cfg(any(feature = "redis", feature = "etcd", feature = "consul"))]
    ("LOCK_CONNECT_LAZILY", |builder, text| {
        Ok(match parsed(text, "`true` or `false`")? {
            true => builder.connect_lazily(),
            false => builder,
        })
    }),
    #[cfg(feature = "redis")]
    ("LOCK_POOL_SIZE", |builder, text| {
        Ok(builder.pool_size(parsed(text, "a whole number, as in `40`")?))
    }),
    #[cfg(feature = "redis")]
    ("LOCK_CONNECT_TIMEOUT", |builder, text| {
        Ok(builder.connect_timeout(period(text)?))
    }),
    #[cfg(feature = "redis")]
    ("LOCK_RESTART_DELAY", |builder, text| {
        Ok(builder.restart_delay(duration(text)?))
    }),
    #[cfg(feature = "tls")]
    ("LOCK_TLS_ROOT_CERTIFICATES", |builder, path| {
        Ok(builder.tls_root_certificates(pem(path)?))
    }),
    #[cfg(feature = "tls")]
    ("LOCK_TLS_CLIENT_CERTIFICATE", |builder, path| {
        Ok(builder.tls_client(pem(path)?))
    }),
    #[cfg(feature = "tls")]
    ("LOCK_TLS_CLIENT_KEY", |builder, path| {
        Ok(builder.tls_client_key(pem(path)?))
    }),
];

/// The builder that the environment describes, of which `variable` is the value of one.
pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> LockRuntimeBuilder {
    try_read(variable).unwrap_or_else(|fault| LockRuntimeBuilder::fault(LockError::Config(fault)))
}

fn try_read(variable: impl Fn(&str) -> Option<OsString>) -> Result<LockRuntimeBuilder, String> {
    let url = variable(LOCK_URL).ok_or_else(|| {
        format!("the environment variable `{LOCK_URL}` is not set; set it to {FORMS}")
    })?;
    let mut builder = source(url.to_str().unwrap_or_default(), &variable)?;
    for (name, set) in VARIABLES {
        if let Some(value) = variable(name) {
            builder = value
                .to_str()
                .ok_or_else(|| "is no text".to_owned())
                .and_then(|text| set(builder, text))
                .map_err(|fault| format!("the environment variable `{name}` {fault}"))?;
        }
    }
    Ok(builder)
}

fn source(
    url: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<LockRuntimeBuilder, String> {
    // What is unused without the features `etcd` and `consul`.
    let _ = &variable;
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("memory") if url == "memory:" => Ok(LockRuntimeBuilder::backend(MemoryBackend::new())),
        #[cfg(feature = "redis")]
        Some("redis" | "rediss" | "unix") => Ok(LockRuntimeBuilder::redis(url.to_owned())),
        #[cfg(feature = "redis")]
        Some("redis+redlock" | "rediss+redlock" | "redlock") => {
            redlock(url).map_err(|fault| format!("the environment variable `{LOCK_URL}` {fault}"))
        }
        #[cfg(feature = "etcd")]
        Some(scheme) if etcd::is_scheme(scheme) => {
            let settings = etcd::settings(url, variable);
            let settings = settings
                .map_err(|fault| format!("the environment variable `{LOCK_URL}` {fault}"))?;
            Ok(LockRuntimeBuilder::etcd(settings))
        }
        #[cfg(feature = "consul")]
        Some(scheme) if consul::is_scheme(scheme) => {
            let settings = consul::settings(url, variable);
            let settings = settings
                .map_err(|fault| format!("the environment variable `{LOCK_URL}` {fault}"))?;
            Ok(LockRuntimeBuilder::consul(settings))
        }
        #[cfg(not(feature = "redis"))]
        Some("redis" | "rediss" | "unix" | "redis+redlock" | "rediss+redlock" | "redlock") => {
            Err(is_off("redis"))
        }
        #[cfg(not(feature = "etcd"))]
        Some("etcd" | "etcds" | "etcd+http" | "etcd+https") => Err(is_off("etcd")),
        #[cfg(not(feature = "consul"))]
        Some("consul" | "consul+http" | "consul+https") => Err(is_off("consul")),
        // The value may hold a password, so it is not shown.
        _ => Err(format!(
            "the environment variable `{LOCK_URL}` must be {FORMS}"
        )),
    }
}

/// That a store is not compiled in, and how it is.
#[cfg(not(all(feature = "redis", feature = "etcd", feature = "consul")))]
fn is_off(feature: &str) -> String {
    format!(
        "the environment variable `{LOCK_URL}` needs the feature `{feature}` of lock-runtime, which \
         is off; `cargo add lock-runtime --features {feature}` switches it on"
    )
}

/// The builder that a URL of several servers describes: each setting that has a variable has a
/// parameter, too. Of a fault nothing is told that may hold a password.
#[cfg(feature = "redis")]
fn redlock(url: &str) -> Result<LockRuntimeBuilder, String> {
    let (urls, parameters) = servers(url)?;
    let mut builder = LockRuntime::redlock(urls);
    for (name, value) in parameters {
        let known = VARIABLES
            .iter()
            .find(|(variable, _)| parameter_of(variable) == name);
        let Some((_, set)) = known else {
            let names = VARIABLES.iter().map(|(variable, _)| parameter_of(variable));
            let names = names.collect::<Vec<_>>().join("`, `");
            return Err(format!("has a parameter that is none of `{names}`"));
        };
        builder = set(builder, &value).map_err(|fault| format!("has a `{name}` that {fault}"))?;
    }
    Ok(builder)
}

/// The parameters of a URL, each with its value.
#[cfg(feature = "redis")]
type Parameters<'a> = Vec<(&'a str, String)>;

/// The servers of `scheme://[user:password@]host:port,host:port,…[/db][?restart_delay=30s&…]`, as
/// one URL each, and the parameters.
#[cfg(feature = "redis")]
fn servers(url: &str) -> Result<(Vec<String>, Parameters<'_>), String> {
    let form = || "must be `redis+redlock://host:port,host:port,host:port`".to_owned();
    let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
    let scheme = match scheme {
        "rediss+redlock" => "rediss",
        _ => "redis",
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, database) = match rest.split_once('/') {
        Some((hosts, database)) => (hosts, format!("/{database}")),
        None => (rest, String::new()),
    };
    if hosts.split(',').any(str::is_empty) {
        return Err(form());
    }
    let of_host = |host| format!("{scheme}://{user}{host}{database}");
    let urls = hosts.split(',').map(of_host).collect();
    let parameters = query.iter().flat_map(|query| query.split('&'));
    let parameters = parameters.map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| "has a parameter that is no text".to_owned())?;
        Ok((name, value.into_owned()))
    });
    let parameters: Result<_, String> = parameters.collect();
    Ok((urls, parameters?))
}

/// The parameter of a URL that sets what this variable does.
#[cfg(feature = "redis")]
fn parameter_of(variable: &str) -> String {
    variable.trim_start_matches("LOCK_").to_lowercase()
}

/// What is in the file.
#[cfg(feature = "tls")]
fn pem(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| format!("must be the path of a file in PEM format: {error}"))
}

/// A duration of a setting that is bounded like a ttl: out of its bounds, the error shall name the
/// variable.
fn period(text: &str) -> Result<Duration, String> {
    let period = duration(text)?;
    settings::bounded(period).map_err(|fault| format!("is {text}, but {fault}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    // Of no fixed length; humantime would take `1M` for 30 days, where a minute was meant.
    let calendar = |unit: &str| unit == "M" || unit.starts_with("mo") || unit.starts_with('y');
    let has_calendar = text.split(|c: char| !c.is_alphabetic()).any(calendar);
    humantime::parse_duration(text)
        .ok()
        .filter(|_| !has_calendar)
        .ok_or_else(|| {
            format!("is {text:?}, but must be a duration, as in `500ms`, `5s` or `1m 30s`")
        })
}

fn parsed<T: FromStr>(text: &str, form: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("is {text:?}, but must be {form}"))
}

impl LockRuntime {
    /// A runtime as the environment describes it.
    ///
    /// | variable | what it sets |
    /// |---|---|
    /// | `LOCK_URL` | the store: `redis://…`, `rediss://…`, `unix://…`, `redis+redlock://…` (or `rediss+redlock://…`) with the servers of [`redlock`](LockRuntime::redlock), `etcd://host:port,host:port`, `etcds://…`, `consul://host:port,host:port`, `consul+https://…` or `memory:`; required |
    /// | `LOCK_PREFIX` | [`key_prefix`](LockRuntimeBuilder::key_prefix) |
    /// | `LOCK_TTL` | [`default_ttl`](LockRuntimeBuilder::default_ttl) |
    /// | `LOCK_WAIT` | [`default_wait`](LockRuntimeBuilder::default_wait) |
    /// | `LOCK_RENEW_EVERY` | [`renew_every`](LockRuntimeBuilder::renew_every) |
    /// | `LOCK_COMMAND_TIMEOUT` | [`command_timeout`](LockRuntimeBuilder::command_timeout) |
    /// | `LOCK_SHUTDOWN_TIMEOUT` | [`shutdown_timeout`](LockRuntimeBuilder::shutdown_timeout) |
    /// | `LOCK_GRACE` | [`grace`](LockRuntimeBuilder::grace) |
    /// | `LOCK_HEARTBEAT` | [`heartbeat`](LockRuntimeBuilder::heartbeat) |
    /// | `LOCK_LOCAL_PASSES` | [`local_passes`](LockRuntimeBuilder::local_passes) |
    /// | `LOCK_LOCAL_SHARE` | [`local_share`](LockRuntimeBuilder::local_share) |
    /// | `LOCK_SERVICE` | [`service`](LockRuntimeBuilder::service) |
    /// | `LOCK_PROCESS_CARD` | [`process_card`](LockRuntimeBuilder::process_card): `true` or `false` |
    /// | `LOCK_LANES` | `lanes`, with the feature `redis` |
    /// | `LOCK_CONNECT_LAZILY` | `connect_lazily`: `true` or `false`, with the feature `redis`, `etcd` or `consul` |
    /// | `LOCK_POOL_SIZE` | `pool_size`, with the feature `redis` |
    /// | `LOCK_CONNECT_TIMEOUT` | `connect_timeout`, with the feature `redis` |
    /// | `LOCK_RESTART_DELAY` | `restart_delay`, with the feature `redis` |
    /// | `LOCK_TLS_ROOT_CERTIFICATES` | `tls_root_certificates`: the path of the file, with the feature `tls` |
    /// | `LOCK_TLS_CLIENT_CERTIFICATE`, `LOCK_TLS_CLIENT_KEY` | `tls_client_certificate`: the paths of both files, with the feature `tls` |
    ///
    /// With the feature `etcd`, its user may stand in the URL, as `etcd://user:password@host:port`
    /// with `%40` for an `@`, or in `ETCDCTL_USER` and `ETCDCTL_PASSWORD`; the paths of
    /// certificates in `ETCDCTL_CACERT`, `ETCDCTL_CERT` and `ETCDCTL_KEY`, for `etcds://`, which
    /// may also be written `etcd+https://`.
    ///
    /// With the feature `consul`, its token is in the file that `CONSUL_HTTP_TOKEN_FILE` names, or,
    /// without that, in `CONSUL_HTTP_TOKEN`; the paths of certificates in `CONSUL_CACERT`,
    /// `CONSUL_CLIENT_CERT` and `CONSUL_CLIENT_KEY`, for `consul+https://`, and the name in them,
    /// if it is not that of the URL, in `CONSUL_TLS_SERVER_NAME`. `consul://` without a host leads
    /// where `CONSUL_HTTP_ADDR` does.
    ///
    /// A URL of several servers takes the same as parameters, without the `LOCK_` and in small
    /// letters: `redis+redlock://one:6379,two:6379,three:6379?ttl=5s&restart_delay=10s&lanes=2`.
    /// What has no place in a URL is written by `%`, as in `prefix=shop%3Alock%3A`. A variable
    /// counts more.
    ///
    /// A duration is text, as in `500ms`, `5s` or `1m 30s`. What is set on the builder afterwards
    /// counts more than the environment. A value that cannot be used is an error of
    /// [`build`](LockRuntimeBuilder::build), and so is a missing `LOCK_URL`.
    pub fn from_env() -> LockRuntimeBuilder {
        read(|name| std::env::var_os(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// The settings that variables give, or what is wrong with them.
    async fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let builder = read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        });
        match builder.build().await {
            Ok(runtime) => Ok(runtime.engine.settings.clone()),
            Err(LockError::Config(fault)) => Err(fault),
            Err(other) => panic!("{other:?}"),
        }
    }

    const URL: (&str, &str) = (LOCK_URL, "memory:");

    #[tokio::test]
    async fn every_variable_sets_what_it_says() {
        let set = settings(&[
            URL,
            ("LOCK_PREFIX", "shop:"),
            ("LOCK_TTL", "20s"),
            ("LOCK_WAIT", "0s"),
            ("LOCK_RENEW_EVERY", "3s"),
            ("LOCK_COMMAND_TIMEOUT", "250ms"),
            ("LOCK_SHUTDOWN_TIMEOUT", "1m 30s"),
            ("LOCK_GRACE", "2s"),
            ("LOCK_HEARTBEAT", "5s"),
            ("LOCK_LOCAL_PASSES", "7"),
            ("LOCK_LOCAL_SHARE", "0.25"),
            ("LOCK_SERVICE", "checkout"),
            ("LOCK_PROCESS_CARD", "false"),
        ])
        .await
        .expect("each can be used");
        let secs = Duration::from_secs;
        assert_eq!(set.key_prefix, "shop:");
        assert_eq!((set.default_ttl, set.default_wait), (secs(20), secs(0)));
        assert_eq!(set.renew_every, Some(secs(3)));
        assert_eq!(set.command_timeout, Duration::from_millis(250));
        assert_eq!(set.shutdown_timeout, secs(90));
        assert_eq!((set.grace, set.heartbeat), (secs(2), secs(5)));
        assert_eq!((set.local_passes, set.local_share), (7, 0.25));
        assert_eq!(set.service.as_deref(), Some("checkout"));
        assert!(!set.process_card);
    }

    #[tokio::test]
    async fn what_is_not_set_keeps_its_default() {
        let (set, default) = (
            settings(&[URL]).await.expect("a url is enough"),
            Settings::default(),
        );
        assert_eq!(set.key_prefix, default.key_prefix);
        assert_eq!(set.default_ttl, default.default_ttl);
        assert_eq!(set.local_passes, default.local_passes);
    }

    #[tokio::test]
    async fn a_value_that_cannot_be_used_is_an_error_that_names_its_variable() {
        for (name, value) in [
            ("LOCK_TTL", "5"),
            ("LOCK_TTL", ""),
            ("LOCK_TTL", "1ms"),
            ("LOCK_TTL", "25h"),
            ("LOCK_WAIT", "1M"),
            ("LOCK_WAIT", "1month"),
            ("LOCK_WAIT", "-1s"),
            ("LOCK_GRACE", "0s"),
            ("LOCK_LOCAL_PASSES", "-1"),
            ("LOCK_LOCAL_SHARE", "half"),
            ("LOCK_PROCESS_CARD", "no"),
        ] {
            let fault = settings(&[URL, (name, value)]).await.expect_err(value);
            assert!(fault.contains(name), "{fault}");
        }
        // Those that are wrong only together, or too large, are named as the setter is.
        for (name, value, setter) in [
            ("LOCK_RENEW_EVERY", "16s", "`renew_every`"),
            ("LOCK_LOCAL_SHARE", "2", "`local_share`"),
            ("LOCK_PREFIX", "a}", "`key_prefix`"),
        ] {
            let fault = settings(&[URL, (name, value)]).await.expect_err(value);
            assert!(fault.contains(setter), "{fault}");
        }
    }

    #[cfg(not(all(feature = "redis", feature = "etcd", feature = "consul")))]
    #[tokio::test]
    async fn a_feature_that_is_off_is_named_with_the_command_that_switches_it_on() {
        #[cfg(not(feature = "etcd"))]
        let (url, command) = ("etcd://me:secret@host:1", "--features etcd");
        #[cfg(all(feature = "etcd", not(feature = "consul")))]
        let (url, command) = ("consul://secret@host:1", "--features consul");
        #[cfg(all(feature = "etcd", feature = "consul"))]
        let (url, command) = ("redis://me:secret@host:1", "--features redis");
        let fault = settings(&[(LOCK_URL, url)]).await.expect_err(url);
        assert!(fault.contains(command), "{fault}");
        assert!(!fault.contains("secret"), "{fault}");
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_service_may_start_before_its_server() {
        let url = (LOCK_URL, "redis://127.0.0.1:1/");
        let lazy = [url, ("LOCK_CONNECT_LAZILY", "true"), ("LOCK_LANES", "2")];
        assert!(settings(&lazy).await.is_ok());
        for (name, value) in [("LOCK_CONNECT_LAZILY", "yes"), ("LOCK_LANES", "many")] {
            let fault = settings(&[url, (name, value)]).await.expect_err(value);
            assert!(fault.contains(name), "{fault}");
        }
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn certificates_that_cannot_be_read_are_an_error() {
        let missing = ("LOCK_TLS_ROOT_CERTIFICATES", "/nowhere/ca.pem");
        let fault = settings(&[URL, missing]).await.expect_err("no such file");
        assert!(fault.contains(missing.0), "{fault}");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_url_names_several_servers_and_the_settings() {
        let (urls, parameters) = servers("redis+redlock://a:1,b,[::1]:3").expect("a URL");
        assert_eq!(urls, ["redis://a:1", "redis://b", "redis://[::1]:3"]);
        assert_eq!(parameters, []);
        let (urls, parameters) =
            servers("rediss+redlock://u:p@a,b,c/2?restart_delay=0s&prefix=a%3Ab").expect("a URL");
        let each = ["a", "b", "c"].map(|host| format!("rediss://u:p@{host}/2"));
        assert_eq!(urls, each);
        let set = [("restart_delay", "0s"), ("prefix", "a:b")];
        assert_eq!(
            parameters,
            set.map(|(name, value)| (name, value.to_owned()))
        );
        let (urls, _) = servers("redlock://a,b,c").expect("a URL");
        assert_eq!(urls[0], "redis://a");
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_url_of_several_servers_sets_what_the_variables_do() {
        let url = "redlock://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3?connect_lazily=true&prefix=shop%3A\
                   &ttl=7s&wait=0s&grace=2s&local_passes=7&restart_delay=8s&lanes=2&pool_size=9";
        let set = settings(&[(LOCK_URL, url), ("LOCK_WAIT", "3s")]).await;
        let set = set.expect("each can be used");
        let secs = Duration::from_secs;
        assert_eq!((set.key_prefix.as_str(), set.local_passes), ("shop:", 7));
        assert_eq!((set.default_ttl, set.grace), (secs(7), secs(2)));
        assert_eq!(set.default_wait, secs(3), "a variable counts more");
        let long = url.replace("ttl=7s", "ttl=9s");
        let fault = settings(&[(LOCK_URL, &long)]).await.expect_err("too long");
        assert!(fault.contains("restart_delay"), "{fault}");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn what_is_wrong_with_a_url_of_several_servers_is_told_without_the_password() {
        for (url, part) in [
            ("redlock:a,b,c", "must be"),
            ("redlock://u:secret@a,,c", "must be"),
            (
                "redlock://u:secret@a,b,c?restart_delay=soon",
                "restart_delay",
            ),
            ("redlock://u:secret@a,b,c?secret=1", "parameter"),
        ] {
            let fault = redlock(url).map(drop).expect_err("a fault");
            assert!(fault.contains(part) && !fault.contains("secret"), "{fault}");
        }
    }
}
