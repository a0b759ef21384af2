//! What a lock costs in memory: allocations where it is free, bytes where it is held.

#[path = "../src/heap.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod heap;

use std::time::Duration;

use deadpool_redis::Config;
use heap::Counting;
use lock_runtime::LockRuntime;
use lock_runtime::backend::{Backend, Claim, LockKey, OwnerToken, Release};
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_tests::server::Server;
use redis::Script;
use tokio::task::JoinSet;

#[global_allocator]
static HEAP: Counting = Counting::new();

const PAIRS: usize = 500;
/// So many as to fill the tables of the runtime as far as ten thousand do.
const LEASES: usize = 5_000;

/// The allocations of a run of `pair`, in the mean; the first runs open connections.
async fn allocations(mut pair: impl AsyncFnMut()) -> f64 {
    for _ in 0..PAIRS {
        pair().await;
    }
    HEAP.count();
    let before = HEAP.allocations();
    for _ in 0..PAIRS {
        pair().await;
    }
    (HEAP.allocations() - before) as f64 / PAIRS as f64
}

/// All in one process, so in one test: an allocator counts what every thread does.
#[tokio::test]
async fn a_pair_costs_few_allocations_and_a_lease_few_bytes() {
    let server = Server::start();

    // The control: what two commands cost by themselves.
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("a server");
    let release = Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end",
    );
    let raw = allocations(async || {
        let mut take = redis::cmd("SET");
        take.arg("raw").arg("owner").arg("NX").arg("PX").arg(30_000);
        take.exec_async(&mut connection).await.expect("an answer");
        let mut release = release.key("raw");
        let release = release.arg("owner").invoke_async::<u32>(&mut connection);
        release.await.expect("an answer");
    })
    .await;

    let backend = RedisBackend::connect(Config::from_url(server.url()), RedisSettings::default())
        .await
        .expect("a server");
    let key = LockKey::new("lock:", "backend").expect("a key");
    let verbs = allocations(async || {
        let owner = OwnerToken::unique("owner");
        let claim = Claim::new(key.clone(), owner, Duration::from_secs(30));
        backend.acquire(&claim).await.expect("an answer");
        let release = Release::new(key.clone(), claim.owner);
        backend.release(&release).await.expect("an answer");
    })
    .await;

    let locks = LockRuntime::redis(server.url())
        .build()
        .await
        .expect("a server");
    let ours = allocations(async || {
        let guard = locks.lock("ours").acquire().await.expect("a lock");
        guard.release().await.expect("an answer");
    })
    .await;

    println!("raw {raw}, verbs {verbs}, ours {ours}");
    assert!(raw > 4.0, "nothing is counted: {raw}");
    // Two are the owner token; a question in flight is one, and the client makes four for each:
    // what it writes, what waits for the reply, and two for the reply.
    assert!(verbs < 11.5, "{verbs}");
    // Thirteen are ours: key, owner token, waiter, claim, entry, guard, and for each of the two
    // questions what is asked, the future of the backend, and that of the connection.
    assert!(ours < 21.5, "{ours}");

    let before = HEAP.live();
    let mut held = Vec::with_capacity(LEASES);
    for hundred in 0..LEASES / 100 {
        let mut acquiring = JoinSet::new();
        for number in 0..100 {
            // Like the name of a coupon.
            let key = format!("held:0:lease:{}", 100 * hundred + number);
            let lease = locks.lock(key).ttl(Duration::from_secs(60));
            acquiring.spawn(lease.acquire());
        }
        while let Some(guard) = acquiring.join_next().await {
            held.push(guard.expect("no panic").expect("a lock"));
        }
    }
    let bytes = (HEAP.live() - before) as f64 / LEASES as f64;
    println!("{bytes} bytes a lease");
    assert!(bytes > 200.0, "nothing is counted: {bytes}");
    // `held` says less, where what there is only once is shared by twice as many.
    assert!(bytes < 740.0, "{bytes}");
    let mut releasing = JoinSet::new();
    for guard in held {
        releasing.spawn(guard.release());
    }
    while let Some(released) = releasing.join_next().await {
        released.expect("no panic").expect("an answer");
    }
}
