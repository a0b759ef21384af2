//! C14: servers die and sessions are destroyed, one after the other, while many want one lock and
//! some give up.

use super::*;

async fn eventually_in(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        sleep(ms(20)).await;
    }
}

/// Servers are killed and started again, and sessions destroyed, while tasks of several runtimes
/// take a lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_of_consul_no_two_hold_a_lock_and_nothing_stays_behind() {
    #[derive(Default)]
    struct Seen {
        inside: AtomicBool,
        token: AtomicU64,
        turns: AtomicU64,
        given_up: AtomicU64,
        is_over: AtomicBool,
    }

    async fn turn(locks: &LockRuntime, seen: &Seen) {
        let wait = if fastrand::u8(..4) == 0 {
            ms(5)
        } else {
            secs(30)
        };
        let lock = locks.lock("k").ttl(secs(4)).wait(wait);
        let Ok(guard) = lock.acquire().await else {
            seen.given_up.fetch_add(1, SeqCst);
            return;
        };
        assert!(!seen.inside.swap(true, SeqCst), "two hold the lock");
        let token = u64::from(guard.fencing_token());
        let before = seen.token.swap(token, SeqCst);
        assert!(before < token, "{token} was granted after {before}");
        sleep(ms(fastrand::u64(..4))).await;
        seen.inside.store(false, SeqCst);
        // Its outcome may not be known; then the lock goes on after its delay.
        let _ = guard.release().await;
        seen.turns.fetch_add(1, SeqCst);
    }

    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let seen = Arc::<Seen>::default();
    let mut runtimes = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let locks = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(1));
        let locks = locks
            .local_passes(0)
            .heartbeat(secs(2))
            .build()
            .await
            .unwrap();
        for _ in 0..4 {
            let (locks, seen) = (locks.clone(), Arc::clone(&seen));
            tasks.spawn(async move {
                while !seen.is_over.load(SeqCst) {
                    turn(&locks, &seen).await;
                }
            });
        }
        runtimes.push(locks);
    }
    for round in 0..4 {
        let leader = cluster.leader();
        if round % 2 == 0 {
            cluster.kill(leader);
        } else {
            let sessions = cluster.sessions();
            assert!(!sessions.is_empty());
            sessions.iter().for_each(|session| cluster.destroy(session));
        }
        let (before, since) = (seen.turns.load(SeqCst), Instant::now());
        eventually_in(secs(60), "locks are taken again", || {
            seen.turns.load(SeqCst) > before + 20
        })
        .await;
        println!("20 turns after a fault took {:?}", since.elapsed());
        if round % 2 == 0 {
            cluster.revive(leader);
            eventually_in(secs(60), "it is back", || cluster.is_ready(leader)).await;
        }
    }
    seen.is_over.store(true, SeqCst);
    tasks.join_all().await;
    println!("{:?} turns, {:?} given up", seen.turns, seen.given_up);
    assert!(seen.given_up.load(SeqCst) > 0, "some gave up");
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    // What a release without an answer has left ends with its session.
    eventually_in(secs(60), "no session stays", || {
        cluster.sessions().is_empty()
    })
    .await;
}
