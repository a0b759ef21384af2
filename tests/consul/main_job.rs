//! The main job on Consul, as a user sees it: annotated functions against real servers, real
//! processes and other programs.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lock_consul::{ConsulBackend, ConsulSettings};
use lock_runtime::consul::ConsulTls;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::causes;
use lock_tests::consul::{Cluster, Options, program};
use lock_tests::faults::eventually;
use lock_tests::faults::process::{Process, token};
use serde_json::json;
use tokio::task::{JoinSet, spawn_blocking};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn runtime(cluster: &Cluster) -> LockRuntime {
    LockRuntime::consul(cluster.endpoints())
        .command_timeout(secs(4))
        .build()
        .await
        .unwrap()
}

async fn is_taken(locks: &LockRuntime, key: &str) -> bool {
    locks.lock(key).try_acquire().await.unwrap().is_none()
}

#[distributed_lock(key = "counter", ttl = "5s", wait = "1m", runtime = locks)]
async fn count(locks: &LockRuntime, counter: &AtomicU32) -> Result<(), LockError> {
    let seen = counter.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(2)).await;
    counter.store(seen + 1, Ordering::SeqCst);
    Ok(())
}

/// The bodies of tasks of two runtimes do not meet: no update is lost.
#[tokio::test]
async fn annotated_functions_on_consul_run_one_at_a_time() {
    let cluster = Cluster::start();
    let counter = std::sync::Arc::new(AtomicU32::new(0));
    let runtimes = [runtime(&cluster).await, runtime(&cluster).await];
    let mut tasks = JoinSet::new();
    for place in 0..40 {
        let (locks, counter) = (runtimes[place % 2].clone(), counter.clone());
        tasks.spawn(async move { count(&locks, &counter).await });
    }
    for outcome in tasks.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(counter.load(Ordering::SeqCst), 40);
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// When the runtime has been shut down, nothing of it is in Consul.
#[tokio::test]
async fn a_shutdown_leaves_no_key_and_no_session_in_consul() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    for key in ["a", "b", "a"] {
        let guard = locks.lock(key).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
    assert!(
        !cluster.sessions().is_empty(),
        "a session is kept for the next claim"
    );
    locks.shutdown().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
    assert_eq!(cluster.sessions(), Vec::<String>::new());
}

/// A holder that is killed costs as much as its table says: the life of its session, and the ttl
/// once more. The next one has a larger token.
#[tokio::test]
async fn a_killed_process_frees_its_lock_on_consul_after_its_session_and_the_delay() {
    let cluster = Cluster::start();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 2000 5000").await);
    let locks = runtime(&cluster).await;
    assert!(is_taken(&locks, "k").await);
    process.kill();
    let died = Instant::now();
    let lock = locks.lock("k").ttl(secs(5)).wait(DEADLINE);
    let guard = lock.acquire().await.unwrap();
    assert!(
        died.elapsed() >= secs(2),
        "nobody has it before the delay is over"
    );
    assert_eq!(locks.takeover_after(secs(2)), Duration::from_millis(4_500));
    assert!(u64::from(guard.fencing_token()) > first);
}

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

const KEYS: &str = r#"key_prefix "lock:" { policy = "write" }"#;

const SESSIONS: &str = r#"session_prefix "" { policy = "write" }"#;

fn with_token(cluster: &Cluster, token: &str) -> lock_runtime::LockRuntimeBuilder {
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

/// No ttl is longer than what a holder may believe in, and a short one lives for longer in the
/// store.
#[tokio::test]
async fn a_ttl_that_consul_does_not_keep_is_refused_or_told() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let error = locks.lock("k").ttl(secs(61)).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(error.to_string().contains("1m at most"), "{error}");
    assert!(
        error.to_string().contains("ends before its time"),
        "{error}"
    );
    let default = LockRuntime::consul(cluster.endpoints()).default_ttl(secs(61));
    let error = default.build().await.unwrap_err();
    assert!(
        error.to_string().contains("`default_ttl` is 1m 1s"),
        "{error}"
    );
    let guard = locks.lock("k").ttl(secs(60)).acquire().await.unwrap();
    guard.release().await.unwrap();

    // Its sessions live for two seconds at the least.
    let short = Duration::from_millis(1_500);
    assert!(locks.takeover_after(short) >= secs(2) + short);
    let guard = locks.lock("k").ttl(short).acquire().await.unwrap();
    assert!(guard.is_held() && guard.remaining() <= short);
    guard.release().await.unwrap();
    let exact = LockRuntime::consul(cluster.endpoints()).exact_ttl(true);
    let exact = exact.command_timeout(secs(4)).build().await.unwrap();
    let error = exact.lock("k").ttl(short).acquire().await.unwrap_err();
    assert!(error.to_string().contains("2s at least"), "{error}");
    let guard = exact.lock("k").ttl(secs(2)).acquire().await.unwrap();
    guard.release().await.unwrap();
}

/// After the change from a store with larger tokens.
#[tokio::test]
async fn tokens_of_consul_are_raised_by_the_floor() {
    let cluster = Cluster::start();
    let floor = 1_800_000_000_000_000;
    let locks = LockRuntime::consul(cluster.endpoints()).fence_floor(floor);
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

/// Claims that wait for more locks than there are long polls hear of their turns all the same, long
/// before they would ask by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn more_waiters_than_long_polls_are_all_served_on_consul() {
    const LOCKS: usize = 12;
    let cluster = Cluster::start();
    let holder = runtime(&cluster).await;
    for long_polls in [0, 2] {
        let mut settings = ConsulSettings::new(cluster.endpoints());
        settings.command_timeout = secs(4);
        settings.long_polls = long_polls;
        let backend = ConsulBackend::connect(settings).await.unwrap();
        let waiting = LockRuntime::backend(backend).heartbeat(10 * DEADLINE);
        let waiting = waiting.command_timeout(secs(4)).build().await.unwrap();
        let mut guards = Vec::new();
        let mut tasks = JoinSet::new();
        for lock in 0..LOCKS {
            let key = format!("{long_polls}:{lock}");
            guards.push(holder.lock(key.as_str()).acquire().await.unwrap());
            tasks.spawn(waiting.lock(key).wait(2 * DEADLINE).acquire());
        }
        eventually("all wait", || {
            let keys = cluster.keys();
            keys.iter().filter(|key| key.contains("/.queue/")).count() == LOCKS
        })
        .await;
        for guard in guards {
            guard.release().await.unwrap();
        }
        let served = tokio::time::timeout(DEADLINE, tasks.join_all())
            .await
            .unwrap();
        for guard in served {
            guard.unwrap().release().await.unwrap();
        }
    }
}

/// What stands in a name is no place in the store, and none of what a path says.
#[tokio::test]
async fn names_of_every_kind_are_locks_of_their_own_on_consul() {
    let cluster = Cluster::start();
    let locks = runtime(&cluster).await;
    let other = runtime(&cluster).await;
    let names = [
        "a",
        "a/b",
        "a%2Fb",
        "a//b",
        "../a",
        "a?b#c",
        "a b",
        "ä\u{1F512}",
        "a/.lock",
    ];
    for name in names {
        let guard = locks.lock(name).acquire().await.unwrap();
        assert!(is_taken(&other, name).await, "{name}");
        let waiting = tokio::spawn(other.lock(name).wait(DEADLINE).acquire());
        eventually("it waits", || {
            cluster.keys().iter().any(|key| key.contains("/.queue/"))
        })
        .await;
        guard.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// A cluster may have a larger minimum than is usual, which is told by what it refuses.
#[tokio::test]
async fn the_shortest_session_of_consul_is_learned_from_the_server() {
    let options = Options::default().with("session_ttl_min", json!("3s"));
    let cluster = options.start(1);
    let locks = runtime(&cluster).await;
    assert_eq!(locks.takeover_after(secs(1)), Duration::from_millis(7_500));
    let guard = locks.lock("k").ttl(secs(1)).acquire().await.unwrap();
    assert!(guard.is_held());
}

mod c10_other_programs {
    use lock_tests::others::Other;

    use super::*;

    /// Reads lines of `other` until this one.
    async fn says(mut other: Other, wanted: &'static str) -> Other {
        let reading = spawn_blocking(move || {
            while other.line_within(DEADLINE) != wanted {}
            other
        });
        tokio::time::timeout(DEADLINE, reading)
            .await
            .unwrap()
            .unwrap()
    }

    /// A program of others holds the lock, and we wait for it; then it waits for us.
    async fn excludes_us_and_is_excluded(start: fn(&Cluster) -> Other) {
        let cluster = Cluster::start();
        let locks = runtime(&cluster).await;
        let mut other = says(start(&cluster), "held").await;
        assert!(is_taken(&locks, "k").await);
        let waiting = tokio::spawn(locks.lock("k").wait(DEADLINE).acquire());
        eventually("our claim waits behind it", || {
            cluster.waiters("lock:k") == 1
        })
        .await;
        assert!(!waiting.is_finished());
        other.tell("");
        let guard = waiting.await.unwrap().unwrap();
        assert!(guard.is_held());
        drop(other);

        let behind = start(&cluster);
        // It makes a session of its own before it looks.
        let known = cluster.sessions().len();
        let (_, value) = cluster.owner("lock:k").unwrap();
        assert!(value.contains(guard.owner_token().as_str()), "{value}");
        eventually("it waits behind us", || {
            cluster.sessions().len() >= known.max(2)
        })
        .await;
        assert!(guard.is_held());
        guard.release().await.unwrap();
        let _behind = says(behind, "held").await;
        assert!(is_taken(&locks, "k").await);
    }

    /// Go's own lock, by a small program that is built for the test.
    fn go_lock(cluster: &Cluster) -> Other {
        let address = format!("127.0.0.1:{}", cluster.port(0));
        let mut command = Command::new(program("go-lock"));
        command.args([&address, "lock:k/.lock", "10s"]);
        Other::start(command)
    }

    /// `consul lock`, with a child that says when it has the lock.
    fn consul_lock(cluster: &Cluster) -> Other {
        let child = "echo held; read line; echo done";
        Other::start(cluster.lock_command(&["-pass-stdin", "lock:k", child]))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn consul_lock_and_we_exclude_each_other() {
        excludes_us_and_is_excluded(consul_lock).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lock_of_go_and_we_exclude_each_other() {
        excludes_us_and_is_excluded(go_lock).await;
    }
}
