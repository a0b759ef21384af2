//! C11: a release has no answer.

use super::*;

/// A release has no answer, and then its process ends: the session is not ended before the lock is
/// free, so the next one has it without the delay.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_answer_costs_no_delay() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(vec![pipe.endpoint()]).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(60)).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    pipe.hold();
    let releasing = tokio::spawn(guard.release());
    eventually("the release is on its way", || pipe.held() > 100).await;
    // Longer than anybody waits for the answer.
    sleep(secs(2)).await;
    assert!(!waiting.is_finished());
    assert!(cluster.sessions().contains(&session), "it was not ended");
    let opened = Instant::now();
    pipe.open();
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(opened.elapsed() < secs(60), "there was no delay");
    let _ = releasing.await.unwrap();
    next.release().await.unwrap();
}
