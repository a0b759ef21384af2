//! B1: keys.

use super::*;

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
    an_empty_key: "",
    a_key_one_byte_too_long: "x".repeat(LockKey::MAX_LEN - 4),
    a_key_of_a_megabyte: "x".repeat(1 << 20),
    a_key_too_long_in_bytes_but_not_in_characters: "é".repeat(600),
    a_companion_of_a_key_with_a_tag: "a{b}:fence",
    a_companion_of_another_key: "{a}:queue",
    a_queue: "{a}:waiters",
    a_counter: "{a}:3f:counter",
    holders: "{a}:holders",
    empty_braces: "a{}",
    empty_braces_in_the_middle: "a{}b",
    a_closing_brace_alone: "}",
    a_closing_brace_first: "}{",
    a_closing_brace_in_the_middle: "a}b",
    empty_braces_before_a_tag: "{}{a}",
}

#[tokio::test]
async fn odd_keys_are_locks_of_their_own() {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_two_keys_share_a_lock(one in "\\PC{1,12}|[a{}:%/queufnc]{1,10}", two in "\\PC{1,12}|[a{}:%/queufnc]{1,10}") {
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
}
