//! A cluster that wants to know its clients: by a certificate, or as a user with permissions.

use std::process::Command;

use lock_runtime::LockRuntime;
use lock_runtime::etcd::EtcdTls;
use lock_tests::etcd::{Cluster, Options};
use lock_tests::faults::{eventually, is_taken};
use lock_tests::{causes, secs};

use super::DEADLINE;

/// Members that speak TLS alone, to clients with a certificate alone.
#[tokio::test]
async fn locks_are_taken_over_tls_with_a_certificate_of_the_client() {
    let cluster = Options::default().tls().start(1);
    let read = |name: &str| std::fs::read(cluster.certificate(name)).unwrap();
    let mut tls = EtcdTls::default();
    tls.authorities = Some(read("ca.pem"));
    let endpoints = cluster.endpoints();
    // Without the certificate it is not let in.
    let refused = LockRuntime::etcd(endpoints.clone()).etcd_tls(tls.clone());
    let error = refused.build().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    tls.identity = Some((read("client.pem"), read("client-key.pem")));
    let locks = LockRuntime::etcd(endpoints).etcd_tls(tls);
    let locks = locks.command_timeout(secs(4)).build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    assert!(is_taken(&locks, "k").await);
    guard.release().await.unwrap();

    // The same by the environment.
    let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
    let process = process
        .env("LOCK_URL", cluster.url())
        .env("LOCK_COMMAND_TIMEOUT", "4s")
        .env("ETCDCTL_CACERT", cluster.certificate("ca.pem"))
        .env("ETCDCTL_CERT", cluster.certificate("client.pem"))
        .env("ETCDCTL_KEY", cluster.certificate("client-key.pem"));
    let said = process.output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "ready\n");
}

/// Users: `root`, and `app` with the permissions given.
fn with_users(cluster: &Cluster, permissions: &[&[&str]]) {
    cluster.ctl(&["user", "add", "root:rootpass"]);
    cluster.ctl(&["user", "grant-role", "root", "root"]);
    cluster.ctl(&["user", "add", "app:secret"]);
    cluster.ctl(&["role", "add", "locks"]);
    for permission in permissions {
        let mut arguments = vec!["role", "grant-permission", "locks"];
        arguments.extend_from_slice(permission);
        cluster.ctl(&arguments);
    }
    cluster.ctl(&["user", "grant-role", "app", "locks"]);
    cluster.ctl(&["auth", "enable"]);
}

/// The permission that the documents print is enough.
#[tokio::test]
async fn the_printed_permission_is_enough_on_etcd() {
    let cluster = Cluster::start();
    with_users(&cluster, &[&["--prefix=true", "readwrite", "lock:"]]);
    let app = || {
        LockRuntime::etcd(cluster.endpoints())
            .etcd_user("app", "secret")
            .command_timeout(secs(4))
    };
    let locks = app().build().await.unwrap();
    let (guard, other) = (
        locks.lock("k").acquire().await.unwrap(),
        app().build().await.unwrap(),
    );
    let waiting = tokio::spawn(other.lock("k").wait(DEADLINE).acquire());
    eventually("the other waits", || {
        let range = [
            "--user=root:rootpass",
            "get",
            "lock:k/",
            "--prefix",
            "--keys-only",
        ];
        cluster
            .ctl(&range)
            .lines()
            .filter(|line| !line.is_empty())
            .count()
            == 2
    })
    .await;
    guard.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
    // What is not ours is not allowed.
    let elsewhere = app().key_prefix("other:").build().await.unwrap_err();
    assert!(elsewhere.is_denied());
    let told = causes(&elsewhere);
    assert!(told.contains("readwrite 'other:'"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

/// One permission less is told, and which.
#[tokio::test]
async fn a_missing_permission_on_etcd_is_denied_and_named() {
    for permission in ["read", "write"] {
        let cluster = Cluster::start();
        with_users(&cluster, &[&["--prefix=true", permission, "lock:"]]);
        let app = LockRuntime::etcd(cluster.endpoints()).etcd_user("app", "secret");
        let error = app.command_timeout(secs(4)).build().await.unwrap_err();
        assert!(error.is_denied(), "{}", causes(&error));
        let told = causes(&error);
        assert!(told.contains("readwrite 'lock:'"), "{told}");
    }
}

mod e11_credentials {
    use super::*;

    #[tokio::test]
    async fn a_wrong_password_of_etcd_is_denied() {
        let cluster = Cluster::start();
        with_users(&cluster, &[&["--prefix=true", "readwrite", "lock:"]]);
        for user in [Some("wrong-password"), None] {
            let mut locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(secs(4));
            if let Some(password) = user {
                locks = locks.etcd_user("app", password);
            }
            let error = locks.build().await.unwrap_err();
            assert!(error.is_denied(), "{}", causes(&error));
            assert!(!causes(&error).contains("wrong-password"));
        }
    }

    /// Tokens end while a lock is held; users of etcd log in again.
    #[tokio::test]
    async fn a_token_that_expires_costs_nothing() {
        let cluster = Options::default().with(["--auth-token-ttl", "1"]).start(1);
        with_users(&cluster, &[&["--prefix=true", "readwrite", "lock:"]]);
        let locks = LockRuntime::etcd(cluster.endpoints()).etcd_user("app", "secret");
        let locks = locks.command_timeout(secs(4)).build().await.unwrap();
        let guard = locks.lock("k").ttl(secs(4)).acquire().await.unwrap();
        // Three times what a token lives for, and longer than the lock would without renewals.
        tokio::time::sleep(secs(6)).await;
        assert!(guard.is_held());
        assert!(is_taken(&locks, "k").await);
        guard.release().await.unwrap();
        assert!(!is_taken(&locks, "k").await);
    }
}
