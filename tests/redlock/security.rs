//! Locks on several servers that want to know their clients: over TLS with a certificate for
//! clients, and by a user with as few permissions as the documents print.

use std::process::Command;
use std::time::Duration;

use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::causes;
use lock_tests::faults::{DEADLINE, can_be_had, eventually, owner};
use lock_tests::redlock_store::five;
use lock_tests::server::{Options, Server};

const README: &str = include_str!("../../README.md");

/// Servers that refuse who has no certificate of their common authority.
fn five_with_tls() -> Vec<Server> {
    let strict = |options: Options| options.with(["--tls-auth-clients", "yes"]).start();
    let mut servers = vec![strict(Options::default().tls())];
    for _ in 1..5 {
        servers.push(strict(Options::default().tls_of(&servers[0])));
    }
    servers
}

#[tokio::test]
async fn locks_are_held_over_tls_with_a_certificate_for_clients_and_not_without() {
    let servers = five_with_tls();
    let [certificate, key] = servers[0].client_certificate();
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let builder = || -> LockRuntimeBuilder {
        LockRuntime::redlock(servers.iter().map(Server::tls_url))
            .restart_delay(Duration::ZERO)
            // Five handshakes at once take their time on a busy machine.
            .connect_timeout(DEADLINE)
            .command_timeout(DEADLINE)
            .tls_root_certificates(servers[0].authority())
    };
    let with_certificate = || builder().tls_client_certificate(read(&certificate), read(&key));
    let locks = with_certificate().connect_lazily().build().await.unwrap();
    let guard = locks.lock("k").wait(DEADLINE).acquire().await.unwrap();
    eventually("all servers vote", || {
        servers.iter().all(|server| owner(server, "k").is_some())
    })
    .await;
    guard.release().await.unwrap();
    locks.shutdown().await.unwrap();

    let error = builder().build().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    let other = rcgen_of_nobody();
    let stranger = builder().tls_client_certificate(other.0, other.1);
    assert!(stranger.build().await.unwrap_err().is_unavailable());
    let no_key = builder().tls_client_certificate(read(&certificate), "no key");
    let error = no_key.build().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error:?}");

    let hosts: Vec<_> = servers
        .iter()
        .map(|server| format!("localhost:{}", server.tls_port()))
        .collect();
    let said = |parameters: String| {
        let url = format!(
            "rediss+redlock://{}?restart_delay=0s&command_timeout=30s&connect_timeout=30s{parameters}",
            hosts.join(",")
        );
        let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
        let output = process.env("LOCK_URL", url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let trusting = format!(
        "&tls_root_certificates={}",
        servers[0].authority_file().display()
    );
    let known = format!(
        "{trusting}&tls_client_certificate={}&tls_client_key={}",
        certificate.display(),
        key.display()
    );
    // A build has five seconds.
    eventually("a connection", || said(known.clone()) == "ready\n").await;
    assert_ne!(said(trusting.clone()), "ready\n");
    let half = format!("{trusting}&tls_client_key={}", key.display());
    assert!(said(half).contains("tls_client_certificate"));
}

/// A certificate that vouches for itself, and its key.
fn rcgen_of_nobody() -> (String, String) {
    let own = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    (own.cert.pem(), own.signing_key.serialize_pem())
}

/// The rule of the user that the README prints.
fn printed_rule() -> Vec<String> {
    let (_, rest) = README
        .split_once("ACL SETUSER app on '>password' ")
        .unwrap();
    let (rule, _) = rest.split_once("```").unwrap();
    let words = rule.split_whitespace().filter(|word| *word != "\\");
    words.map(|word| word.replace('\'', "")).collect()
}

fn set_user(server: &Server, rule: &[String]) {
    let mut command = vec!["ACL", "SETUSER", "app", "reset", "on", ">password"];
    command.extend(rule.iter().map(String::as_str));
    server.run::<()>(&command);
}

fn as_user(servers: &[Server]) -> LockRuntimeBuilder {
    let url = |server: &Server| format!("redis://app:password@127.0.0.1:{}", server.port());
    let builder = LockRuntime::redlock(servers.iter().map(url)).restart_delay(Duration::ZERO);
    // No lease ends because the machine is busy, and each is renewed.
    let builder = builder.default_ttl(2 * DEADLINE).default_wait(DEADLINE);
    builder.renew_every(Duration::from_millis(200))
}

#[tokio::test]
async fn the_permissions_that_the_documents_print_are_enough_and_all_are_needed() {
    let servers = five();
    let rule = printed_rule();
    servers.iter().for_each(|server| set_user(server, &rule));
    let (locks, others) = (as_user(&servers), as_user(&servers));
    let (locks, others) = (locks.build().await.unwrap(), others.build().await.unwrap());
    for _ in 0..3 {
        // Votes, queues, hand-overs, renewals and withdrawals.
        let guard = locks.lock("k").acquire().await.unwrap();
        assert!(others.lock("k").try_acquire().await.unwrap().is_none());
        let waiter = tokio::spawn({
            let others = others.clone();
            async move { can_be_had(&others, "k").await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!guard.remaining().is_zero());
        guard.release().await.unwrap();
        waiter.await.unwrap();
    }
    locks.shutdown().await.unwrap();
    others.shutdown().await.unwrap();

    for (index, missing) in rule.iter().enumerate() {
        // What channels a new user has is up to the server.
        if missing == "resetchannels" {
            continue;
        }
        let mut less = rule.clone();
        less.remove(index);
        // A minority may be wrong.
        servers[..2]
            .iter()
            .for_each(|server| set_user(server, &less));
        let locks = as_user(&servers).build().await.unwrap();
        can_be_had(&locks, "k").await;
        locks.shutdown().await.unwrap();
        set_user(&servers[2], &less);
        let error = as_user(&servers).build().await.unwrap_err();
        let text = causes(&error);
        assert!(error.is_denied(), "{missing}: {text}");
        assert!(text.contains(missing.as_str()), "{missing}: {text}");
        let is_named = |server: &&Server| text.contains(&format!("127.0.0.1:{}", server.port()));
        assert!(
            servers[..3].iter().any(|server| is_named(&server)),
            "{text}"
        );
        servers.iter().for_each(|server| set_user(server, &rule));
    }
}
