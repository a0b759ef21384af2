//! Locks held by a majority of five servers, of which two or three are down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_runtime::redlock::RedlockBackend;
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder, distributed_lock};
use lock_tests::faults::{DEADLINE, SLACK, eventually, is_withdrawal, owner};
use lock_tests::ms;
use lock_tests::redlock_store::{connect, five, urls};
use lock_tests::server::Server;
use tokio::task::JoinSet;

/// A ttl that never runs out during a test.
const LONG: Duration = Duration::from_secs(120);
/// How many claims may be withdrawn in the background at one server.
const LATER: usize = 1024;

fn builder(servers: &[Server]) -> LockRuntimeBuilder {
    LockRuntime::redlock(urls(servers)).restart_delay(Duration::ZERO)
}

/// What puts a server down, and whether it refuses, or hangs.
#[derive(Clone, Copy, Debug)]
enum Down {
    Refuses,
    Hangs,
}

impl Down {
    fn begin(self, server: &mut Server) {
        match self {
            Down::Refuses => server.kill(),
            Down::Hangs => server.pause(),
        }
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port()));
        match (self, &mut stream) {
            (Down::Refuses, stream) => assert!(stream.is_err(), "it does not refuse"),
            (Down::Hangs, Ok(stream)) => {
                use std::io::{Read, Write};
                stream.set_read_timeout(Some(ms(50))).unwrap();
                stream.write_all(b"PING\r\n").unwrap();
                assert!(stream.read(&mut [0]).is_err(), "it does not hang");
            }
            (Down::Hangs, Err(error)) => panic!("it does not hang: {error}"),
        }
    }

    fn end(self, server: &mut Server) {
        match self {
            Down::Refuses => server.restart(),
            Down::Hangs => server.resume(),
        }
    }
}

async fn pair(locks: &LockRuntime) -> Duration {
    let started = Instant::now();
    let guard = locks.lock("free").try_acquire().await.unwrap().unwrap();
    guard.release().await.unwrap();
    started.elapsed()
}

/// A free lock takes as long with two servers down as with all five up: in turns, so that the
/// machine is as busy for both. A command may take so long that one wait for a server that is down
/// would be seen; `lock-bench down` measures the rest.
#[tokio::test]
async fn nobody_waits_for_two_servers_that_are_down() {
    let _alone = lock_tests::alone().await;
    for down in [Down::Refuses, Down::Hangs] {
        let (whole, mut broken) = (five(), five());
        // Longer than the machine stands still.
        let patience = LONG / 2;
        let five_up = builder(&whole).command_timeout(patience).build();
        let two_down = builder(&broken).command_timeout(patience).build();
        let (five_up, two_down) = (five_up.await.unwrap(), two_down.await.unwrap());
        for server in &mut broken[1..3] {
            down.begin(server);
        }
        let (mut up, mut less) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            up.push(pair(&five_up).await);
            less.push(pair(&two_down).await);
        }
        up.sort_unstable();
        less.sort_unstable();
        println!(
            "{down:?}: five up {:?} (p99 {:?}), two down {:?} (p99 {:?})",
            up[100], up[198], less[100], less[198]
        );
        assert!(less[100] < up[100] * 4, "{:?} {:?}", less[100], up[100]);
        assert!(*less.last().unwrap() < patience / 2);
        for server in &mut broken[1..3] {
            down.end(server);
        }
        five_up.shutdown().await.unwrap();
        two_down.shutdown().await.unwrap();
    }
}

/// Where three are down, who does not wait is told within the timeout of a command, and leaves no
/// vote on the two; who waits goes on, and has the lock when the third is back.
#[tokio::test]
async fn claims_without_a_majority_are_told_in_time_and_go_on_when_it_is_back() {
    for down in [Down::Refuses, Down::Hangs] {
        let mut servers = five();
        let timeout = ms(500);
        // Nobody would be granted the lock by looking again after so long.
        let builder = builder(&servers).command_timeout(timeout).heartbeat(LONG);
        let locks = builder.default_ttl(LONG).build().await.unwrap();
        for server in &mut servers[..3] {
            down.begin(server);
        }
        let started = Instant::now();
        let error = locks.lock("k").try_acquire().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        let told = started.elapsed();
        assert!(told < timeout + SLACK, "{told:?}");
        eventually("the end of the votes", || {
            servers[3..]
                .iter()
                .all(|server| owner(server, "k").is_none())
        })
        .await;
        let gone = started.elapsed();
        assert!(gone < 2 * timeout + SLACK, "{gone:?}");

        let waiter = tokio::spawn({
            let locks = locks.clone();
            async move {
                let guard = locks.lock("k").wait(DEADLINE).acquire().await.unwrap();
                let at = Instant::now();
                guard.release().await.unwrap();
                at
            }
        });
        // Long enough for its questions to have failed.
        tokio::time::sleep(2 * timeout).await;
        assert!(!waiter.is_finished());
        down.end(&mut servers[0]);
        let back = Instant::now();
        let granted = waiter.await.unwrap().saturating_duration_since(back);
        println!("{down:?}: told {told:?}, votes gone {gone:?}, granted {granted:?} after");
        assert!(granted < Duration::from_secs(1) + SLACK, "{granted:?}");
        locks.shutdown().await.unwrap();
        for server in &mut servers[1..3] {
            down.end(server);
        }
    }
}

