//! What the Redis backend does with its connections, on real servers that are killed, stopped,
//! demoted and locked up.

use std::error::Error;
use std::time::Duration;

use lock_conformance::inbox::{Inbox, Told};
use lock_runtime::LockError;
use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, LockKey, OwnerToken, Release, Renewal, Renewed,
};
use lock_runtime::redis::deadpool_redis::redis::RedisError;
use lock_runtime::redis::deadpool_redis::{Config, PoolConfig};
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_tests::causes;
use lock_tests::faults::{eventually, is_withdrawal, listeners};
use lock_tests::redis_store::connect;
use lock_tests::server::{Options, Server};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(60);
/// By when what must happen has happened.
const DEADLINE: Duration = Duration::from_secs(30);

fn claim(key: &str) -> Claim {
    let key = LockKey::new("lock:", key).unwrap();
    Claim::new(key, OwnerToken::unique("test"), TTL)
}

/// The default settings, but for their patience with a busy machine.
fn settings() -> RedisSettings {
    let mut settings = RedisSettings::default();
    settings.command_timeout = Duration::from_secs(4);
    settings.connect_timeout = Duration::from_secs(4);
    settings
}

async fn acquire(backend: &RedisBackend, claim: &Claim) -> Result<bool, BackendError> {
    let acquired = backend.acquire(claim).await?;
    Ok(matches!(acquired, Acquired::Granted(_)))
}

async fn release(backend: &RedisBackend, claim: &Claim) {
    backend.release(&ending(claim)).await.unwrap();
}

fn ending(claim: &Claim) -> Release {
    Release::new(claim.key.clone(), claim.owner.clone())
}

/// A backend whose pool has no room for direct links, which open at any time and load the scripts.
async fn by_the_lanes(server: &Server) -> RedisBackend {
    let settings = settings();
    let mut config = Config::from_url(server.url());
    config.pool = Some(PoolConfig::new(settings.lanes));
    RedisBackend::connect(config, settings).await.unwrap()
}

/// Asks until there is an answer.
async fn eventually_granted(backend: &RedisBackend, claim: &Claim) {
    let asking = async {
        while !matches!(acquire(backend, claim).await, Ok(true)) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, asking).await.expect("no answer");
}

/// The names of the clients of `server`, apart from the one that asks.
fn lanes(server: &Server) -> usize {
    let clients: String = server.run(&["CLIENT", "LIST", "TYPE", "PUBSUB"]);
    clients.lines().count()
}

/// How many connections of `backend` there are on `server`.
fn connections(server: &Server) -> usize {
    let clients: String = server.run(&["CLIENT", "LIST"]);
    clients
        .lines()
        // But for the one that asks.
        .filter(|line| !line.contains(" cmd=client"))
        .count()
}

#[test]
fn the_same_settings_mean_the_same_on_every_machine() {
    let size = |change: fn(&mut RedisSettings), pool: Option<PoolConfig>| {
        let (mut settings, mut config) = (settings(), Config::from_url("redis://127.0.0.1:1"));
        change(&mut settings);
        config.pool = pool;
        let backend = RedisBackend::connect_lazily(config, settings);
        backend.unwrap().pool().status().max_size
    };
    // A pool that goes by the number of cores has an even size.
    assert_eq!(size(|_| {}, None), 33);
    assert_eq!(size(|settings| settings.lanes = 5, None), 37);
    assert_eq!(size(|settings| settings.lanes = 256, None), 288);
    // What somebody asks for holds.
    assert_eq!(size(|_| {}, Some(PoolConfig::new(2))), 2);
    assert_eq!(size(|settings| settings.pool_size = Some(7), None), 7);
    let both = Some(PoolConfig::new(2));
    assert_eq!(size(|settings| settings.pool_size = Some(7), both), 7);
}

