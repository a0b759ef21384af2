//! Other libraries that ask again and again, beside a lock for which ours always wait.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lock_runtime::{Lock, LockError, LockRuntime};
use lock_tests::faults::{comes_true, ms, queued};
use lock_tests::server::Server;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

const DEADLINE: Duration = Duration::from_secs(30);
/// redis-py sleeps 100 ms between two questions.
const GAP: Duration = Duration::from_millis(200);
const EVERY: Duration = Duration::from_millis(600);

/// Tasks of two processes that want one lock all the time.
struct Crowd {
    locks: [LockRuntime; 2],
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
    inside: Arc<AtomicUsize>,
}

impl Crowd {
    async fn start(server: &Server, gap: bool) -> Crowd {
        let builder = || {
            let builder = LockRuntime::redis(server.url()).default_wait(DEADLINE);
            match gap {
                true => builder.foreign_gap(EVERY, GAP),
                false => builder,
            }
        };
        let locks = [
            builder().build().await.unwrap(),
            builder().build().await.unwrap(),
        ];
        let mut crowd = Crowd {
            locks,
            tasks: JoinSet::new(),
            stop: Arc::default(),
            held: Arc::default(),
            inside: Arc::default(),
        };
        for locks in &crowd.locks {
            for _ in 0..8 {
                let (locks, stop) = (locks.clone(), Arc::clone(&crowd.stop));
                let (held, inside) = (Arc::clone(&crowd.held), Arc::clone(&crowd.inside));
                crowd.tasks.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let guard = locks.lock("k").acquire().await.unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                        sleep(ms(2)).await;
                        held.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        guard.release().await.unwrap();
                    }
                });
            }
        }
        let held = Arc::clone(&crowd.held);
        comes_true("they work", async || held.load(Ordering::Relaxed) > 20).await;
        crowd
    }

    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        for locks in self.locks {
            locks.shutdown().await.unwrap();
        }
    }
}

