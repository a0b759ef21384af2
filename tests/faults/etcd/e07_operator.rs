//! E7: an operator deletes a key, or revokes a lease.

use super::*;

/// An operator deletes the key of the holder, or revokes its lease.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_ends_is_lost_and_the_next_is_served() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    for by_lease in [false, true] {
        let guard = held(&locks, "k", secs(4)).await;
        let first = u64::from(guard.fencing_token());
        let waiting = waits(&other, "k");
        waiters(&cluster, "k", 1).await;
        let (owner, lease) = cluster.owner("lock:k").unwrap();
        let lease = format!("{lease:x}");
        if by_lease {
            cluster.ctl(&["lease", "revoke", &lease]);
        } else {
            assert_eq!(cluster.ctl(&["del", &owner]).trim(), "1");
            // To keep the lease alive proves nothing: it lives.
            let alive = cluster.ctl(&["lease", "keep-alive", "--once", &lease]);
            assert!(alive.contains("keepalived with TTL"), "{alive}");
        }
        timeout(DEADLINE, guard.lost()).await.unwrap();
        let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(u64::from(next.fencing_token()) > first);
        next.release().await.unwrap();
    }
}

/// An operator deletes the key of one who waits: it waits again, behind the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_key_is_deleted_is_queued_anew() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let (one, two) = (
        runtime(cluster.endpoints()).await,
        runtime(cluster.endpoints()).await,
    );
    let guard = held(&locks, "k", secs(10)).await;
    let first = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    let (owner, _) = cluster.owner("lock:k").unwrap();
    let waiter = cluster
        .claims()
        .into_iter()
        .find(|claim| *claim != owner)
        .unwrap();
    let second = waits(&two, "k");
    waiters(&cluster, "k", 2).await;
    assert_eq!(cluster.ctl(&["del", &waiter]).trim(), "1");
    // Whoever asks hears of it: at the latest at its heartbeat.
    waiters(&cluster, "k", 2).await;
    guard.release().await.unwrap();
    let second = timeout(DEADLINE, second).await.unwrap().unwrap();
    assert!(!first.is_finished(), "it was behind the other");
    second.release().await.unwrap();
    assert!(timeout(DEADLINE, first).await.unwrap().unwrap().is_held());
}

/// Whether a holder notices that its key was deleted by hand, although its lock is another's by
/// then.
#[cfg(lock_mistakes)]
async fn notices_a_deleted_key(mistake: Option<lock_etcd::Mistake>) -> bool {
    let cluster = Cluster::start();
    let mut settings = settings(&cluster.endpoints());
    settings.mistake = mistake;
    let careless = LockRuntime::backend(EtcdBackend::connect(settings).await.unwrap());
    let careless = careless.build().await.unwrap();
    let ttl = secs(4);
    let guard = held(&careless, "k", ttl).await;
    let (owner, _) = cluster.owner("lock:k").unwrap();
    assert_eq!(cluster.ctl(&["del", &owner]).trim(), "1");
    let next = held(&runtime(cluster.endpoints()).await, "k", secs(60)).await;
    let noticed = timeout(ttl * 2, guard.lost()).await.is_ok();
    assert!(next.is_held());
    noticed
}

/// The control: what a renewal has to read the key for.
#[cfg(lock_mistakes)]
#[tokio::test(flavor = "multi_thread")]
async fn control_a_renewal_by_the_lease_alone_overlooks_a_deleted_key() {
    assert!(notices_a_deleted_key(None).await);
    let mistake = Some(lock_etcd::Mistake::RenewsByTheLeaseAlone);
    assert!(!notices_a_deleted_key(mistake).await);
}
