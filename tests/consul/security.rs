//! Agents that want to know their clients: by a certificate, or by a token with a policy.

use std::process::Command;

use lock_runtime::consul::ConsulTls;
use lock_runtime::{LockRuntime, LockRuntimeBuilder};
use lock_tests::consul::{Cluster, Options};
use lock_tests::faults::{eventually, is_taken};
use lock_tests::{causes, secs};

use super::DEADLINE;

const KEYS: &str = r#"key_prefix "lock:" { policy = "write" }"#;

const SESSIONS: &str = r#"session_prefix "" { policy = "write" }"#;

/// Agents that speak TLS alone, to clients with a certificate alone.
#[tokio::test]
async fn locks_on_consul_are_taken_over_tls_with_a_certificate_of_the_client() {
    let cluster = Options::default().tls().start(1);
    let read = |name: &str| std::fs::read(cluster.certificate(name)).unwrap();
    let mut tls = ConsulTls::default();
    tls.authorities = Some(read("ca.pem"));
    let endpoints = cluster.endpoints();
    // Without the certificate it is not let in.
    let refused = LockRuntime::consul(endpoints.clone()).consul_tls(tls.clone());
    let error = refused.build().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    tls.identity = Some((read("client.pem"), read("client-key.pem")));
    let locks = LockRuntime::consul(endpoints).consul_tls(tls);
    let locks = locks.command_timeout(secs(4)).build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    assert!(is_taken(&locks, "k").await);
    guard.release().await.unwrap();

    // The same by the environment.
    let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
    let process = process
        .env("LOCK_URL", cluster.url())
        .env("LOCK_COMMAND_TIMEOUT", "4s")
        .env("CONSUL_CACERT", cluster.certificate("ca.pem"))
        .env("CONSUL_CLIENT_CERT", cluster.certificate("client.pem"))
        .env("CONSUL_CLIENT_KEY", cluster.certificate("client-key.pem"));
    let said = process.output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "ready\n");
}

fn with_token(cluster: &Cluster, token: &str) -> LockRuntimeBuilder {
    LockRuntime::consul(cluster.endpoints())
        .consul_token(token)
        .command_timeout(secs(4))
}

/// The policy that the documents print is enough.
#[tokio::test]
async fn the_printed_policy_is_enough_on_consul() {
    let printed = include_str!("../../lock-consul/README.md");
    assert!(printed.contains(KEYS) && printed.contains(SESSIONS));
    let cluster = Options::default().acl().start(1);
    let token = cluster.grant("locks", &format!("{KEYS}\n{SESSIONS}"));
    let locks = with_token(&cluster, &token).build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let other = with_token(&cluster, &token).build().await.unwrap();
    let waiting = tokio::spawn(other.lock("k").wait(DEADLINE).acquire());
    eventually("the other waits", || cluster.waiters("lock:k") == 1).await;
    guard.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
    // What is not ours is not allowed.
    let elsewhere = with_token(&cluster, &token).key_prefix("other:");
    let error = elsewhere.build().await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    let told = causes(&error);
    assert!(told.contains(r#"key_prefix "other:""#), "{told}");
    assert!(!told.contains(&token), "{told}");
}

/// One permission less is told, and which.
#[tokio::test]
async fn a_missing_permission_on_consul_is_denied_and_named() {
    let cluster = Options::default().acl().start(1);
    let read = KEYS.replace("write", "read");
    for (name, rules) in [
        ("no-sessions", KEYS.to_owned()),
        ("no-keys", SESSIONS.to_owned()),
        ("reads", format!("{read}\n{SESSIONS}")),
    ] {
        let token = cluster.grant(name, &rules);
        let error = with_token(&cluster, &token).build().await.unwrap_err();
        assert!(error.is_denied(), "{name}: {}", causes(&error));
        let told = causes(&error);
        assert!(told.contains(KEYS) && told.contains(SESSIONS), "{told}");
    }
    let unknown = "00000000-0000-4000-8000-00000000dead";
    let error = with_token(&cluster, unknown).build().await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    assert!(!causes(&error).contains(unknown));
}