async fn use_lock(backend: &RedlockBackend, number: usize) {
    let key = LockKey::new("lock:", &format!("{number}")).unwrap();
    let claim = Claim::new(key, OwnerToken::unique("test"), LONG);
    let granted = backend.acquire(&claim).await.unwrap();
    assert!(matches!(granted, Acquired::Granted(_)), "{granted:?}");
    let release = Release::new(claim.key, claim.owner);
    backend.release(&release).await.unwrap();
}

/// What a server has not heard of is told to it when it is back, of so many claims as are
/// remembered for it, however many there were: the rest ends by its ttl, and a server that is down
/// for long costs no memory.
#[tokio::test]
async fn a_server_that_is_down_is_remembered_a_bounded_number_of_withdrawals() {
    let mut servers = five();
    let backend = std::sync::Arc::new(connect(&servers).await);
    let withdrawals = |server: &Server| {
        let keys: Vec<String> = server.run(&["KEYS", "*"]);
        keys.iter().filter(|key| is_withdrawal(key)).count()
    };
    // Fewer than that are all told.
    for (used, told) in [(100, 100), (LATER + 400, LATER)] {
        servers[0].kill();
        let mut uses = JoinSet::new();
        for number in 0..used {
            if uses.len() >= 32 {
                uses.join_next().await.unwrap().unwrap();
            }
            let backend = std::sync::Arc::clone(&backend);
            uses.spawn(async move { use_lock(&backend, number).await });
        }
        uses.join_all().await;
        // What was asked last has been given up by then, and is left to the background.
        tokio::time::sleep(ms(2500)).await;
        servers[0].restart();
        eventually("the withdrawals", || withdrawals(&servers[0]) >= told).await;
        // Each is tried at least once in this time.
        tokio::time::sleep(ms(1500)).await;
        assert_eq!(withdrawals(&servers[0]), told);
    }
}

struct Shop {
    left: AtomicU32,
    is_served: AtomicBool,
}

#[distributed_lock(key = "coupons", ttl = "5s", wait = "60s", runtime = locks)]
async fn claim(locks: &LockRuntime, shop: &Shop) -> Result<bool, LockError> {
    assert!(
        !shop.is_served.swap(true, Ordering::SeqCst),
        "two are served"
    );
    let left = shop.left.load(Ordering::SeqCst);
    tokio::task::yield_now().await;
    if left > 0 {
        shop.left.store(left - 1, Ordering::SeqCst);
    }
    shop.is_served.store(false, Ordering::SeqCst);
    Ok(left > 0)
}

#[tokio::test]
async fn ten_coupons_are_given_to_two_hundred_claims_while_servers_fail() {
    let mut servers = five();
    let shop = Arc::new(Shop {
        left: AtomicU32::new(10),
        is_served: AtomicBool::new(false),
    });
    let mut runtimes = Vec::new();
    let mut claims = JoinSet::new();
    for _ in 0..4 {
        let locks = builder(&servers).build().await.unwrap();
        runtimes.push(locks.clone());
        for _ in 0..50 {
            let (locks, shop) = (locks.clone(), Arc::clone(&shop));
            claims.spawn(async move { claim(&locks, &shop).await.unwrap() });
        }
    }
    let (mut given, mut done) = (0, 0);
    while let Some(is_given) = claims.join_next().await {
        given += u32::from(is_given.unwrap());
        done += 1;
        match done {
            20 => servers[0].kill(),
            40 => servers[3].pause(),
            120 => servers[3].resume(),
            _ => {}
        }
    }
    assert_eq!((given, done), (10, 200));
    for locks in &runtimes {
        locks.shutdown().await.unwrap();
    }
}
