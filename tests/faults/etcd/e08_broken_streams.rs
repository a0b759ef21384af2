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
