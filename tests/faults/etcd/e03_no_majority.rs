//! E3: the majority stands still.

use super::*;

/// The only member that is known stands still: nothing is known, and the holder's own clock
/// decides.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_known_and_the_local_deadline_decides() {
    let cluster = Options::default().start(3);
    let locks = runtime(cluster.endpoints()).await;
    let ttl = secs(5);
    let guard = held(&locks, "k", ttl).await;
    let leader = cluster.leader();
    for member in (0..3).filter(|member| *member != leader) {
        cluster.pause(member);
    }
    let cut_at = Instant::now();
    // It was renewed at most a tenth of its ttl before, and a renewal may have been under way.
    while cut_at.elapsed() < ttl * 3 / 10 {
        assert!(guard.is_held(), "the lock was given up too early");
        sleep(ms(5)).await;
    }
    let written = cluster.try_ctl(&["--command-timeout=1s", "put", "x", "x"]);
    assert!(written.is_err(), "there is no majority");
    let other = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(other.is_unavailable(), "{other:?}");
    timeout(DEADLINE, guard.lost()).await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    for member in (0..3).filter(|member| *member != leader) {
        cluster.resume(member);
    }
    let again = held(&locks, "k", ttl).await;
    assert!(again.is_held());
}
