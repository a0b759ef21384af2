//! R18: wrong password, user removed, permission taken away.

use super::*;

#[tokio::test]
async fn a_wrong_password_is_denied_at_once() {
    let server = Options::default().password("right").start();
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    let started = Instant::now();
    let nobody = url("right").replace("//:", "//nobody:");
    for wrong in [url("wrong"), server.url(), nobody] {
        let error = builder(wrong).build().await.unwrap_err();
        assert!(
            error.is_denied() && !error.is_retryable(),
            "{}",
            causes(&error)
        );
        assert!(!causes(&error).contains("wrong@") && !causes(&error).contains("right@"));
    }
    assert!(started.elapsed() < ms(1000) + SLACK);
    let right = locks(url("right")).await;
    can_be_had(&right, "k").await;
}

#[tokio::test]
async fn a_user_that_is_removed_while_it_holds_a_lock_is_told() {
    let server = Server::start();
    let rule = [
        "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all",
    ];
    server.run::<()>(&rule);
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let locks = locks(url).await;
    let held = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
    assert_eq!(server.run::<usize>(&["ACL", "DELUSER", "app"]), 1);
    let removed = Instant::now();
    let error = locks.lock("new").acquire().await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    assert!(causes(&error).contains("WRONGPASS"), "{}", causes(&error));
    timeout(ms(5000) + SLACK, held.lost())
        .await
        .expect("the holder is not told");
    assert!(removed.elapsed() < ms(5000) + 2 * SLACK);
    free(&server, "k").await;
    server.run::<()>(&rule);
    // As soon as the connections are open again.
    let can_be_had = async || locks.lock("k").acquire().await.is_ok();
    comes_true("it can be had", can_be_had).await;
}

#[tokio::test]
async fn a_permission_taken_away_names_the_rule_that_is_needed() {
    let server = Server::start();
    server.run::<()>(&[
        "ACL", "SETUSER", "app", "on", ">secret", "~lock:*", "~{lock:*", "&lock:*", "+@all",
    ]);
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let locks = locks(url).await;
    can_be_had(&locks, "k").await;
    for missing in ["-set", "-evalsha", "resetkeys"] {
        server.run::<()>(&["ACL", "SETUSER", "app", missing]);
        let error = locks.lock("k").acquire().await.unwrap_err();
        assert!(error.is_denied(), "{missing}: {}", causes(&error));
        assert!(
            causes(&error).contains("~lock:*"),
            "{missing}: {}",
            causes(&error)
        );
    }
}
