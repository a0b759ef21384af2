//! E2: the leader stands still, and comes back.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_keeps_its_lock_when_the_leader_stands_still() {
    let cluster = Options::default().start(3);
    keeps_its_lock(cluster, async |cluster, leader| {
        cluster.pause(leader);
        assert_ne!(cluster.leader(), leader, "another leads");
        // It comes back, and thinks for a moment that it still leads.
        cluster.resume(leader);
    })
    .await;
}
