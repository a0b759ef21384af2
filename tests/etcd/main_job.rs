//! The main job on etcd, as a user sees it: annotated functions against real servers, real
//! processes and other programs.

use std::process::Command;
use std::time::Duration;

use lock_runtime::etcd::EtcdTls;
use lock_runtime::{LockError, LockRuntime};
use lock_tests::causes;
use lock_tests::etcd::{Cluster, Options};
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::{can_be_had, eventually};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn runtime(cluster: &Cluster) -> LockRuntime {
    LockRuntime::etcd(cluster.endpoints())
        .command_timeout(secs(4))
        .build()
        .await
        .unwrap()
}

async fn is_taken(locks: &LockRuntime, key: &str) -> bool {
    locks.lock(key).try_acquire().await.unwrap().is_none()
}

/// When the runtime has been shut down, nothing of it is in etcd.
#[tokio::test]
async fn a_shutdown_leaves_no_key_and_no_lease_in_etcd() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    for key in ["a", "b", "a"] {
        can_be_had(&locks, key).await;
    }
    assert!(
        !cluster.leases().is_empty(),
        "a lease is kept for the next claim"
    );
    locks.shutdown().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
    assert_eq!(cluster.leases(), Vec::<String>::new());
}

/// A holder that is killed costs its ttl, and the next one has a larger token.
#[tokio::test]
async fn a_killed_process_frees_its_lock_on_etcd_after_the_ttl() {
    let cluster = Cluster::start();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 2000 5000").await);
    let locks = runtime(&cluster).await;
    assert!(is_taken(&locks, "k").await);
    process.kill();
    let lock = locks.lock("k").ttl(secs(5)).wait(DEADLINE);
    let guard = lock.acquire().await.unwrap();
    assert!(u64::from(guard.fencing_token()) > first);
}

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

/// A ttl below what the servers keep is kept for longer, which is told; or refused, if that is
/// wanted.
#[tokio::test]
async fn a_ttl_that_etcd_rounds_up_is_told_or_refused() {
    let cluster = Options::default().election(secs(1)).start(1);
    let locks = runtime(&cluster).await;
    let (short, kept) = (Duration::from_millis(1_500), secs(2));
    assert!(locks.takeover_after(short) >= kept);
    let guard = locks.lock("k").ttl(short).acquire().await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();

    let exact = LockRuntime::etcd(cluster.endpoints()).exact_ttl(true);
    let exact = exact.command_timeout(secs(4)).build().await.unwrap();
    let error = exact.lock("k").ttl(short).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(error.to_string().contains("2s at least"), "{error}");
    exact
        .lock("k")
        .ttl(kept)
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

/// After the change from a store with larger tokens.
#[tokio::test]
async fn tokens_of_etcd_are_raised_by_the_floor() {
    let cluster = Cluster::start();
    let floor = 1_800_000_000_000_000;
    let locks = LockRuntime::etcd(cluster.endpoints()).fence_floor(floor);
    let locks = locks.command_timeout(secs(4)).build().await.unwrap();
    let mut last = floor;
    for _ in 0..3 {
        let guard = locks.lock("k").acquire().await.unwrap();
        let token = u64::from(guard.fencing_token());
        assert!(token > last, "{token} after {last}");
        last = token;
        guard.release().await.unwrap();
    }
    assert!(last < 1 << 53);
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

mod e15_other_clients {
    use lock_tests::others::{Other, go_program};

    use super::*;

    /// Go's own mutex, by a small program that is built for the test.
    fn go_mutex(cluster: &Cluster, ttl: u32) -> Other {
        static PROGRAM: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
        let program = PROGRAM.get_or_init(|| go_program("etcd-mutex"));
        let mut command = Command::new(program);
        command.args([&cluster.endpoints().join(","), "lock:k", &ttl.to_string()]);
        Other::start(command)
    }

    /// `etcdctl lock`, which says the name of its key when it has the lock.
    fn etcdctl_lock(cluster: &Cluster) -> Other {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", cluster.endpoints().join(",")))
            .args(["lock", "--ttl=5", "lock:k"]);
        Other::start(command)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn etcdctl_lock_is_waited_for_and_its_end_is_heard() {
        let cluster = Cluster::start();
        let locks = runtime(&cluster).await;
        let mut other = etcdctl_lock(&cluster);
        assert!(other.line().starts_with("lock:k/"));
        assert!(is_taken(&locks, "k").await);
        let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
        eventually("our claim waits behind it", || cluster.claims().len() == 2).await;
        // It releases at SIGINT; killed, its lease of five seconds ends.
        drop(other);
        let guard = waiting.await.unwrap().unwrap();
        assert!(guard.is_held());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn etcdctl_lock_waits_for_us() {
        let cluster = Cluster::start();
        let locks = runtime(&cluster).await;
        let guard = locks.lock("k").acquire().await.unwrap();
        let mut other = etcdctl_lock(&cluster);
        eventually("it waits behind us", || cluster.claims().len() == 2).await;
        let (owner, _) = cluster.owner("lock:k").unwrap();
        assert!(owner.contains(guard.owner_token().as_str()), "{owner}");
        guard.release().await.unwrap();
        let line = tokio::task::spawn_blocking(move || (other.line(), other))
            .await
            .unwrap();
        assert!(line.0.starts_with("lock:k/"));
        assert!(is_taken(&locks, "k").await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mutex_of_go_is_waited_for_in_front_of_us_and_behind_us() {
        let cluster = Cluster::start();
        let locks = runtime(&cluster).await;
        let (started, cluster) = tokio::task::spawn_blocking(move || {
            let mut first = go_mutex(&cluster, 2);
            assert_eq!(
                (first.line(), first.line()),
                ("waits".to_owned(), "held".to_owned())
            );
            (first, cluster)
        })
        .await
        .unwrap();
        assert!(is_taken(&locks, "k").await);
        let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
        eventually("we wait behind it", || cluster.claims().len() == 2).await;
        let mut behind = go_mutex(&cluster, 2);
        assert_eq!(behind.line(), "waits");
        eventually("one waits behind us", || cluster.claims().len() == 3).await;

        // It dies holding; its lease of two seconds ends, which we hear of.
        drop(started);
        let guard = waiting.await.unwrap().unwrap();
        let (owner, _) = cluster.owner("lock:k").unwrap();
        assert!(owner.contains(guard.owner_token().as_str()), "{owner}");
        guard.release().await.unwrap();
        let mut behind = tokio::task::spawn_blocking(move || {
            assert_eq!(behind.line(), "held");
            behind
        })
        .await
        .unwrap();
        assert!(is_taken(&locks, "k").await);
        assert_eq!(behind.ask(""), "released");
        assert!(!is_taken(&locks, "k").await);
    }
}