/// Whether redis-py gets the lock within so many seconds, by its usual way of waiting. While it
/// holds it, `inside` of ours must be zero.
async fn redis_py_gets_it(server: &Server, crowd: &Crowd, seconds: u32) -> bool {
    let program = format!(
        "import redis, time\nr = redis.Redis(port={})\n\
         lock = r.lock('lock:k', timeout=20, blocking_timeout={seconds})\n\
         got = lock.acquire()\n\
         if got:\n    r.set('py', 1, px=20000)\n    time.sleep(0.3)\n    r.delete('py')\n    lock.release()\n\
         print(got)",
        server.port()
    );
    let child = Command::new("/usr/bin/python3")
        .args(["-c", &program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = spawn_blocking(move || child.wait_with_output().unwrap());
    while !output.is_finished() {
        if server.run::<bool>(&["EXISTS", "py"]) {
            assert_eq!(crowd.inside.load(Ordering::SeqCst), 0, "both have it");
        }
        sleep(ms(20)).await;
    }
    let output = output.await.unwrap();
    assert!(output.status.success());
    match String::from_utf8(output.stdout).unwrap().trim() {
        "True" => true,
        "False" => false,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_py_has_its_turn_where_a_gap_is_left_and_none_without() {
    let server = Server::start();
    let crowd = Crowd::start(&server, true).await;
    assert!(
        redis_py_gets_it(&server, &crowd, 20).await,
        "it has no turn"
    );
    // Ours go on.
    let (held, before) = (&crowd.held, crowd.held.load(Ordering::Relaxed));
    comes_true("they go on", async || {
        held.load(Ordering::Relaxed) > before + 20
    })
    .await;
    crowd.stop().await;
    server.finish();

    // The control.
    let server = Server::start();
    let crowd = Crowd::start(&server, false).await;
    let gets_it = redis_py_gets_it(&server, &crowd, 3).await;
    assert!(!gets_it, "a lock that ours always want is never free");
    crowd.stop().await;
    server.finish();
}

/// How often, and for how long, the lock is nobody's, as the server does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_left_no_sooner_than_it_was_asked_for_and_ours_keep_out_of_it() {
    let server = Server::start();
    let builder = || {
        let builder = LockRuntime::redis(server.url()).foreign_gap(ms(30_000), ms(4_000));
        // Who is not told looks when it is too late.
        builder.heartbeat(2 * DEADLINE)
    };
    let (one, two) = (builder().build().await, builder().build().await);
    let (one, two) = (one.unwrap(), two.unwrap());
    let lock = |locks: &LockRuntime| locks.lock("k").wait(DEADLINE).ttl(DEADLINE);
    let waits = async |count: usize| {
        comes_true("it waits", async || {
            server.run::<usize>(&["ZCARD", "{lock:k}:waiters"]) == count
        })
        .await;
    };
    let guard = lock(&one).acquire().await.unwrap();
    let waiter = tokio::spawn(lock(&two).acquire());
    waits(1).await;
    // One that came before it, and whose process is gone.
    let queue = "{lock:k}:waiters";
    let members: Vec<String> = server.run(&["ZRANGE", queue, "0", "0"]);
    let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "*"]);
    let channel = channels
        .iter()
        .find(|channel| members[0].contains(*channel));
    let channel = channel.unwrap().as_str();
    let dead = members[0].replace(channel, &"x".repeat(channel.len()));
    server.run::<()>(&["ZADD", queue, "1", &dead]);
    let gap_began = Instant::now();
    guard.release().await.unwrap();
    // A newcomer does not take it either, though nobody holds it.
    let newcomer = lock(&one).wait(Duration::ZERO).acquire().await;
    let is_free = !server.run::<bool>(&["EXISTS", "lock:k"]);
    assert!(is_free, "no gap was left");
    let error = newcomer.unwrap_err();
    let LockError::Taken { remaining, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(remaining.is_some_and(|left| left <= ms(4_000)), "{error:?}");
    let guard = waiter.await.unwrap().unwrap();
    // The server's clock counts whole milliseconds.
    let waited = gap_began.elapsed();
    assert!(waited >= ms(3_990), "{waited:?}");
    // Within `every` it is handed over as ever.
    let waiter = tokio::spawn(lock(&one).acquire());
    waits(1).await;
    guard.release().await.unwrap();
    assert!(server.run::<bool>(&["EXISTS", "lock:k"]), "a second gap");
    waiter.await.unwrap().unwrap().release().await.unwrap();
    for locks in [one, two] {
        locks.shutdown().await.unwrap();
    }
    server.finish();
}

/// Whoever is the first looks when the gap is over, whatever it wants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_of_each_mode_is_told_when_the_gap_is_over() {
    let server = Server::start();
    let builder = || {
        let builder = LockRuntime::redis(server.url()).foreign_gap(ms(30_000), ms(2_000));
        // Who is not told looks when it is too late.
        builder.heartbeat(2 * DEADLINE)
    };
    let (one, two) = (builder().build().await, builder().build().await);
    let (one, two) = (one.unwrap(), two.unwrap());
    type In = fn(Lock) -> Lock;
    let modes: [(&str, In); 4] = [
        ("alone", |lock| lock),
        ("shared", Lock::shared),
        ("permits", |lock| lock.permits(2)),
        ("shards", |lock| lock.shards(2)),
    ];
    for (key, mode) in modes {
        let lock = |locks: &LockRuntime| locks.lock(key).wait(DEADLINE).ttl(2 * DEADLINE);
        let guard = lock(&one).acquire().await.unwrap();
        let waiter = tokio::spawn(mode(lock(&two)).acquire());
        queued(&server, key, 1).await;
        guard.release().await.unwrap();
        let is_free = !server.run::<bool>(&["EXISTS", &format!("lock:{key}")]);
        assert!(is_free, "no gap was left");
        let guard = waiter.await.unwrap().unwrap();
        guard.release().await.unwrap();
    }
    for locks in [one, two] {
        locks.shutdown().await.unwrap();
    }
    server.finish();
}

#[tokio::test]
async fn a_gap_that_cannot_be_left_is_refused_at_once() {
    let server = Server::start();
    let on = |every, gap| LockRuntime::redis(server.url()).foreign_gap(every, gap);
    for (every, gap) in [
        (ms(100), ms(100)),
        (ms(100), ms(0)),
        (DEADLINE * 10_000, ms(100)),
    ] {
        let error = on(every, gap).build().await.unwrap_err();
        assert!(error.to_string().contains("`foreign_gap`"), "{error}");
    }
    assert!(on(ms(101), ms(100)).build().await.is_ok());
    let elsewhere = LockRuntime::in_memory().foreign_gap(EVERY, GAP);
    let error = elsewhere.build().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error:?}");
}
