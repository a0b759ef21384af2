//! E6: the event of a waiter is compacted while it cannot listen.

use super::*;

fn revision(cluster: &Cluster) -> u64 {
    let fields = cluster.ctl(&["get", "x", "-w=fields"]);
    let line = fields
        .lines()
        .find(|line| line.starts_with("\"Revision\""))
        .unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What a waiter should have heard has been compacted when it can listen again.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_served_although_its_event_was_compacted() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(cluster.endpoints()).await;
    let behind = runtime(vec![pipe.endpoint()]).await;
    let guard = held(&locks, "k", secs(20)).await;
    let waiting = waits(&behind, "k");
    waiters(&cluster, "k", 1).await;
    pipe.cut();
    guard.release().await.unwrap();
    cluster.ctl(&["put", "x", "x"]);
    cluster.ctl(&["compact", &revision(&cluster).to_string()]);
    assert!(!waiting.is_finished());
    pipe.open();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held());
}
