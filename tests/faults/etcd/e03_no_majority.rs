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

/// How many calls of a method a member has been sent.
fn started(cluster: &Cluster, place: usize, method: &str) -> String {
    let name = format!("grpc_method=\"{method}\"");
    let metrics = cluster.metrics(place);
    let mut lines = metrics.lines();
    let is_it =
        |line: &&str| line.starts_with("grpc_server_started_total{") && line.contains(&name);
    lines.find(is_it).unwrap().to_owned()
}

/// A member without a leader drops what it is asked to write, without a word. So one that did not
/// answer is asked for its leader first, and what was not sent is known not to be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_leader_is_told_nothing_that_it_would_drop() {
    let cluster = Options::default().start(3);
    let live = cluster.leader();
    let backend = backend(&[cluster.endpoints()[live].clone()]).await;
    for member in (0..3).filter(|member| *member != live) {
        cluster.pause(member);
    }
    // The control: the first question is sent, and nothing is known of it.
    let before = started(&cluster, live, "LeaseGrant");
    let error = backend.acquire(&claim("first")).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let first = started(&cluster, live, "LeaseGrant");
    assert_ne!(first, before);
    let error = backend.acquire(&claim("second")).await.unwrap_err();
    let cause = error.into_source().to_string();
    assert!(cause.contains("leader"), "{cause}");
    assert_eq!(started(&cluster, live, "LeaseGrant"), first);
    for member in (0..3).filter(|member| *member != live) {
        cluster.resume(member);
    }
}
