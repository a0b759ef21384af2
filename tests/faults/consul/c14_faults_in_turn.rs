//! C14: servers die and sessions are destroyed, one after the other, while many want one lock and
//! some give up.

use super::*;

/// Servers are killed and started again, and sessions destroyed, while tasks of several runtimes
/// take a lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_of_consul_no_two_hold_a_lock_and_nothing_stays_behind() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let mut runtimes = Vec::new();
    for _ in 0..3 {
        let locks = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(1));
        let locks = locks.local_passes(0).heartbeat(secs(2)).build().await;
        runtimes.push(locks.unwrap());
    }
    let terms = Terms {
        ttl: secs(4),
        wait: secs(30),
        may_lose: true,
    };
    let turns = Turns::start(runtimes, terms);
    for round in 0..4 {
        let leader = cluster.leader();
        if round % 2 == 0 {
            cluster.kill(leader);
        } else {
            let sessions = cluster.sessions();
            assert!(!sessions.is_empty());
            sessions.iter().for_each(|session| cluster.destroy(session));
        }
        turns.go_on(secs(60)).await;
        if round % 2 == 0 {
            cluster.revive(leader);
            eventually_in(secs(60), "it is back", || cluster.is_ready(leader)).await;
        }
    }
    turns.end().await;
    // What a release without an answer has left ends with its session.
    eventually_in(secs(60), "no session stays", || {
        cluster.sessions().is_empty()
    })
    .await;
}
