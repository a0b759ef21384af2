//! B2: values where the lock, its queue and its counter are to be.

use super::*;

/// What may be found where a lock is to be.
#[tokio::test]
async fn a_key_that_holds_something_else_is_denied_and_untouched() {
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
async fn a_queue_that_is_none_is_denied_and_untouched() {
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
async fn garbage_in_a_queue_costs_nobody_the_lock() {
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
async fn a_fence_that_is_no_number_is_denied_and_untouched() {
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
async fn a_foreign_value_is_taken_for_as_long_as_it_is_there() {
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
async fn nonsense_on_the_channels_is_no_grant() {
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
