//! Hostile and careless input: rows B1 to B4 of the fault catalogue. (B5, the attribute, is what the tests of its messages are for.)
//!
//! Every case has a name, and ends in a typed error or a correct result; none in a panic, a hang, or another key than the one asked for.

use std::io::{Read, Write};
use std::time::Duration;

use lock_runtime::backend::LockKey;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::redis::deadpool_redis::{Config, PoolConfig};
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::causes;
use lock_tests::faults::{DEADLINE, SLACK, builder, eventually, locks, ms, nothing_left, owner};
use lock_tests::server::Server;
use proptest::prelude::*;
use tokio::time::timeout;

/// Makes a test of each case.
macro_rules! cases {
    ($check:ident: $($name:ident: $case:expr,)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                $check($case).await;
            }
        )+
    };
}

async fn refused_key(key: impl Into<String>) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let key = key.into();
    let error = locks.lock(&key).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::InvalidKey(_)), "{error}");
    assert!(!error.is_retryable() && error.to_string().len() < 600);
    let error = locks.lock(&key).try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::InvalidKey(_)), "{error}");
    let error = locks.lock(&key).run(async |_| ()).await.unwrap_err();
    assert!(matches!(error, LockError::InvalidKey(_)), "{error}");
    assert!(store.is_idle());
}

cases! { refused_key:
    b1_an_empty_key: "",
    b1_a_key_one_byte_too_long: "x".repeat(LockKey::MAX_LEN - 4),
    b1_a_key_of_a_megabyte: "x".repeat(1 << 20),
    b1_a_key_too_long_in_bytes_but_not_in_characters: "é".repeat(600),
    b1_a_companion_of_a_key_with_a_tag: "a{b}:fence",
    b1_a_companion_of_another_key: "{a}:queue",
    b1_a_queue: "{a}:waiters",
    b1_a_counter: "{a}:3f:counter",
    b1_holders: "{a}:holders",
    b1_empty_braces: "a{}",
    b1_empty_braces_in_the_middle: "a{}b",
    b1_a_closing_brace_alone: "}",
    b1_a_closing_brace_first: "}{",
    b1_a_closing_brace_in_the_middle: "a}b",
    b1_empty_braces_before_a_tag: "{}{a}",
}

/// Keys that look like trouble and are none.
fn odd_keys() -> Vec<(&'static str, String)> {
    let long = "x".repeat(LockKey::MAX_LEN - 5);
    let texts = [
        ("one byte", "a"),
        ("a blank", " "),
        ("blanks around", " a "),
        ("a blank inside", "a b"),
        ("a tab", "a\tb"),
        ("a line end", "a\r\nb"),
        ("a command behind a line end", "a\r\nFLUSHALL\r\n"),
        ("a nul", "a\0b"),
        ("only a nul", "\0"),
        ("an escape", "a\x1b[31m"),
        ("an upper case letter", "A"),
        ("a lower case letter", "b"),
        ("a precomposed letter", "\u{e9}"),
        ("a decomposed letter", "e\u{301}"),
        ("right to left", "\u{5d0}\u{5d1}"),
        ("an override of direction", "a\u{202e}b"),
        ("a joiner of no width", "a\u{200d}b"),
        ("a byte order mark", "\u{feff}a"),
        ("an emoji", "🔒"),
        ("a character beyond the basic plane", "\u{1f600}\u{10ffff}"),
        ("a glob star", "*"),
        ("a glob question", "a?"),
        ("a glob set", "[a-c]"),
        ("a glob escape", "a\\*"),
        ("a hash tag", "{a}"),
        ("a hash tag and more", "{a}b"),
        ("a hash tag inside", "a{b}c"),
        ("two hash tags", "{a}{b}"),
        ("nested braces", "{{a}}"),
        ("an opening brace", "a{b"),
        ("only an opening brace", "{"),
        ("a percent sign", "a%b"),
        ("an escaped colon", "a%3Ab"),
        ("a slash", "a/b"),
        ("our own suffix", "a/lr-0123456789abcdef-1-2"),
        ("the separator of the queue", "/////"),
        ("colons", ":::"),
        ("the prefix", "lock:"),
        ("the prefix twice", "lock:a"),
        ("an ending in the middle", "a:queue:b"),
        ("an ending in capitals", "a:QUEUE"),
        ("the ending of a queue", ":queue"),
        ("an ending like a queue", "a:queue"),
        ("an ending like a fence", "a:fence"),
        ("the ending of the waiters", ":waiters"),
        ("an ending like the waiters", "a:waiters"),
        ("an ending like a counter", "a:counter"),
        ("an ending like holders", "a:holders"),
        ("quotes", "\"'`"),
        ("lua", "') redis.call('FLUSHALL') --"),
        ("sql", "'; DROP TABLE locks; --"),
        ("a number", "0"),
        ("a negative number", "-1"),
        ("a dollar", "$1"),
        ("a comment", "#a"),
        ("a path", "../../etc/passwd"),
        ("a url", "redis://h/0"),
    ];
    let mut keys: Vec<_> = texts.map(|(name, key)| (name, key.to_owned())).into();
    keys.push(("the longest", long));
    keys
}

