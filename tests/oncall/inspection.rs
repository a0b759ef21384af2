//! Who holds a lock and who waits for it, as those who look after locks see it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lock_conformance::{Decorated, Decorator};
use lock_runtime::backend::OwnerToken;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::observe::{Broken, ProcessInfo};
use lock_runtime::{Lock, LockError, LockRuntime, LockRuntimeBuilder, LostReason, Process};
use lock_tests::etcd::Cluster;
use lock_tests::faults::comes_true;
use lock_tests::redlock_store::urls;
use lock_tests::server::Server;
use lock_tests::{consul, ms};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(20);

/// A store that can tell.
enum Store {
    Memory(MemoryBackend),
    Redis(Server),
    Redlock(Vec<Server>),
}

impl Store {
    fn each() -> Vec<Store> {
        vec![
            Store::Memory(MemoryBackend::new()),
            Store::Redis(Server::start()),
            Store::Redlock((0..3).map(|_| Server::start()).collect()),
        ]
    }

    /// A runtime that leaves its card often, if it does.
    fn builder(&self) -> LockRuntimeBuilder {
        let builder = match self {
            Store::Memory(store) => LockRuntime::backend(store.clone()),
            Store::Redis(server) => LockRuntime::redis(server.url()),
            Store::Redlock(servers) => {
                LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO)
            }
        };
        builder
            .default_ttl(TTL)
            .default_wait(DEADLINE)
            .card_every(ms(50))
    }

    async fn locks(&self) -> LockRuntime {
        self.builder().build().await.unwrap()
    }
}

