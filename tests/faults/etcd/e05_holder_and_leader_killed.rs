//! E5: the leader is killed within the ttl of a dead holder.

use super::*;

/// Every lease has its whole ttl again when the leader changes, and no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holder_is_followed_although_the_leader_changes() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let ttl = secs(5);
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 5000 20000").await);
    let locks = runtime(cluster.endpoints()).await;
    let waiting = waits(&locks, "k");
    waiters(&cluster, "k", 1).await;
    process.kill();
    let died = Instant::now();
    sleep(ttl * 6 / 10).await;
    let leader = cluster.leader();
    cluster.kill(leader);
    let changed = died.elapsed();
    assert_ne!(cluster.leader(), leader, "another leads");
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(
        died.elapsed() > changed + ttl * 6 / 10,
        "the lease began anew"
    );
    assert!(u64::from(next.fencing_token()) > first);
}