#[tokio::test]
async fn b1_odd_keys_are_locks_of_their_own() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let mut guards = Vec::new();
    for (name, key) in odd_keys() {
        let guard = one.lock(&key).ttl(ms(60_000)).try_acquire().await;
        let guard = guard
            .unwrap()
            .unwrap_or_else(|| panic!("{name}: taken by another key"));
        assert_eq!(guard.key().as_str(), key, "{name}");
        assert_eq!(
            owner(&server, &key).as_deref(),
            Some(guard.owner_token().as_str()),
            "{name}"
        );
        assert!(
            two.lock(&key).try_acquire().await.unwrap().is_none(),
            "{name}: not excluded"
        );
        guards.push((name, key, guard));
    }
    // All at once, each with a hand-over.
    let mut waiting = tokio::task::JoinSet::new();
    for (name, key, _) in &guards {
        let acquiring = two.lock(key).ttl(ms(60_000)).wait(ms(9000)).acquire();
        let name = *name;
        waiting.spawn(async move {
            acquiring
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        });
    }
    // Some locks themselves are called like a queue.
    let count = guards.len()
        + guards
            .iter()
            .filter(|(_, key, _)| key.ends_with(":waiters"))
            .count();
    eventually("all wait", || {
        let queues: Vec<String> = server.run(&["KEYS", "*:waiters"]);
        queues.len() == count
    })
    .await;
    for (name, _, guard) in guards {
        guard
            .release()
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for guard in waiting.join_all().await {
        guard.release().await.unwrap();
    }
    nothing_left(&server).await;
}

/// What may be found where a lock is to be.
#[tokio::test]
async fn b2_a_key_that_holds_something_else_is_denied_and_untouched() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let kinds: [(&str, &[&str]); 6] = [
        ("list", &["RPUSH", "", "a"]),
        ("hash", &["HSET", "", "a", "b"]),
        ("set", &["SADD", "", "a"]),
        ("sorted set", &["ZADD", "", "1", "a"]),
        ("stream", &["XADD", "", "*", "a", "b"]),
        ("geo index", &["GEOADD", "", "1", "1", "a"]),
    ];
    for (kind, command) in kinds {
        for (place, expires) in [
            ("lock:k", false),
            ("lock:k", true),
            ("{lock:}:26:counter", false),
            ("{lock:}:26:counter", true),
        ] {
            let mut command = command.to_vec();
            command[1] = place;
            let _: redis::Value = server.run(&command);
            if expires {
                server.run::<()>(&["PEXPIRE", place, "60000"]);
            }
            let before: Vec<u8> = server.run(&["DUMP", place]);
            let error = locks.lock("k").acquire().await.unwrap_err();
            assert!(
                error.is_denied() && !error.is_taken(),
                "{kind} at {place}: {}",
                causes(&error)
            );
            assert!(
                causes(&error).contains(place),
                "{kind} at {place}: {}",
                causes(&error)
            );
            let after: Vec<u8> = server.run(&["DUMP", place]);
            assert_eq!(before, after, "{kind} at {place}");
            let ttl: i64 = server.run(&["PTTL", place]);
            assert_eq!(ttl > 0, expires, "{kind} at {place}");
            server.run::<()>(&["FLUSHALL"]);
        }
    }
}