/// Those that wait until `locks` knows of them.
async fn waiting(locks: &LockRuntime, count: usize) {
    let are_there = async || {
        let info = locks.inspect("coupon:7").await.unwrap();
        info.is_some_and(|info| info.waiting == count)
    };
    comes_true("they wait", are_there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_lock_and_who_waits_is_told_with_service_host_and_fencing_token() {
    for store in Store::each() {
        let one = store.builder().service("checkout").build().await.unwrap();
        let (two, three) = (store.locks().await, store.locks().await);
        assert_eq!(two.inspect("coupon:7").await.unwrap(), None);
        let before = SystemTime::now();
        let lock = one.lock("coupon:7").name("coupon:<id>");
        let guard = lock.acquire().await.unwrap();
        let after = SystemTime::now();
        let waiter = tokio::spawn(three.lock("coupon:7").acquire());
        waiting(&two, 1).await;
        let info = two.inspect("coupon:7").await.unwrap().unwrap();
        assert_eq!(info.key.as_str(), "coupon:7");
        assert_eq!(&info.owner, guard.owner_token());
        assert_eq!(info.process, Some(Process::current()));
        assert!(info.remaining.is_some_and(|left| left <= TTL), "{info:?}");
        assert!(!info.is_kept);
        let [claim] = &info.waiters[..] else {
            panic!("{info:?}");
        };
        assert_eq!(claim.process, Some(Process::current()));
        assert_ne!(claim.owner, info.owner);
        let is_told = !matches!(store, Store::Memory(_));
        assert_eq!(claim.is_listening, is_told.then_some(true));

        // What is held for so long is on the card.
        let is_named = async || {
            let info = two.inspect("coupon:7").await.unwrap().unwrap();
            info.name.is_some()
        };
        comes_true("the card names it", is_named).await;
        let info = two.inspect("coupon:7").await.unwrap().unwrap();
        assert_eq!(info.name.as_deref(), Some("coupon:<id>"));
        assert_eq!(info.fencing_token, Some(guard.fencing_token()));
        let granted_at = info.granted_at.unwrap();
        let slack = ms(200);
        assert!(granted_at > before - slack, "{granted_at:?}, {before:?}");
        assert!(granted_at < after + slack, "{granted_at:?}, {after:?}");
        let holder = info.holder.unwrap();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(holder.service, "checkout");
        assert_eq!(holder.host, host.trim());
        assert_eq!(holder.process, Process::current());
        assert_eq!((holder.held, holder.locks.len()), (1, 1));

        guard.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(two.inspect("coupon:7").await.unwrap(), None);
        for locks in [one, two, three] {
            locks.shutdown().await.unwrap();
        }
    }
}

fn services(processes: &[ProcessInfo]) -> BTreeSet<&str> {
    let services = processes.iter().map(|process| process.service.as_str());
    services.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_is_there_from_its_first_card_to_its_shutdown_and_who_wants_none_has_none() {
    for store in Store::each() {
        let named = |name: &str| store.builder().service(name);
        let (one, two) = (named("checkout").build(), named("mailer").build());
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let silent = named("silent").process_card(false).build().await.unwrap();
        // Another prefix, so other locks.
        let other = named("other").key_prefix("other:").build().await.unwrap();
        let seen = async || {
            let processes = silent.processes().await.unwrap();
            services(&processes) == BTreeSet::from(["checkout", "mailer"])
        };
        comes_true("both", seen).await;
        let own = other.processes().await.unwrap();
        assert_eq!(services(&own), BTreeSet::from(["other"]));
        // A process is told by what it waits for, too.
        let guard = one.lock("k").acquire().await.unwrap();
        let waiter = tokio::spawn(two.lock("k").acquire());
        let tells = async || {
            let processes = silent.processes().await.unwrap();
            let of = |name: &str| processes.iter().find(|process| process.service == name);
            let (Some(one), Some(two)) = (of("checkout"), of("mailer")) else {
                return false;
            };
            (one.held, one.waiting, two.held, two.waiting) == (1, 0, 0, 1)
        };
        comes_true("what they do", tells).await;
        guard.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
        one.shutdown().await.unwrap();
        if let Store::Redis(server) = &store {
            let left = silent.processes().await.unwrap();
            assert_eq!(services(&left), BTreeSet::from(["mailer"]));
            // One that ends without a word is there until its card ends.
            drop(two);
            let cards: Vec<String> = server.run(&["KEYS", "{lock:}:*"]);
            let cards = cards.iter().filter(|key| !key.ends_with(":counter"));
            let cards: Vec<_> = cards.collect();
            assert_eq!(cards.len(), 2, "its card, and the list of them: {cards:?}");
            for card in cards {
                let left_ms: i64 = server.run(&["PTTL", card]);
                assert!((1..=30_000).contains(&left_ms), "{card}: {left_ms}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_look_is_one_command_which_writes_nothing_and_searches_nothing() {
    let server = Server::start();
    let quiet = || LockRuntime::redis(server.url()).process_card(false).build();
    let (locks, other) = (quiet().await.unwrap(), quiet().await.unwrap());
    let guard = locks.lock("k").ttl(DEADLINE).acquire().await.unwrap();
    let waiter = tokio::spawn(other.lock("k").wait(DEADLINE).acquire());
    comes_true("it waits", async || {
        server.run::<usize>(&["ZCARD", "{lock:k}:waiters"]) == 1
    })
    .await;
    // So that the server knows the scripts.
    locks.inspect("k").await.unwrap();
    locks.processes().await.unwrap();
    let changes = || {
        let info: String = server.run(&["INFO", "persistence"]);
        let line = info.lines().find(|line| line.starts_with("rdb_changes"));
        line.unwrap().to_owned()
    };
    let before = changes();
    let monitor = server.monitor();
    assert_eq!(locks.inspect("k").await.unwrap().unwrap().waiting, 1);
    locks.processes().await.unwrap();
    let lines = monitor.lines(&server);
    let sent = lines.iter().filter(|line| !line.contains(" lua]"));
    let scripts = sent.filter(|line| line.contains("\"EVALSHA\""));
    assert_eq!(scripts.count(), 2, "{lines:?}");
    let all = lines.join("\n").to_lowercase();
    assert!(all.contains("numsub"), "{all}");
    for search in ["\"scan\"", "\"keys\""] {
        assert!(!all.contains(search), "{all}");
    }
    assert_eq!(changes(), before);
    // The control: what writes is counted.
    guard.release().await.unwrap();
    assert_ne!(changes(), before);
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_broken_goes_to_who_waits_and_its_next_holder_keeps_it() {
    for store in Store::each() {
        let (one, two, by_hand) = (
            store.locks().await,
            store.locks().await,
            store.locks().await,
        );
        let lock = one.lock("coupon:7").ttl(Duration::from_secs(3));
        let guard = lock.acquire().await.unwrap();
        let waiter = tokio::spawn(two.lock("coupon:7").acquire());
        waiting(&by_hand, 1).await;
        let owner = by_hand.inspect("coupon:7").await.unwrap().unwrap().owner;
        let broken = by_hand.break_lock("coupon:7", &owner).await.unwrap();
        assert_eq!(broken, Broken::Broken);
        // At once, and not when the lease would have ended.
        let next = timeout(DEADLINE, waiter).await.unwrap().unwrap().unwrap();
        assert!(next.fencing_token() > guard.fencing_token());
        timeout(DEADLINE, guard.lost()).await.unwrap();
        let error = guard.release().await.unwrap_err();
        let LockError::Lost { reason, .. } = error else {
            panic!("{error:?}");
        };
        if !matches!(store, Store::Redlock(_)) {
            // Where nothing is handed over, the next holder may come a moment later.
            assert_eq!(reason, LostReason::TakenOver);
        }
        // Whoever looked at it before does nothing to the next holder.
        let broken = by_hand.break_lock("coupon:7", &owner).await.unwrap();
        assert_eq!(broken, Broken::NotHeld);
        let info = by_hand.inspect("coupon:7").await.unwrap().unwrap();
        assert_eq!(&info.owner, next.owner_token());
        next.release().await.unwrap();
        let broken = by_hand.break_lock("coupon:7", &owner).await.unwrap();
        assert_eq!(broken, Broken::NotHeld);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_those_who_hold_a_lock_together_is_told_and_can_be_broken() {
    let store = Store::Memory(MemoryBackend::new());
    for store in [store, Store::Redis(Server::start())] {
        let (one, two, by_hand) = (
            store.locks().await,
            store.locks().await,
            store.locks().await,
        );
        for kind in [
            Lock::shared,
            |lock: Lock| lock.permits(2),
            |lock: Lock| lock.shards(2),
        ] {
            let lock = |locks: &LockRuntime, ttl| kind(locks.lock("coupon:7").ttl(ttl));
            let longest = lock(&one, TTL * 2).acquire().await.unwrap();
            let other = lock(&two, TTL).acquire().await.unwrap();
            // The plain lock waits for both.
            let waiter = tokio::spawn(by_hand.lock("coupon:7").acquire());
            waiting(&by_hand, 1).await;
            let info = by_hand.inspect("coupon:7").await.unwrap().unwrap();
            assert_eq!(&info.owner, longest.owner_token());
            assert_eq!(info.process, Some(Process::current()));
            assert!(info.remaining.unwrap() > TTL, "{info:?}");
            for expected in [Broken::Broken, Broken::NotHeld] {
                let broken = by_hand.break_lock("coupon:7", &info.owner).await;
                assert_eq!(broken.unwrap(), expected);
            }
            let info = by_hand.inspect("coupon:7").await.unwrap().unwrap();
            assert_eq!(&info.owner, other.owner_token());
            other.release().await.unwrap();
            waiter.await.unwrap().unwrap().release().await.unwrap();
            assert!(longest.release().await.unwrap_err().is_lost());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_hold_and_what_is_only_kept_is_told_as_such_and_can_be_broken() {
    const SET: [&str; 3] = ["SET", "lock:coupon:7", "a token"];
    for store in Store::each() {
        let locks = store.locks().await;
        match &store {
            Store::Memory(store) => store.steal("coupon:7"),
            Store::Redis(server) => server.run::<()>(&SET),
            Store::Redlock(servers) => servers.iter().for_each(|server| server.run::<()>(&SET)),
        }
        let info = locks.inspect("coupon:7").await.unwrap().unwrap();
        assert_eq!((info.remaining, info.is_kept), (None, false));
        assert_eq!(info.name, None);
        if !matches!(store, Store::Memory(_)) {
            assert_eq!((info.owner.as_str(), info.process), ("a token", None));
        }
        let stranger = OwnerToken::new("another token");
        let broken = locks.break_lock("coupon:7", &stranger).await.unwrap();
        assert_eq!(broken, Broken::NotHeld);
        let broken = locks.break_lock("coupon:7", &info.owner).await.unwrap();
        assert_eq!(broken, Broken::Broken);
        assert_eq!(locks.inspect("coupon:7").await.unwrap(), None);

        if let Store::Redlock(_) = store {
            // It keeps nothing.
            continue;
        }
        let lock = locks.lock("coupon:7").min_hold(DEADLINE);
        lock.acquire().await.unwrap().release().await.unwrap();
        let info = locks.inspect("coupon:7").await.unwrap().unwrap();
        assert!(info.is_kept, "{info:?}");
        assert_eq!(info.process, Some(Process::current()));
        assert_eq!((info.name, info.fencing_token), (None, None));
        let taken = locks.lock("coupon:7").try_acquire().await.unwrap();
        assert!(taken.is_none());
        let broken = locks.break_lock("coupon:7", &info.owner).await.unwrap();
        assert_eq!(broken, Broken::Broken);
        let taken = locks.lock("coupon:7").try_acquire().await.unwrap();
        taken.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_whose_process_is_gone_is_told_from_one_that_listens() {
    let server = Server::start();
    let build = || LockRuntime::redis(server.url()).build();
    let (locks, dies) = (build().await.unwrap(), build().await.unwrap());
    let guard = locks.lock("coupon:7").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn(dies.lock("coupon:7").wait(DEADLINE).acquire());
    waiting(&locks, 1).await;
    let listens = async || {
        let info = locks.inspect("coupon:7").await.unwrap().unwrap();
        info.waiters[0].is_listening
    };
    assert_eq!(listens().await, Some(true));
    let member: Vec<String> = server.run(&["ZRANGE", "{lock:coupon:7}:waiters", "0", "0"]);
    let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "*"]);
    let of_waiter = channels.iter().find(|channel| member[0].contains(*channel));
    assert!(of_waiter.is_some(), "{channels:?}, {member:?}");
    // A member whose channel is nobody's.
    let gone = member[0].replace(
        of_waiter.unwrap().as_str(),
        &"x".repeat(of_waiter.unwrap().len()),
    );
    server.run::<()>(&["ZREM", "{lock:coupon:7}:waiters", &member[0]]);
    server.run::<()>(&["ZADD", "{lock:coupon:7}:waiters", "1", &gone]);
    assert_eq!(listens().await, Some(false));
    waiter.abort();
    guard.release().await.unwrap();
}

/// It keeps no cards: what the claims themselves say is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_etcd_it_is_told_who_holds_a_lock_and_who_waits_and_a_lock_can_be_broken() {
    let cluster = Cluster::start();
    let build = || {
        LockRuntime::etcd(cluster.endpoints())
            .default_wait(DEADLINE)
            .build()
    };
    let (one, two, by_hand) = (build().await, build().await, build().await);
    let (one, two, by_hand) = (one.unwrap(), two.unwrap(), by_hand.unwrap());
    assert_eq!(by_hand.inspect("coupon:7").await.unwrap(), None);
    let guard = one.lock("coupon:7").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn(two.lock("coupon:7").ttl(TTL).acquire());
    waiting(&by_hand, 1).await;
    let info = by_hand.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!(&info.owner, guard.owner_token());
    assert_eq!(info.process, Some(Process::current()));
    assert!(info.remaining.is_some_and(|left| left <= TTL), "{info:?}");
    assert_eq!(info.waiters[0].process, Some(Process::current()));
    assert!(by_hand.processes().await.unwrap_err().is_unsupported());
    // Who waits holds nothing that could be broken.
    let waits = &info.waiters[0].owner;
    let broken = by_hand.break_lock("coupon:7", waits).await.unwrap();
    assert_eq!(broken, Broken::NotHeld);
    let broken = by_hand.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::Broken);
    let next = timeout(DEADLINE, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(waits, next.owner_token());
    timeout(DEADLINE, guard.lost()).await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    let broken = by_hand.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::NotHeld);
    let now = by_hand.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!(&now.owner, next.owner_token());
    next.release().await.unwrap();
}

/// Whose a lock is on Consul, and who waits, is read from the keys of the lock; the policy of a
/// service is enough for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_consul_it_is_told_who_holds_a_lock_and_who_waits_and_a_lock_can_be_broken() {
    let cluster = consul::Options::default().acl().start(1);
    let readme = include_str!("../../lock-consul/README.md");
    let (_, rules) = readme.split_once("```hcl").unwrap();
    let (rules, _) = rules.split_once("```").unwrap();
    let token = cluster.grant("locks", rules);
    let build = || {
        LockRuntime::consul(cluster.endpoints())
            .consul_token(&token)
            .default_wait(DEADLINE)
            .build()
    };
    let (one, two, by_hand) = (build().await, build().await, build().await);
    let (one, two, by_hand) = (one.unwrap(), two.unwrap(), by_hand.unwrap());
    assert_eq!(by_hand.inspect("coupon:7").await.unwrap(), None);
    let guard = one.lock("coupon:7").ttl(TTL).acquire().await.unwrap();
    let alone = by_hand.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!((alone.waiting, &alone.waiters[..]), (0, &[][..]));
    let waiter = tokio::spawn(two.lock("coupon:7").ttl(TTL).acquire());
    waiting(&by_hand, 1).await;
    let info = by_hand.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!(&info.owner, guard.owner_token());
    assert_eq!(info.process, Some(Process::current()));
    assert_eq!((info.remaining, info.is_kept), (Some(TTL), false));
    assert_eq!(info.waiters[0].process, Some(Process::current()));
    assert!(by_hand.processes().await.unwrap_err().is_unsupported());
    // Who waits holds nothing that could be broken.
    let waits = &info.waiters[0].owner;
    let broken = by_hand.break_lock("coupon:7", waits).await.unwrap();
    assert_eq!(broken, Broken::NotHeld);
    let broken = by_hand.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::Broken);
    // At once, and not when the lease would have ended.
    let next = timeout(TTL / 2, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(waits, next.owner_token());
    assert!(next.fencing_token() > guard.fencing_token());
    timeout(DEADLINE, guard.lost()).await.unwrap();
    let error = guard.release().await.unwrap_err();
    let LockError::Lost { reason, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, LostReason::TakenOver);
    let broken = by_hand.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::NotHeld);
    let now = by_hand.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!((&now.owner, now.waiting), (next.owner_token(), 0));
    // With nobody who waits, it is free.
    let broken = by_hand.break_lock("coupon:7", &now.owner).await.unwrap();
    assert_eq!(broken, Broken::Broken);
    assert_eq!(by_hand.inspect("coupon:7").await.unwrap(), None);
    timeout(DEADLINE, next.lost()).await.unwrap();
    assert!(next.release().await.unwrap_err().is_lost());
    let free = one.lock("coupon:7").ttl(TTL).try_acquire().await.unwrap();
    free.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_consul_what_another_program_holds_is_told_by_its_session_and_can_be_broken() {
    let cluster = consul::Cluster::start();
    let build = || LockRuntime::consul(cluster.endpoints()).default_wait(DEADLINE);
    let locks = build().build().await.unwrap();
    let guard = locks.lock("coupon:7").ttl(TTL).acquire().await.unwrap();
    cluster.pass_to_another("lock:coupon:7");
    let (session, value) = cluster.owner("lock:coupon:7").unwrap();
    assert_eq!(value, "another");
    let info = locks.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!(info.owner.as_str(), session);
    assert_eq!((info.process, info.remaining), (None, None));
    timeout(DEADLINE, guard.lost()).await.unwrap();
    let other = build().build().await.unwrap();
    let waiter = tokio::spawn(other.lock("coupon:7").ttl(TTL).acquire());
    waiting(&locks, 1).await;
    // What it has written may be what the next one writes as well.
    for stranger in ["another", "another token"] {
        let stranger = OwnerToken::new(stranger);
        let broken = locks.break_lock("coupon:7", &stranger).await.unwrap();
        assert_eq!(broken, Broken::NotHeld);
    }
    let broken = locks.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::Broken);
    let next = timeout(TTL / 2, waiter).await.unwrap().unwrap().unwrap();
    let broken = locks.break_lock("coupon:7", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::NotHeld);
    let now = locks.inspect("coupon:7").await.unwrap().unwrap();
    assert_eq!(&now.owner, next.owner_token());
    next.release().await.unwrap();
    drop(guard);
}

/// A store that knows no more than how to lock.
struct Plain(MemoryBackend);

impl Decorator for Plain {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.0
    }
}

#[tokio::test]
async fn a_store_that_cannot_tell_says_so_and_locks_all_the_same() {
    let locks = LockRuntime::backend(Decorated(Plain(MemoryBackend::new())));
    let locks = locks.build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let errors = [
        locks.inspect("k").await.map(drop).unwrap_err(),
        locks.processes().await.map(drop).unwrap_err(),
        locks.health().await.map(drop).unwrap_err(),
        locks
            .break_lock("k", guard.owner_token())
            .await
            .map(drop)
            .unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_unsupported() && !error.is_retryable(), "{error:?}");
        assert_eq!(error.http_status(), 500);
        assert!(error.to_string().starts_with("this store has no way to "));
    }
    guard.release().await.unwrap();
}

/// The rule of a user, as a document prints it.
fn printed(user: &str) -> BTreeSet<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let begin = format!("ACL SETUSER {user} on '>password' ");
    let (_, rest) = readme.split_once(&begin).expect(user);
    let (rule, _) = rest.split_once("```").unwrap();
    let words = rule.split_whitespace().filter(|word| *word != "\\");
    words.map(|word| word.replace('\'', "")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_that_the_readme_prints_are_enough_and_an_operator_needs_all_of_his() {
    let server = Server::start();
    let set_user = |rule: &BTreeSet<String>| {
        let mut command = vec!["ACL", "SETUSER", "app", "reset", "on", ">pw"];
        // It takes away what was given before it.
        command.push("resetchannels");
        let words = rule.iter().filter(|word| *word != "resetchannels");
        command.extend(words.map(String::as_str));
        server.run::<()>(&command);
    };
    let url = format!("redis://app:pw@127.0.0.1:{}", server.port());
    let build = || LockRuntime::redis(url.clone()).card_every(ms(50)).build();
    let (service, operator) = (printed("app"), printed("operator"));
    let more: Vec<_> = operator.difference(&service).cloned().collect();
    assert_eq!(more, ["+pubsub|numsub", "+zcard"]);
    assert!(operator.is_superset(&service));

    // A service leaves its card and breaks locks, but does not look at those of others.
    set_user(&service);
    let locks = build().await.unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    comes_true("its card", async || {
        server.run::<bool>(&["EXISTS", "{lock:}:processes:holders"])
    })
    .await;
    assert_eq!(locks.processes().await.unwrap().len(), 1);
    assert!(locks.health().await.unwrap().can_grant);
    let error = locks.inspect("k").await.unwrap_err();
    assert!(error.is_denied(), "{error:?}");
    let text = format!("{:?}", error);
    let (_, named) = text.split_once("rule: \"").expect(&text);
    let named = named.split('"').next().unwrap();
    let named: BTreeSet<String> = named.split(' ').map(str::to_owned).collect();
    assert_eq!(named, operator);

    set_user(&operator);
    let info = locks.inspect("k").await.unwrap().unwrap();
    assert_eq!(&info.owner, guard.owner_token());
    for missing in more {
        let mut less = operator.clone();
        less.remove(&missing);
        set_user(&less);
        // With somebody in the queue, so that every command is needed.
        let waiter = tokio::spawn(locks_of(&server).await.lock("k").wait(DEADLINE).acquire());
        comes_true("it waits", async || {
            server.run::<usize>(&["ZCARD", "{lock:k}:waiters"]) == 1
        })
        .await;
        let error = locks.inspect("k").await.expect_err(&missing);
        assert!(error.is_denied(), "{missing}: {error:?}");
        set_user(&operator);
        assert_eq!(locks.inspect("k").await.unwrap().unwrap().waiting, 1);
        waiter.abort();
        comes_true("it has left", async || {
            server.run::<usize>(&["ZCARD", "{lock:k}:waiters"]) == 0
        })
        .await;
    }
    let broken = locks.break_lock("k", &info.owner).await.unwrap();
    assert_eq!(broken, Broken::Broken);
    assert!(guard.release().await.unwrap_err().is_lost());
}

async fn locks_of(server: &Server) -> LockRuntime {
    LockRuntime::redis(server.url()).build().await.unwrap()
}
