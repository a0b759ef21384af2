//! E9: the stream of watchers is silent.

use super::*;

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A hand-over is not heard of: a waiter looks by itself, a heartbeat after it last asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_watch_is_silent_is_served_by_its_heartbeat() {
    let cluster = Cluster::start();
    let proxy = Grpc::to(cluster.port(0));
    let locks = runtime(cluster.endpoints()).await;
    let behind = runtime(vec![proxy.endpoint()]).await;
    for is_silent in [false, true] {
        let guard = held(&locks, "k", secs(4)).await;
        let waiting = waits(&behind, "k");
        waiters(&cluster, "k", 1).await;
        eventually("it watches", || proxy.seen(WATCH).calls > 0).await;
        if is_silent {
            proxy.silence(WATCH);
        }
        let heard = proxy.seen(WATCH);
        guard.release().await.unwrap();
        let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(next.is_held());
        let seen = proxy.seen(WATCH);
        if is_silent {
            assert!(seen.swallowed > heard.swallowed, "its event was swallowed");
            assert_eq!(seen.passed, heard.passed, "it heard nothing");
        } else {
            assert!(seen.passed > 0, "the control: it heard");
        }
        next.release().await.unwrap();
    }
}