#[tokio::test]
async fn b2_a_queue_that_is_none_is_denied_and_untouched() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    for command in [
        &["SET", "{lock:k}:waiters", "a", "EX", "60"][..],
        &["RPUSH", "{lock:k}:waiters", "a"],
        &["HSET", "{lock:k}:waiters", "a", "b"],
        &["SADD", "{lock:k}:waiters", "a"],
        &["XADD", "{lock:k}:waiters", "*", "a", "b"],
    ] {
        let held = one.lock("k").acquire().await.unwrap();
        let _: redis::Value = server.run(command);
        let error = two.lock("k").acquire().await.unwrap_err();
        assert!(error.is_denied(), "{command:?}: {}", causes(&error));
        assert!(causes(&error).contains(":waiters"), "{}", causes(&error));
        let error = held.release().await.unwrap_err();
        assert!(error.is_denied(), "{command:?}: {}", causes(&error));
        assert_eq!(server.run::<i64>(&["EXISTS", "{lock:k}:waiters"]), 1);
        server.run::<()>(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn b2_garbage_in_a_queue_costs_nobody_the_lock() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    for garbage in [
        "",
        "a",
        "/",
        "a/b",
        "a/1/2/",
        "a/x/2/b",
        "lock:/-1/1/b",
        "\u{e9}",
        "a\0b/1/1/c",
        "//////",
    ] {
        let held = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        server.run::<i64>(&["ZADD", "{lock:k}:waiters", "-5", garbage]);
        server.run::<()>(&["PEXPIRE", "{lock:k}:waiters", "60000"]);
        let waiter = tokio::spawn(two.lock("k").ttl(ms(60_000)).acquire());
        eventually("it waits", || {
            lock_tests::faults::waiters(&server, "k") == 2
        })
        .await;
        held.release().await.unwrap();
        let guard = waiter.await.unwrap();
        guard
            .unwrap_or_else(|error| panic!("{garbage:?}: {error}"))
            .release()
            .await
            .unwrap();
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn b2_a_fence_that_is_no_number_is_denied_and_untouched() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    for garbage in [
        "",
        "abc",
        "-1",
        "-0",
        "1.5",
        "9e99",
        "1e3",
        "0x10",
        "inf",
        "nan",
        " 7",
        "7 ",
        "7\n",
        "0x00000000000010",
        "-123456789012345",
        "1234567890.12345",
        "1e15            ",
        "+7",
        "9223372036854775807",
        "18446744073709551616",
        "9007199254740993",
        "99999999999999999999999999",
        "٣",
        "1_000",
        "1,000",
    ] {
        server.run::<()>(&["SET", "{lock:}:26:counter", garbage, "EX", "60"]);
        let error = locks.lock("k").acquire().await.unwrap_err();
        assert!(error.is_denied(), "{garbage:?}: {}", causes(&error));
        assert_eq!(
            server.run::<String>(&["GET", "{lock:}:26:counter"]),
            garbage
        );
        assert_eq!(owner(&server, "k"), None, "{garbage:?}");
        let ttl: i64 = server.run(&["PTTL", "{lock:}:26:counter"]);
        assert!((1..=60_000).contains(&ttl), "{garbage:?}: {ttl}");
    }
    for (number, least) in [
        ("0", 1),
        ("7", 8),
        ("0000000000000007", 8),
        ("4000000000000000", 4_000_000_000_000_001_u64),
    ] {
        server.run::<()>(&["SET", "{lock:}:26:counter", number, "EX", "60"]);
        let guard = locks.lock("k").acquire().await.unwrap();
        assert!(guard.fencing_token().as_u64() >= least, "{number}");
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn b2_a_foreign_value_is_taken_for_as_long_as_it_is_there() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let huge = "x".repeat(1 << 20);
    for value in [
        "token",
        "",
        "0",
        "/lr-",
        "x/lr-1-2-3",
        "x/lr-0123456789abcdef",
        "/lr-0123456789abcdeg-1-2",
        "\r\n",
        "{\"a\":1}",
        "é",
        &huge,
    ] {
        let name: String = value.chars().take(30).collect();
        server.run::<()>(&["SET", "lock:k", value, "PX", "60000"]);
        let error = locks
            .lock("k")
            .wait(Duration::ZERO)
            .acquire()
            .await
            .unwrap_err();
        let LockError::Taken { remaining, .. } = error else {
            panic!("{name}: {error}");
        };
        assert!(remaining.unwrap() <= ms(60_000));
        server.run::<()>(&["PEXPIRE", "lock:k", "300"]);
        // It is waited for like any other, and freed without a word.
        let guard = locks.lock("k").acquire().await.unwrap();
        guard.release().await.unwrap();

        server.forgive("lock:k");
        server.run::<()>(&["SET", "lock:k", value]);
        let error = locks
            .lock("k")
            .wait(Duration::ZERO)
            .acquire()
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                LockError::Taken {
                    remaining: None,
                    ..
                }
            ),
            "{name}: {error}"
        );
        let error = locks.lock("k").wait(ms(250)).acquire().await.unwrap_err();
        assert!(error.is_timeout(), "{name}: {error}");
        assert_eq!(server.run::<String>(&["GET", "lock:k"]), value);
        server.run::<()>(&["DEL", "lock:k"]);
    }
}

#[tokio::test]
async fn b2_nonsense_on_the_channels_is_no_grant() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let held = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("k").ttl(ms(60_000)).acquire());
    eventually("it waits", || {
        lock_tests::faults::waiters(&server, "k") == 1
    })
    .await;
    for channel in server.run::<Vec<String>>(&["PUBSUB", "CHANNELS"]) {
        for message in [
            "",
            "a",
            "////",
            "1/2/3/4",
            "1/2/3/99/x",
            "\u{e9}",
            "-1/-1/-1/-1/x",
        ] {
            server.run::<i64>(&["PUBLISH", &channel, message]);
        }
    }
    tokio::time::sleep(ms(100)).await;
    assert!(!waiter.is_finished() && held.is_held());
    held.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}

