//! B4: settings, URLs, owner tokens.

use super::*;

/// The error of a server that is said like this.
async fn error_of(url: &str) -> LockError {
    let error = timeout(Duration::from_secs(5) + SLACK, builder(url).build())
        .await
        .expect("it hangs")
        .unwrap_err();
    let causes = causes(&error);
    assert!(
        !causes.contains("secret"),
        "it shows the password: {causes}"
    );
    error
}

async fn refused_url(url: &str) {
    let error = error_of(url).await;
    assert!(matches!(error, LockError::Config(_)), "{error:?}");
}

async fn unreachable_url(url: &str) {
    let error = error_of(url).await;
    assert!(error.is_unavailable(), "{error:?}");
}

async fn accepted_settings(settings: fn(LockRuntimeBuilder) -> LockRuntimeBuilder) {
    let server = Server::start();
    let locks = settings(builder(server.url())).build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let keys: Vec<String> = server.run(&["KEYS", "*"]);
    assert!(keys.contains(&guard.key().stored().to_owned()), "{keys:?}");
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

async fn refused_settings(settings: fn(LockRuntimeBuilder) -> LockRuntimeBuilder) {
    let error = settings(LockRuntime::in_memory())
        .build()
        .await
        .unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(
        error.to_string().contains('`'),
        "it names no setting: {error}"
    );
}

cases! { refused_settings:
    no_default_ttl: |builder| builder.default_ttl(Duration::ZERO),
    an_endless_default_ttl: |builder| builder.default_ttl(Duration::MAX),
    renewals_without_pause: |builder| builder.renew_every(Duration::ZERO),
    renewals_every_nanosecond: |builder| builder.renew_every(Duration::from_nanos(1)),
    renewals_after_the_lease: |builder| builder.default_ttl(ms(100)).renew_every(ms(100)),
    no_command_timeout: |builder| builder.command_timeout(Duration::ZERO),
    an_endless_command_timeout: |builder| builder.command_timeout(Duration::MAX),
    no_grace: |builder| builder.grace(Duration::ZERO),
    an_endless_grace: |builder| builder.grace(Duration::MAX),
    no_heartbeat: |builder| builder.heartbeat(Duration::ZERO),
    an_endless_heartbeat: |builder| builder.heartbeat(Duration::MAX),
    a_negative_share: |builder| builder.local_share(-0.1),
    more_than_the_whole: |builder| builder.local_share(1.1),
    a_share_that_is_no_number: |builder| builder.local_share(f64::NAN),
    an_infinite_share: |builder| builder.local_share(f64::INFINITY),
    too_many_passes: |builder| builder.local_passes(u32::MAX),
    a_prefix_that_is_too_long: |builder| builder.key_prefix("x".repeat(2000)),
    a_prefix_with_empty_braces: |builder| builder.key_prefix("{}"),
    a_prefix_with_a_closing_brace: |builder| builder.key_prefix("}"),
}

cases! { accepted_settings:
    no_prefix: |builder| builder.key_prefix(""),
    a_prefix_with_slashes: |builder| builder.key_prefix("a/b/"),
    a_prefix_with_a_hash_tag: |builder| builder.key_prefix("{tag}:"),
    a_prefix_with_a_line_end: |builder| builder.key_prefix("a\r\n"),
    a_prefix_of_globs: |builder| builder.key_prefix("*[?"),
    a_grace_longer_than_the_ttl: |builder| builder.grace(Duration::from_secs(60)),
    no_passes: |builder| builder.local_passes(0),
    owner_tokens_that_are_empty: |builder| builder.owner_tokens(|_| String::new()),
    owner_tokens_that_are_all_the_same: |builder| builder.owner_tokens(|_| "me".to_owned()),
    owner_tokens_with_slashes: |builder| builder.owner_tokens(|_| "a/1/2/b".to_owned()),
    owner_tokens_with_line_ends: |builder| builder.owner_tokens(|_| "a\r\n\0".to_owned()),
    owner_tokens_that_look_like_ours: |builder| builder.owner_tokens(|_| "a/lr-0123456789abcdef-1-2".to_owned()),
    owner_tokens_of_a_kilobyte: |builder| builder.owner_tokens(|_| "x".repeat(1024)),
}

cases! { refused_url:
    an_empty_url: "",
    a_url_without_a_scheme: "127.0.0.1:6379",
    a_url_of_a_web_server: "http://127.0.0.1:6379",
    a_url_with_a_misspelt_scheme: "redi://127.0.0.1",
    a_scheme_alone: "redis://",
    a_url_with_a_port_that_is_none: "redis://127.0.0.1:port",
    a_url_with_a_port_too_large: "redis://127.0.0.1:65536",
    a_url_with_a_password_and_a_port_that_is_none: "redis://:secret@127.0.0.1:port",
    a_url_with_half_an_address: "redis://[::1",
    a_url_with_a_database_that_is_none: "redis://127.0.0.1:1/abc",
    a_url_with_a_negative_database: "redis://127.0.0.1:1/-1",
    a_url_with_a_blank: "redis://a b/",
    a_url_with_a_nul: "redis://127.0.0.1\0:1/",
    a_socket_without_a_path: "unix://",
    a_url_of_memory: "memory:",
    a_url_of_a_sentinel: "redis+sentinel://127.0.0.1",
}

cases! { unreachable_url:
    a_url_with_port_zero: "redis://127.0.0.1:0",
    a_url_with_a_password_and_no_server: "redis://user:secret@127.0.0.1:1/",
    a_url_with_a_line_end: "redis://127.0.0.1:1/\r\n",
    a_socket_that_is_not_there: "unix:///no/such/socket",
    tls_without_a_server: "rediss://127.0.0.1:1/",
}

#[tokio::test]
async fn a_number_of_lanes_that_the_pool_cannot_give_is_refused() {
    for (lanes, size) in [(0, 4), (5, 4), (usize::MAX, 4), (1, 0)] {
        let mut config = Config::from_url("redis://127.0.0.1:1");
        config.pool = Some(PoolConfig::new(size));
        let error = LockRuntime::from_config(config)
            .lanes(lanes)
            .connect_lazily()
            .build()
            .await
            .unwrap_err();
        assert!(
            matches!(error, LockError::Config(_)),
            "{lanes} of {size}: {error}"
        );
        assert!(causes(&error).contains("lanes"), "{}", causes(&error));
    }
}

/// A URL of a server, in its parts.
#[derive(Clone, Debug)]
struct Parts {
    scheme: String,
    user: String,
    host: String,
    port: String,
    database: String,
}

impl Parts {
    fn url(&self) -> String {
        let Parts {
            scheme,
            user,
            host,
            port,
            database,
        } = self;
        format!("{scheme}{user}{host}{port}{database}")
    }
}

/// URLs of which nothing is wrong.
fn valid_urls() -> impl Strategy<Value = Parts> {
    let parts = (
        "(redis|rediss|valkey|valkeys)://",
        "([a-m]{0,4}:[a-z0-9]{0,8}@)?",
        "[a-z]([a-z0-9]{0,8}\\.[a-z]{2,3})?|127\\.0\\.0\\.1|\\[::1\\]",
        "(:[1-9][0-9]{0,3})?",
        "(/([0-9]{1,4})?)?",
    );
    parts.prop_map(|(scheme, user, host, port, database)| Parts {
        scheme,
        user,
        host,
        port,
        database,
    })
}

/// URLs of which one part is wrong.
fn wrong_urls() -> impl Strategy<Value = String> {
    type Change = fn(&mut Parts, String);
    let mistakes: [(&str, Change); 9] = [
        (
            "(|//|http://|memory:|redi://|redis:|redis\\+redlock://)",
            |url, it| url.scheme = it,
        ),
        ("[a-z]{1,4}@[a-z]{1,4} ", |url, it| url.user = it),
        ("|a b|\\[::1|\\[:1\\]|a\\^b", |url, it| url.host = it),
        (":[a-z]{1,5}", |url, it| url.port = it),
        (":(6553[6-9]|[7-9][0-9]{4}|[1-9][0-9]{5,9})", |url, it| {
            url.port = it
        }),
        (":-[0-9]{1,4}", |url, it| url.port = it),
        ("/[a-z]{1,5}", |url, it| url.database = it),
        ("/-[1-9][0-9]{0,3}", |url, it| url.database = it),
        ("/[0-9]/[0-9]", |url, it| url.database = it),
    ];
    let wrong = mistakes.map(|(pattern, change)| {
        let wrong = (valid_urls(), pattern).prop_map(move |(mut url, it)| {
            change(&mut url, it);
            url.url()
        });
        wrong.boxed()
    });
    prop::strategy::Union::new(wrong)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_url_panics_or_hangs((url, is_valid) in prop_oneof![
        valid_urls().prop_map(|url| (url.url(), true)),
        wrong_urls().prop_map(|url| (url, false)),
        // No scheme at all.
        "\\PC{0,20}".prop_map(|text| (text.replace(':', ""), false)),
    ]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Whether there is such a server is another matter.
            let outcome = LockRuntime::redis(&url).connect_lazily().build().await;
            prop_assert_eq!(outcome.is_ok(), is_valid, "{}: {:?}", url, outcome.as_ref().err());
            if let Err(error) = outcome {
                prop_assert!(matches!(error, LockError::Config(_)), "{}", error);
            }
            Ok(())
        })?;
    }
}
