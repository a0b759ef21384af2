//! How a runtime begins: by a URL that names the server or says why it cannot, and where the server
//! is not there yet.

use std::process::Command;
use std::time::{Duration, Instant};

use lock_runtime::LockRuntime;
use lock_tests::faults::SLACK;
use lock_tests::server::Server;
use lock_tests::{causes, ms};

use super::annotated::{end, when_held};

/// What a process says whose `LOCK_URL` is this, or not set.
fn said_of(url: Option<&str>) -> String {
    let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
    match url {
        Some(url) => process.env("LOCK_URL", url),
        None => process.env_remove("LOCK_URL"),
    };
    let output = process.output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn lock_url_names_the_store() {
    let server = Server::start();
    for url in ["memory:", &server.url(), &server.unix_url()] {
        assert_eq!(said_of(Some(url)), "ready", "{url}");
    }
    server.finish();
}

#[test]
fn a_lock_url_that_cannot_be_used_is_named_together_with_the_forms() {
    for url in [
        None,
        Some(""),
        Some("memory"),
        Some("localhost:6379"),
        Some("http://secret@host/"),
    ] {
        let said = said_of(url);
        for part in [
            "`LOCK_URL`",
            "`redis://",
            "`rediss://",
            "`unix://",
            "`memory:`",
        ] {
            assert!(said.contains(part), "{url:?}: {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn building_without_a_server_fails_in_time() {
    let mut server = Server::start();
    let url = server.url();
    server.pause();
    for dead in [false, true] {
        if dead {
            server.kill();
        }
        let started = Instant::now();
        let error = LockRuntime::redis(&url).build().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(
            started.elapsed() < Duration::from_secs(5) + SLACK,
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn connected_lazily_it_works_as_soon_as_there_is_a_server() {
    let mut server = Server::start();
    server.kill();
    let lazily = LockRuntime::redis(server.url()).connect_lazily();
    let locks = lazily.build().await.unwrap();
    let error = locks.lock("k").wait(ms(3000)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let text = causes(&error);
    assert!(
        text.contains("refused") && text.contains(&server.port().to_string()),
        "{text}"
    );
    server.restart();
    when_held(&locks).await.unwrap();
    end(server, &[&locks]).await;
}