/// What a lock can be asked for.
async fn refused_wish(wish: fn(lock_runtime::Lock) -> lock_runtime::Lock) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let error = wish(locks.lock("k")).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(
        error.to_string().contains('`'),
        "it names no setting: {error}"
    );
    assert!(store.is_idle());
}

cases! { refused_wish:
    b3_no_ttl: |lock| lock.ttl(Duration::ZERO),
    b3_a_ttl_of_a_nanosecond: |lock| lock.ttl(Duration::from_nanos(1)),
    b3_a_ttl_of_a_millisecond: |lock| lock.ttl(ms(1)),
    b3_a_ttl_below_ten_milliseconds: |lock| lock.ttl(Duration::from_micros(9_000)),
    b3_a_ttl_beyond_a_day: |lock| lock.ttl(Duration::from_secs(86_401)),
    b3_a_ttl_beyond_a_day_by_a_nanosecond: |lock| lock.ttl(Duration::from_nanos(86_400_000_000_001)),
    b3_a_ttl_beyond_i64: |lock| lock.ttl(ms(u64::MAX)),
    b3_the_longest_ttl: |lock| lock.ttl(Duration::MAX),
    b3_a_renewal_without_pause: |lock| lock.renew(Duration::ZERO),
    b3_a_renewal_every_nanosecond: |lock| lock.renew(Duration::from_nanos(1)),
    b3_a_renewal_after_the_lease: |lock| lock.ttl(ms(100)).renew(ms(101)),
    b3_a_renewal_at_the_end_of_the_lease: |lock| lock.ttl(ms(100)).renew(ms(100)),
    b3_the_longest_renewal: |lock| lock.renew(Duration::MAX),
    b3_a_hold_of_no_time: |lock| lock.max_hold(Duration::ZERO),
}

async fn accepted_wish(wish: fn(lock_runtime::Lock) -> lock_runtime::Lock) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let guard = wish(locks.lock("k")).acquire().await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert!(store.is_idle());
}

