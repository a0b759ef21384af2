//! C7: the majority stands still; a plain read is answered all the same.

use super::*;

/// The others stand still: what is answered without them is not believed, and the local deadline
/// decides.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_believed_and_the_local_deadline_decides() {
    let cluster = Options::default().start(3);
    let leader = cluster.leader();
    let locks = runtime(vec![cluster.endpoint(leader)]).await;
    let ttl = secs(8);
    let guard = held(&locks, "k", ttl).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    others.iter().for_each(|place| cluster.pause(*place));
    let cut_at = Instant::now();
    let stale = cluster
        .ask_of(leader, "GET", "/v1/kv/lock:k/.lock", "")
        .unwrap();
    assert_eq!(stale.0, 200, "a plain read is answered all the same");
    // It was renewed at most a tenth of its ttl before, and a renewal may have been under way.
    while cut_at.elapsed() < ttl * 3 / 10 {
        assert!(guard.is_held(), "the lock was given up too early");
        sleep(ms(5)).await;
    }
    let other = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(other.is_unavailable(), "{other:?}");
    timeout(DEADLINE, guard.lost()).await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    others.iter().for_each(|place| cluster.resume(*place));
    let again = held(&locks, "k", ttl).await;
    assert!(again.is_held());
}