#[test]
fn each_tokio_runtime_gets_a_connection_as_far_as_the_pool_has_room() {
    let server = Server::start();
    let mut config = Config::from_url(server.url());
    config.pool = Some(PoolConfig::new(3));
    let backend = RedisBackend::connect_lazily(config, settings()).unwrap();
    let runtimes = [(); 4].map(|()| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    });
    for (runtime, expected) in runtimes.iter().zip([2, 3, 3, 3]) {
        runtime.block_on(async {
            let claim = claim("k");
            assert!(acquire(&backend, &claim).await.unwrap());
            release(&backend, &claim).await;
            eventually("it happens", || connections(&server) == expected).await;
        });
    }
    // What one leaves is there for the next.
    let [first, .., last] = runtimes;
    drop(first);
    last.block_on(async {
        eventually("it happens", || connections(&server) == 2).await;
        assert!(acquire(&backend, &claim("k")).await.unwrap());
        eventually("it happens", || connections(&server) == 3).await;
        backend.close().await;
        eventually("it happens", || connections(&server) == 0).await;
    });
}

#[tokio::test]
async fn a_hand_over_costs_one_command() {
    let server = Server::start();
    let (here, there) = (connect(&server).await, connect(&server).await);
    let inbox = Inbox::of(&there);
    let (holder, next_waiter) = (claim("k"), claim("k").queued());
    assert!(acquire(&here, &holder).await.unwrap());
    assert!(!acquire(&there, &next_waiter).await.unwrap());

    let monitor = server.monitor();
    let released_at = Instant::now();
    release(&here, &holder).await;
    let Told::Granted { grant, since } = inbox.changed(&next_waiter).await else {
        panic!("no hand-over");
    };
    assert_eq!(monitor.commands(&server).len(), 1);
    assert!(since <= released_at, "counted from after the hand-over");
    assert_eq!(grant.valid_for, next_waiter.grace);
    release(&there, &next_waiter).await;
}

#[tokio::test]
async fn a_hand_over_that_lay_in_a_buffer_is_not_counted_from_its_arrival() {
    const STOPPED: Duration = Duration::from_secs(2);
    let server = Server::start();
    let (here, there) = (connect(&server).await, connect(&server).await);
    let inbox = Inbox::of(&there);
    let (holder, next_waiter) = (claim("k"), claim("k").queued());
    assert!(acquire(&here, &holder).await.unwrap());
    assert!(!acquire(&there, &next_waiter).await.unwrap());

    let (stopped, is_stopped) = tokio::sync::oneshot::channel();
    there.handle().spawn(async move {
        stopped.send(()).unwrap();
        std::thread::sleep(STOPPED);
    });
    is_stopped.await.unwrap();
    let released_at = Instant::now();
    release(&here, &holder).await;
    // A command that is answered together with the message must not make it look younger.
    let (news, other) = (inbox.changed(&next_waiter), claim("other"));
    let (news, _) = tokio::join!(timeout(DEADLINE, news), acquire(&there, &other));
    let Told::Granted { since, .. } = news.unwrap() else {
        panic!("no hand-over");
    };
    assert!(released_at.elapsed() >= STOPPED / 2, "nothing was stopped");
    assert!(since <= released_at);
    release(&there, &next_waiter).await;
}

#[tokio::test]
async fn odd_names_are_handed_over_intact() {
    let server = Server::start();
    for (prefix, key, owner) in [
        ("app/locks:", "a/b", "x/1/2/y"),
        ("", "nul \0 and\nlines\r\n", "\0/\n"),
        ("ключ:", "ü {tag} 🔒", "é%d%%/lr-"),
        ("*?[", "]%f\\", ""),
    ] {
        let mut settings = settings();
        settings.key_prefix = prefix.to_owned();
        let backend = RedisBackend::connect(Config::from_url(server.url()), settings)
            .await
            .unwrap();
        let claim = || {
            let key = LockKey::new(prefix, key).unwrap();
            Claim::new(key, OwnerToken::unique(owner), TTL)
        };
        let inbox = Inbox::of(&backend);
        let (holder, next_waiter) = (claim(), claim().queued());
        assert!(acquire(&backend, &holder).await.unwrap());
        let Acquired::Queued(of) = backend.acquire(&next_waiter).await.unwrap() else {
            panic!("{key:?}");
        };
        assert!(!of.foreign, "{owner:?}");
        release(&backend, &holder).await;
        let news = timeout(DEADLINE, inbox.changed(&next_waiter))
            .await
            .expect(key);
        assert!(matches!(news, Told::Granted { .. }), "{key:?}");
        let owner: String = server.run(&["GET", next_waiter.key.stored()]);
        assert_eq!(owner, next_waiter.owner.as_str());
        release(&backend, &next_waiter).await;
    }
}