cases! { accepted_wish:
    b3_the_shortest_ttl: |lock| lock.ttl(ms(10)),
    b3_a_ttl_of_a_fraction_of_a_millisecond_more: |lock| lock.ttl(Duration::from_nanos(10_000_001)),
    b3_a_ttl_of_a_day: |lock| lock.ttl(Duration::from_secs(86_400)),
    b3_a_wait_of_a_nanosecond_on_a_free_lock: |lock| lock.wait(Duration::from_nanos(1)),
    b3_the_longest_wait: |lock| lock.wait(Duration::MAX),
    b3_the_longest_hold: |lock| lock.max_hold(Duration::MAX),
    b3_a_hold_shorter_than_the_lease: |lock| lock.ttl(ms(60_000)).max_hold(ms(50)),
    b3_a_renewal_every_millisecond: |lock| lock.renew(ms(1)),
    b3_no_renewal: |lock| lock.renew(false),
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
    b4_no_default_ttl: |builder| builder.default_ttl(Duration::ZERO),
    b4_an_endless_default_ttl: |builder| builder.default_ttl(Duration::MAX),
    b4_renewals_without_pause: |builder| builder.renew_every(Duration::ZERO),
    b4_renewals_every_nanosecond: |builder| builder.renew_every(Duration::from_nanos(1)),
    b4_renewals_after_the_lease: |builder| builder.default_ttl(ms(100)).renew_every(ms(100)),
    b4_no_command_timeout: |builder| builder.command_timeout(Duration::ZERO),
    b4_an_endless_command_timeout: |builder| builder.command_timeout(Duration::MAX),
    b4_no_grace: |builder| builder.grace(Duration::ZERO),
    b4_an_endless_grace: |builder| builder.grace(Duration::MAX),
    b4_no_heartbeat: |builder| builder.heartbeat(Duration::ZERO),
    b4_an_endless_heartbeat: |builder| builder.heartbeat(Duration::MAX),
    b4_a_negative_share: |builder| builder.local_share(-0.1),
    b4_more_than_the_whole: |builder| builder.local_share(1.1),
    b4_a_share_that_is_no_number: |builder| builder.local_share(f64::NAN),
    b4_an_infinite_share: |builder| builder.local_share(f64::INFINITY),
    b4_too_many_passes: |builder| builder.local_passes(u32::MAX),
    b4_a_prefix_that_is_too_long: |builder| builder.key_prefix("x".repeat(2000)),
    b4_a_prefix_with_empty_braces: |builder| builder.key_prefix("{}"),
    b4_a_prefix_with_a_closing_brace: |builder| builder.key_prefix("}"),
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

cases! { accepted_settings:
    b4_no_prefix: |builder| builder.key_prefix(""),
    b4_a_prefix_with_slashes: |builder| builder.key_prefix("a/b/"),
    b4_a_prefix_with_a_hash_tag: |builder| builder.key_prefix("{tag}:"),
    b4_a_prefix_with_a_line_end: |builder| builder.key_prefix("a\r\n"),
    b4_a_prefix_of_globs: |builder| builder.key_prefix("*[?"),
    b4_a_grace_longer_than_the_ttl: |builder| builder.grace(Duration::from_secs(60)),
    b4_no_passes: |builder| builder.local_passes(0),
    b4_owner_tokens_that_are_empty: |builder| builder.owner_tokens(|_| String::new()),
    b4_owner_tokens_that_are_all_the_same: |builder| builder.owner_tokens(|_| "me".to_owned()),
    b4_owner_tokens_with_slashes: |builder| builder.owner_tokens(|_| "a/1/2/b".to_owned()),
    b4_owner_tokens_with_line_ends: |builder| builder.owner_tokens(|_| "a\r\n\0".to_owned()),
    b4_owner_tokens_that_look_like_ours: |builder| builder.owner_tokens(|_| "a/lr-0123456789abcdef-1-2".to_owned()),
    b4_owner_tokens_of_a_kilobyte: |builder| builder.owner_tokens(|_| "x".repeat(1024)),
}

async fn refused_url(url: &str) {
    let error = timeout(Duration::from_secs(5) + SLACK, builder(url).build())
        .await
        .expect("it hangs")
        .unwrap_err();
    assert!(
        error.is_denied() || error.is_unavailable() || matches!(error, LockError::Config(_)),
        "{error}"
    );
    assert!(
        !causes(&error).contains("secret"),
        "it shows the password: {}",
        causes(&error)
    );
}

cases! { refused_url:
    b4_an_empty_url: "",
    b4_a_url_without_a_scheme: "127.0.0.1:6379",
    b4_a_url_of_a_web_server: "http://127.0.0.1:6379",
    b4_a_url_with_a_misspelt_scheme: "redi://127.0.0.1",
    b4_a_scheme_alone: "redis://",
    b4_a_url_with_a_port_that_is_none: "redis://127.0.0.1:port",
    b4_a_url_with_a_port_too_large: "redis://127.0.0.1:65536",
    b4_a_url_with_port_zero: "redis://127.0.0.1:0",
    b4_a_url_with_a_password_and_a_port_that_is_none: "redis://:secret@127.0.0.1:port",
    b4_a_url_with_a_password_and_no_server: "redis://user:secret@127.0.0.1:1/",
    b4_a_url_with_half_an_address: "redis://[::1",
    b4_a_url_with_a_database_that_is_none: "redis://127.0.0.1:1/abc",
    b4_a_url_with_a_negative_database: "redis://127.0.0.1:1/-1",
    b4_a_url_with_a_blank: "redis://a b/",
    b4_a_url_with_a_nul: "redis://127.0.0.1\0:1/",
    b4_a_url_with_a_line_end: "redis://127.0.0.1:1/\r\n",
    b4_a_socket_that_is_not_there: "unix:///no/such/socket",
    b4_a_socket_without_a_path: "unix://",
    b4_a_url_of_memory: "memory:",
    b4_a_url_of_a_sentinel: "redis+sentinel://127.0.0.1",
    b4_tls_without_a_server: "rediss://127.0.0.1:1/",
}

#[tokio::test]
async fn b4_a_number_of_lanes_that_the_pool_cannot_give_is_refused() {
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
            error.is_denied() || matches!(error, LockError::Config(_)),
            "{lanes} of {size}: {error}"
        );
        assert!(causes(&error).contains("lanes"), "{}", causes(&error));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn b1_no_two_keys_share_a_lock(one in "\\PC{1,12}|[a{}:%/queufnc]{1,10}", two in "\\PC{1,12}|[a{}:%/queufnc]{1,10}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let first = locks.lock(&one).try_acquire().await;
            let second = locks.lock(&two).try_acquire().await;
            if let (Ok(Some(_)), Ok(second)) = (&first, &second) {
                prop_assert_eq!(second.is_none(), one == two);
            }
            prop_assert_eq!(first.is_err(), LockKey::new("lock:", &one).is_err());
            Ok(())
        })?;
    }

    #[test]
    fn b3_no_duration_panics(ttl in any::<Duration>(), wait in any::<Duration>(), renew in any::<Duration>(), hold in any::<Duration>(), which in 0..16_u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let mut lock = locks.lock("k");
            if which & 1 != 0 { lock = lock.ttl(ttl); }
            if which & 2 != 0 { lock = lock.wait(wait); }
            if which & 4 != 0 { lock = lock.renew(renew); }
            if which & 8 != 0 { lock = lock.max_hold(hold); }
            match lock.acquire().await {
                Ok(guard) => {
                    prop_assert!(guard.remaining() <= lock_runtime::backend::MAX_TTL);
                }
                Err(error) => prop_assert!(matches!(error, LockError::Config(_)), "{}", error),
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn b4_no_url_panics_or_hangs(url in "(redis|rediss|unix|memory|http)?:?/?/?[a-z0-9:@%/\\[\\]?=&.-]{0,24}|\\PC{0,20}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Where it parses, the connection is another matter.
            match LockRuntime::redis(&url).connect_lazily().build().await {
                Ok(_) => {}
                Err(error) => prop_assert!(error.is_denied() || matches!(error, LockError::Config(_)), "{}", error),
            }
            Ok(())
        })?;
    }

    #[test]
    fn b5_no_bytes_of_a_peer_panic_hang_or_grant(bytes in prop::collection::vec(prop_oneof![
        any::<u8>().boxed(),
        prop::sample::select(b"+-:$*%~>_#,(=!|\r\n0123456789".to_vec()).boxed(),
    ], 0..200)) {
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", peer.local_addr().unwrap());
        std::thread::spawn(move || {
            if let Ok((mut client, _)) = peer.accept() {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(&bytes);
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut settings = RedisSettings::default();
            settings.command_timeout = ms(50);
            settings.connect_timeout = ms(50);
            let connecting = RedisBackend::connect(Config::from_url(url), settings);
            let outcome = timeout(DEADLINE, connecting).await;
            prop_assert!(outcome.expect("it hangs").is_err());
            Ok(())
        })?;
    }
}
