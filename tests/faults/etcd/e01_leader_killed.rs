//! E1: the leader is killed while a lock is held.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_keeps_its_lock_when_the_leader_is_killed() {
    let cluster = Options::default().start(3);
    keeps_its_lock(cluster, async |cluster, leader| {
        cluster.kill(leader);
        assert_ne!(cluster.leader(), leader, "another leads");
    })
    .await;
}