#[tokio::test]
async fn a_waiter_whose_process_is_gone_costs_nothing() {
    let server = Server::start();
    let (here, there) = (connect(&server).await, connect(&server).await);
    let gone = connect(&server).await;
    let inbox = Inbox::of(&there);
    let (holder, lost, next_waiter) = (claim("k"), claim("k").queued(), claim("k").queued());
    assert!(acquire(&here, &holder).await.unwrap());
    assert!(!acquire(&gone, &lost).await.unwrap());
    assert!(!acquire(&there, &next_waiter).await.unwrap());
    drop(gone);
    eventually("it happens", || listeners(&server, "k") == [0, 1]).await;

    release(&here, &holder).await;
    let news = timeout(DEADLINE, inbox.changed(&next_waiter))
        .await
        .unwrap();
    assert!(matches!(news, Told::Granted { .. }));
    release(&there, &next_waiter).await;
}

#[tokio::test]
async fn waiters_ask_again_when_the_connection_is_back() {
    let server = Server::start();
    let backend = connect(&server).await;
    let inbox = Inbox::of(&backend);
    let (holder, waiter) = (claim("k"), claim("k").queued());
    assert!(acquire(&backend, &holder).await.unwrap());
    assert!(!acquire(&backend, &waiter).await.unwrap());
    server.run::<()>(&["CLIENT", "KILL", "TYPE", "PUBSUB"]);
    let news = timeout(DEADLINE, inbox.changed(&waiter)).await.unwrap();
    assert_eq!(news, Told::Ask);

    // Its place in the queue names a channel that is heard again.
    release(&backend, &holder).await;
    let news = timeout(DEADLINE, inbox.changed(&waiter)).await.unwrap();
    assert!(matches!(news, Told::Granted { .. }), "{news:?}");
    release(&backend, &waiter).await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_in_time() {
    let mut server = Server::start();
    let config = Config::from_url(server.url());
    let backend = RedisBackend::connect(config, RedisSettings::default());
    let backend = backend.await.unwrap();
    server.pause();
    let claim = claim("k");
    for _ in 0..4 {
        let started = Instant::now();
        let error = backend.acquire(&claim).await.unwrap_err();
        assert!(!error.is_denied(), "{}", causes(&error));
        assert!(started.elapsed() < settings().command_timeout * 5);
    }
    server.resume();
    eventually_granted(&backend, &claim).await;
    release(&backend, &claim).await;
}

#[tokio::test]
async fn a_claim_that_was_given_up_while_the_server_stood_still_leaves_nothing() {
    let mut server = Server::start();
    let backend = connect(&server).await;
    let claims: Vec<_> = (0..20).map(|n| claim(&format!("k{n}")).queued()).collect();
    server.pause();
    for claim in &claims {
        assert!(
            timeout(Duration::from_millis(1), backend.acquire(claim))
                .await
                .is_err()
        );
    }
    let (_, last) = tokio::join!(backend.acquire(&claims[0]), backend.acquire(&claims[0]));
    last.unwrap_err();
    let mut withdrawals = tokio::task::JoinSet::new();
    let backend = std::sync::Arc::new(backend);
    for claim in claims {
        let backend = std::sync::Arc::clone(&backend);
        withdrawals.spawn(async move { while backend.abandon(&claim).await.is_err() {} });
    }
    sleep(settings().command_timeout * 2).await;
    server.resume();
    timeout(DEADLINE, withdrawals.join_all()).await.unwrap();
    let keys: Vec<String> = server.run(&["KEYS", "*"]);
    let stays = |key: &String| key.ends_with(":counter") || is_withdrawal(key);
    let left: Vec<_> = keys.iter().filter(|key| !stays(key)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_verbs_need_no_tokio_runtime() {
    let server = Server::start();
    let backend = connect(&server).await;
    std::thread::spawn(move || {
        // A bare executor: no timers, no I/O.
        let executor = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        executor.block_on(async {
            let claim = claim("k");
            assert!(acquire(&backend, &claim).await.unwrap());
            release(&backend, &claim).await;
        });
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn it_outlives_the_runtime_it_was_made_in() {
    let server = Server::start();
    let url = server.url();
    let backend = std::thread::spawn(move || {
        let executor = tokio::runtime::Runtime::new().unwrap();
        executor.block_on(RedisBackend::connect(Config::from_url(url), settings()))
    });
    let backend = backend.join().unwrap().unwrap();
    assert!(acquire(&backend, &claim("k")).await.unwrap());
}

#[tokio::test]
async fn dropping_it_closes_its_connections() {
    let server = Server::start();
    for dropped_on_its_own_thread in [false, true] {
        let backend = connect(&server).await;
        assert_eq!(lanes(&server), 1);
        if dropped_on_its_own_thread {
            let executor = backend.handle().clone();
            executor.spawn(async move { drop(backend) });
        } else {
            drop(backend);
        }
        eventually("it happens", || lanes(&server) == 0).await;
    }
}

/// By a lane. What is dropped on a direct link before it is written, whoever drops it asks again.
#[tokio::test]
async fn a_release_that_nobody_waits_for_is_sent_before_the_end() {
    let server = Server::start();
    let backend = by_the_lanes(&server).await;
    let claim = claim("k");
    assert!(acquire(&backend, &claim).await.unwrap());
    {
        let ending = ending(&claim);
        let mut release = std::pin::pin!(backend.release(&ending));
        // Polled once, and dropped.
        let _ =
            std::future::poll_fn(|context| std::task::Poll::Ready(release.as_mut().poll(context)))
                .await;
    }
    drop(backend);
    let owner = || server.run::<Option<String>>(&["GET", claim.key.stored()]);
    eventually("it happens", || owner().is_none()).await;
}

#[tokio::test]
async fn closing_answers_what_was_asked_and_nothing_more() {
    let server = Server::start();
    let backend = connect(&server).await;
    let asked = claim("k");
    let (answer, ()) = tokio::join!(acquire(&backend, &asked), backend.close());
    assert!(answer.unwrap());
    eventually("it happens", || lanes(&server) == 0).await;
    let error = backend.acquire(&claim("other")).await.unwrap_err();
    assert!(causes(&error).contains("closed"), "{}", causes(&error));
}

#[tokio::test]
async fn several_lanes_share_the_keys() {
    let server = Server::start();
    let mut settings = settings();
    settings.lanes = 3;
    let backend = RedisBackend::connect(Config::from_url(server.url()), settings)
        .await
        .unwrap();
    assert_eq!(lanes(&server), 3);
    assert_eq!(backend.pool().status().size, 3);
    let claims: Vec<_> = (0..30).map(|n| claim(&format!("k{n}"))).collect();
    for claim in &claims {
        assert!(acquire(&backend, claim).await.unwrap());
    }
    let renewals: Vec<_> = claims
        .iter()
        .map(|claim| Renewal::new(claim.key.clone(), claim.owner.clone(), TTL))
        .collect();
    let monitor = server.monitor();
    for answer in backend.renew(&renewals).await {
        assert_eq!(answer.unwrap(), Renewed::held());
    }
    let commands = monitor.commands(&server);
    let senders: std::collections::HashSet<_> = commands
        .iter()
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    // The renewals of a lane share a command.
    assert_eq!((commands.len(), senders.len()), (3, 3));
}

#[tokio::test]
async fn a_lane_that_has_nothing_to_renew_is_left_alone() {
    let server = Server::start();
    let mut settings = settings();
    settings.lanes = 4;
    let backend = RedisBackend::connect(Config::from_url(server.url()), settings)
        .await
        .unwrap();
    let claim = claim("k");
    assert!(acquire(&backend, &claim).await.unwrap());
    let clients = || -> Vec<String> {
        let list: String = server.run(&["CLIENT", "LIST", "TYPE", "PUBSUB"]);
        let ids = list.lines().filter_map(|line| line.split(' ').next());
        ids.map(str::to_owned).collect()
    };
    // With the direct link, which the first question opens.
    eventually("it happens", || clients().len() == 5).await;
    let before = clients();
    let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), TTL);
    for leases in [&[][..], std::slice::from_ref(&renewal)] {
        for answer in backend.renew(leases).await {
            assert_eq!(answer.unwrap(), Renewed::held());
        }
    }
    // A reconnect would be quicker than this.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(clients(), before);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    for url in [
        "",
        "nonsense",
        "http://127.0.0.1",
        "redis://",
        "redis://127.0.0.1/first",
        "redis://127.0.0.1/-1",
        "redis://127.0.0.1:port",
        "redis://127.0.0.1/?protocol=resp4",
        "redis://:secret@0.0.0.0",
        "rediss://127.0.0.1/#trusting",
        "unix:",
    ] {
        let error = RedisBackend::connect_lazily(Config::from_url(url), settings()).unwrap_err();
        assert!(
            matches!(error, LockError::Config(_)),
            "{url}: {}",
            causes(&error)
        );
        assert!(!causes(&error).contains("secret"), "{}", causes(&error));
    }
    let config = || Config::from_url("redis://127.0.0.1");
    let change = |change: fn(&mut RedisSettings)| {
        let mut settings = settings();
        change(&mut settings);
        RedisBackend::connect_lazily(config(), settings).unwrap_err()
    };
    for error in [
        change(|settings| settings.lanes = 0),
        change(|settings| settings.lanes = usize::MAX),
        change(|settings| settings.lanes = 257),
        change(|settings| settings.pool_size = Some(0)),
        change(|settings| settings.pool_size = Some(usize::MAX)),
        change(|settings| settings.command_timeout = Duration::ZERO),
        change(|settings| settings.command_timeout = Duration::MAX),
        change(|settings| settings.connect_timeout = Duration::MAX),
    ] {
        assert!(matches!(error, LockError::Config(_)), "{}", causes(&error));
    }
    let mut both = config();
    both.connection = Some(Default::default());
    let error = RedisBackend::connect_lazily(both, settings()).unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{}", causes(&error));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused_for_good() {
    let server = Server::start();
    let config = Config::from_url(format!("{}/99", server.url()));
    let error = RedisBackend::connect(config, settings()).await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    let config = Config::from_url(format!("{}/5", server.url()));
    let backend = RedisBackend::connect(config, settings()).await.unwrap();
    assert!(acquire(&backend, &claim("k")).await.unwrap());
    assert_eq!(server.run::<u64>(&["DBSIZE"]), 0);
    server.finish();
}

/// The rule that an error says is needed.
fn needed_rule(error: &dyn std::error::Error) -> Vec<String> {
    let text = causes(error);
    let (_, rest) = text.split_once("needs: ").expect(&text);
    let (rule, _) = rest.split_once(": ").unwrap_or((rest, ""));
    rule.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn the_rule_that_an_error_names_is_enough_and_all_of_it_is_needed() {
    let server = Server::start();
    let url = format!("redis://app:pw@127.0.0.1:{}", server.port());
    let set_user = |rule: &[String]| {
        let mut command = vec!["ACL", "SETUSER", "app", "reset", "on", ">pw"];
        command.extend(rule.iter().map(String::as_str));
        server.run::<()>(&command);
    };
    let connect = || RedisBackend::connect(Config::from_url(url.clone()), settings());

    set_user(&[]);
    let error = connect().await.unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    let rule = needed_rule(&error);

    set_user(&rule);
    use_everything(&connect().await.unwrap()).await.unwrap();
    server.run::<()>(&["FLUSHALL"]);

    for (index, missing) in rule.iter().enumerate() {
        // What channels a new user has is up to the server.
        if missing == "resetchannels" {
            continue;
        }
        let mut less = rule.clone();
        less.remove(index);
        set_user(&less);
        let error = connect().await.expect_err(missing);
        assert!(error.is_denied(), "{missing}: {}", causes(&error));
        assert_eq!(needed_rule(&error), rule);
    }
}

#[tokio::test]
async fn the_rule_that_an_error_names_can_be_given_where_new_users_have_all_channels() {
    // As before Redis 7.
    let options = Options::default().with(["--acl-pubsub-default", "allchannels"]);
    let server = options.start();
    let user = ["ACL", "SETUSER", "app", "on", ">pw"];
    server.run::<()>(&user);
    let url = format!("redis://app:pw@127.0.0.1:{}", server.port());
    let connect = || RedisBackend::connect(Config::from_url(url.clone()), settings());
    let rule = needed_rule(&connect().await.unwrap_err());
    let words = user.into_iter().chain(rule.iter().map(String::as_str));
    server.run::<()>(&words.collect::<Vec<_>>());
    use_everything(&connect().await.unwrap()).await.unwrap();
}

/// Every verb, in a way that needs every command.
async fn use_everything(backend: &RedisBackend) -> Result<(), BackendError> {
    let (holder, one, two) = (claim("k"), claim("k").queued(), claim("k").queued());
    backend.acquire(&holder).await?;
    backend.acquire(&one).await?;
    backend.acquire(&two).await?;
    let renewal = Renewal::new(holder.key.clone(), holder.owner.clone(), TTL);
    backend.renew(&[renewal]).await.remove(0)?;
    backend.abandon(&one).await?;
    backend.release(&ending(&holder)).await?;
    backend.release(&ending(&two)).await?;
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let server = Server::start();
    let backend = RedisBackend::connect(Config::from_url(server.unix_url()), settings())
        .await
        .unwrap();
    assert!(acquire(&backend, &claim("k")).await.unwrap());
}

#[tokio::test]
async fn tls_works_with_a_certificate_that_is_trusted_and_only_then() {
    let server = Options::default().tls().start();
    let connect = |settings| RedisBackend::connect(Config::from_url(server.tls_url()), settings);

    let error = connect(settings()).await.unwrap_err();
    assert!(causes(&error).contains("certificate"), "{}", causes(&error));
    let mut trusting = settings();
    trusting.tls_root_certificates = Some(b"no certificate".to_vec());
    assert!(connect(trusting.clone()).await.is_err());

    trusting.tls_root_certificates = Some(server.authority().as_bytes().to_vec());
    let backend = connect(trusting.clone()).await.unwrap();
    let claim = claim("k");
    assert!(acquire(&backend, &claim).await.unwrap());
    release(&backend, &claim).await;
}

#[tokio::test]
async fn the_error_of_the_client_is_among_the_causes() {
    let mut server = Server::start();
    server.kill();
    let error = RedisBackend::connect(Config::from_url(server.url()), settings())
        .await
        .unwrap_err();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<RedisError>() {
            assert!(error.is_connection_refusal());
            return;
        }
        cause = error.source();
    }
    panic!("{}", causes(&error));
}

#[tokio::test]
async fn a_claim_that_is_withdrawn_while_it_is_asked_for_takes_no_memory() {
    let server = Server::start();
    let backend = by_the_lanes(&server).await;
    let are_queued = |claims: usize| format!("{backend:?}").contains(&format!("queued: {claims},"));
    assert!(acquire(&backend, &claim("k")).await.unwrap());
    let waiter = claim("k").queued();
    assert!(!acquire(&backend, &waiter).await.unwrap());
    // The control.
    assert!(are_queued(1), "{backend:?}");
    let (asked, withdrawn) = tokio::join!(
        biased;
        acquire(&backend, &waiter),
        backend.abandon(&waiter),
    );
    assert!(!asked.unwrap(), "it was in the queue still");
    withdrawn.unwrap();
    assert!(are_queued(0), "{backend:?}");
}
