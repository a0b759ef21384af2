//! E16: members die and stand still, one after the other, while many want one lock and some give
//! up.

use super::*;

/// Members are killed, started again, stopped and let go on, while tasks of several runtimes take a
/// lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_no_two_hold_a_lock_and_nothing_stays_behind() {
    let mut cluster = Options::default().start(3);
    let mut runtimes = Vec::new();
    for _ in 0..3 {
        let locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(secs(1));
        let locks = locks.local_passes(0).heartbeat(secs(2)).build().await;
        runtimes.push(locks.unwrap());
    }
    let terms = Terms {
        ttl: secs(6),
        wait: secs(20),
        may_lose: false,
    };
    let turns = Turns::start(runtimes, terms);
    for round in 0..6 {
        let (leader, other) = (cluster.leader(), round % 3);
        match round % 3 {
            0 => cluster.kill(leader),
            1 => cluster.pause(leader),
            _ => cluster.kill(other),
        }
        turns.go_on(secs(40)).await;
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
    turns.end().await;
    // What a release without an answer has left ends with its lease.
    eventually_in(secs(40), "nothing stays", || cluster.claims().is_empty()).await;
}
