//! E8: all connections break, and with them the streams.

use super::*;

/// All connections break, those of the streams as well.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_are_opened_again_and_nothing_is_lost() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(vec![pipe.endpoint()]).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(5)).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    for _ in 0..3 {
        let connections = pipe.connections();
        pipe.cut();
        sleep(ms(100)).await;
        pipe.open();
        eventually("it connects again", || pipe.connections() > connections).await;
        sleep(secs(2)).await;
        assert!(guard.is_held() && !waiting.is_finished());
    }
    guard.release().await.unwrap();
    assert!(timeout(DEADLINE, waiting).await.unwrap().unwrap().is_held());
}

/// The stream of renewals alone, again and again, for longer than the lease would last.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_go_on_by_a_new_stream_where_the_old_one_is_cut() {
    const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    const TXN: &str = "/etcdserverpb.KV/Txn";
    let cluster = Cluster::start();
    let proxy = Grpc::to(cluster.port(0));
    let locks = runtime(vec![proxy.endpoint()]).await;
    let ttl = secs(4);
    let guard = held(&locks, "k", ttl).await;
    let began = Instant::now();
    let mut cuts = 0;
    while began.elapsed() < ttl * 3 / 2 {
        // The next renewal opens it again.
        let opened = || {
            let seen = proxy.seen(KEEP_ALIVE);
            seen.calls > seen.cut && seen.passed > cuts
        };
        eventually("there is a stream of renewals", opened).await;
        let (before, passed) = (proxy.seen(TXN), proxy.seen(KEEP_ALIVE).passed);
        proxy.cut(KEEP_ALIVE);
        eventually("it is cut", || proxy.seen(KEEP_ALIVE).cut > cuts).await;
        cuts = proxy.seen(KEEP_ALIVE).cut;
        eventually("a lease was renewed since", || {
            proxy.seen(KEEP_ALIVE).passed > passed && proxy.seen(TXN).passed > before.passed
        })
        .await;
        assert!(guard.is_held(), "the lock was lost after {cuts} cuts");
    }
    assert_eq!(proxy.seen(TXN).cut, 0, "the calls beside it pass");
    guard.release().await.unwrap();
}
