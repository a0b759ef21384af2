//! Why a lock is lost, and who has it, on every store.

use std::time::Duration;

use lock_runtime::memory::MemoryBackend;
use lock_runtime::observe::LockEvent;
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder, LostReason, Process};
use lock_tests::etcd::Cluster;
use lock_tests::faults::eventually;
use lock_tests::faults::proxy::Proxy;
use lock_tests::redlock_store::urls;
use lock_tests::server::Server;
use lock_tests::{consul, ms};
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(5);

/// A store as those who administer it have it in hand.
enum Store {
    Memory(MemoryBackend),
    Redis(Server),
    Redlock(Vec<Server>),
    Etcd(Cluster),
    Consul(consul::Cluster),
}

impl Store {
    fn each() -> Vec<Store> {
        vec![
            Store::Memory(MemoryBackend::new()),
            Store::Redis(Server::start()),
            Store::Redlock((0..3).map(|_| Server::start()).collect()),
            Store::Etcd(Cluster::start()),
            Store::Consul(consul::Cluster::start()),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Store::Memory(_) => "memory",
            Store::Redis(_) => "Redis",
            Store::Redlock(_) => "Redlock",
            Store::Etcd(_) => "etcd",
            Store::Consul(_) => "Consul",
        }
    }

    fn builder(&self) -> LockRuntimeBuilder {
        match self {
            Store::Memory(store) => LockRuntime::backend(store.clone()),
            Store::Redis(server) => LockRuntime::redis(server.url()),
            Store::Redlock(servers) => {
                LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO)
            }
            Store::Etcd(cluster) => LockRuntime::etcd(cluster.endpoints()),
            Store::Consul(cluster) => LockRuntime::consul(cluster.endpoints()),
        }
    }

    /// Deletes the claim of whoever holds `k`.
    fn delete(&self) {
        match self {
            Store::Memory(store) => store.expire("k"),
            Store::Redis(server) => server.run::<()>(&["DEL", "lock:k"]),
            Store::Redlock(servers) => {
                for server in servers {
                    server.run::<()>(&["DEL", "lock:k"]);
                }
            }
            Store::Etcd(cluster) => {
                let (claim, _) = cluster.owner("lock:k").expect("a holder");
                cluster.ctl(&["del", &claim]);
            }
            Store::Consul(cluster) => cluster.unlock("lock:k"),
        }
    }

    /// Gives `k` to another at once; on etcd to whoever waits.
    fn take(&self) {
        const SET: [&str; 5] = ["SET", "lock:k", "another", "PX", "60000"];
        match self {
            Store::Memory(store) => store.steal("k"),
            Store::Redis(server) => server.run::<()>(&SET),
            Store::Redlock(servers) => servers.iter().for_each(|server| server.run::<()>(&SET)),
            Store::Etcd(_) => self.delete(),
            Store::Consul(cluster) => cluster.pass_to_another("lock:k"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lock_says_whether_it_was_deleted_or_taken_over() {
    for store in Store::each() {
        for reason in [LostReason::Deleted, LostReason::TakenOver] {
            let (name, locks) = (store.name(), store.builder().build().await.unwrap());
            let lock = || locks.lock("k").ttl(TTL).wait(Duration::from_secs(20));
            let guard = lock().acquire().await.unwrap();
            let mut waiting = None;
            if reason == LostReason::TakenOver {
                if let Store::Etcd(cluster) = &store {
                    let other = store.builder().build().await.unwrap();
                    let lock = other.lock("k").ttl(TTL).wait(Duration::from_secs(20));
                    waiting = Some(tokio::spawn(lock.acquire()));
                    eventually("it waits", || cluster.claims().len() == 2).await;
                }
                store.take();
            } else {
                store.delete();
            }
            timeout(Duration::from_secs(20), guard.lost())
                .await
                .unwrap();
            let error = guard.release().await.unwrap_err();
            let LockError::Lost { reason: told, .. } = &error else {
                panic!("{name}: {error:?}");
            };
            assert_eq!(*told, reason, "{name}");
            if let Some(waiting) = waiting {
                waiting.await.unwrap().unwrap().release().await.unwrap();
            }
            if reason == LostReason::TakenOver && !matches!(store, Store::Etcd(_)) {
                store.delete();
            }
            let _ = locks.shutdown().await;
        }
    }
}

/// Renewals that do not arrive, where the store is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lock_says_that_it_could_not_be_renewed() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = LockRuntime::redis(proxy.url()).build().await.unwrap();
    let guard = locks.lock("k").ttl(ms(1_500)).acquire().await.unwrap();
    proxy.refuse();
    proxy.cut();
    timeout(Duration::from_secs(20), guard.lost())
        .await
        .unwrap();
    let error = guard.release().await.unwrap_err();
    let LockError::Lost {
        reason: LostReason::Expired,
        cause: Some(cause),
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(cause.times() > 1, "{error:?}");
    proxy.heal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_is_told_which_process_has_the_lock() {
    for store in Store::each() {
        let (name, one) = (store.name(), store.builder().build().await.unwrap());
        let two = store.builder().build().await.unwrap();
        let guard = one.lock("k").ttl(TTL).acquire().await.unwrap();
        for wait in [Duration::ZERO, ms(300)] {
            let lock = two.lock("k").ttl(TTL).wait(wait);
            let error = lock.acquire().await.unwrap_err();
            let (LockError::Taken { holder, .. } | LockError::Timeout { holder, .. }) = &error
            else {
                panic!("{name}: {error:?}");
            };
            // Both runtimes are in this process.
            assert_eq!(*holder, Some(Process::current()), "{name}: {error}");
            assert!(error.to_string().contains("in this process"), "{error}");
        }
        guard.release().await.unwrap();
    }
}

/// Of another library's lock nobody knows whose it is; and to know it costs no command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_of_a_holder_is_in_the_same_answer() {
    let server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let other = "me/lr-0123456789abcdef-2a-7";
    for (token, process) in [
        (other, "0123456789abcdef-2a"),
        ("6a9f", ""),
        ("/lr-1-2-3", ""),
    ] {
        server.run::<()>(&["SET", "lock:k", token, "PX", "60000"]);
        let monitor = server.monitor();
        let error = locks
            .lock("k")
            .wait(Duration::ZERO)
            .acquire()
            .await
            .unwrap_err();
        let commands = monitor.commands(&server);
        let LockError::Taken { holder, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*holder, Process::parse(process), "{token}");
        assert_eq!(
            error.to_string().contains(", process 0123456789abcdef-2a"),
            holder.is_some()
        );
        let sent = commands.iter().filter(|line| !line.contains(" lua]"));
        let scripts: Vec<_> = sent
            .filter(|line| line.to_lowercase().contains("\"eval"))
            .collect();
        assert_eq!(scripts.len(), 1, "{commands:?}");
    }
    server.run::<()>(&["DEL", "lock:k"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_names_what_is_held() {
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&told);
    let locks =
        LockRuntime::in_memory()
            .shutdown_timeout(ms(10))
            .observer(move |event: &LockEvent| {
                if let LockEvent::StillHeld { keys, locks } = event {
                    seen.lock().unwrap().push((keys.len(), *locks));
                }
            });
    let locks = locks.build().await.unwrap();
    let mut guards = Vec::new();
    for number in 0..12 {
        guards.push(locks.lock(format!("k{number}")).acquire().await.unwrap());
    }
    let error = locks.shutdown().await.unwrap_err();
    let LockError::StillHeld { locks: 12, keys } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(keys.len(), 10);
    assert!(error.to_string().ends_with(", …"), "{error}");
    assert_eq!(*told.lock().unwrap(), [(10, 12)]);
}
