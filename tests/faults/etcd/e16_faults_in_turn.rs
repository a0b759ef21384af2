//! E16: members die and stand still, one after the other, while many want one lock and some give
//! up.

use super::*;

async fn eventually_in(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        sleep(ms(20)).await;
    }
}

/// Members are killed, started again, stopped and let go on, while tasks of several runtimes take a
/// lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_no_two_hold_a_lock_and_nothing_stays_behind() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

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
            secs(20)
        };
        let lock = locks.lock("k").ttl(secs(6)).wait(wait);
        let Ok(guard) = lock.acquire().await else {
            seen.given_up.fetch_add(1, SeqCst);
            return;
        };
        assert!(!seen.inside.swap(true, SeqCst), "two hold the lock");
        let token = u64::from(guard.fencing_token());
        let before = seen.token.swap(token, SeqCst);
        assert!(before < token, "{token} was granted after {before}");
        sleep(ms(fastrand::u64(..4))).await;
        assert!(
            guard.is_held(),
            "a section of some milliseconds lost its lock"
        );
        seen.inside.store(false, SeqCst);
        // Its outcome may not be known; then the lock goes on after its ttl.
        let _ = guard.release().await;
        seen.turns.fetch_add(1, SeqCst);
    }

    let mut cluster = Options::default().start(3);
    let seen = Arc::<Seen>::default();
    let mut runtimes = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(secs(1));
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
    for round in 0..6 {
        let turns = seen.turns.load(SeqCst);
        let (leader, other) = (cluster.leader(), round % 3);
        match round % 3 {
            0 => cluster.kill(leader),
            1 => cluster.pause(leader),
            _ => cluster.kill(other),
        }
        let (before, since) = (seen.turns.load(SeqCst), Instant::now());
        assert!(before >= turns);
        eventually_in(secs(40), "locks are taken again", || {
            seen.turns.load(SeqCst) > before + 20
        })
        .await;
        println!("20 turns after a fault took {:?}", since.elapsed());
        match round % 3 {
            0 => cluster.revive(leader),
            1 => cluster.resume(leader),
            _ => cluster.revive(other),
        }
        eventually_in(secs(40), "all members answer", || {
            cluster.try_ctl(&["endpoint", "health"]).is_ok()
        })
        .await;
    }
    seen.is_over.store(true, SeqCst);
    tasks.join_all().await;
    println!("{:?} turns, {:?} given up", seen.turns, seen.given_up);
    assert!(seen.given_up.load(SeqCst) > 0, "some gave up");
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    // What a release without an answer has left ends with its lease.
    eventually_in(secs(40), "nothing stays", || cluster.claims().is_empty()).await;
}
