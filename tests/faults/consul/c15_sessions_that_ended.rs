//! C15: a session has ended by which a claim waits, releases or is to have the lock next.

use super::*;

/// The session of a waiter ends. Consul keeps its key from everybody for a ttl; the waiter is
/// queued anew all the same, as soon as it asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_session_ended_is_queued_anew_at_once() {
    let cluster = Cluster::start();
    let (here, there) = (
        backend(&cluster.endpoints()).await,
        backend(&cluster.endpoints()).await,
    );
    let holder = claim("k");
    granted(&here, &holder).await;
    let waiter = claim("k").queued();
    queued(&there, &waiter).await;
    let first = cluster.waiting_sessions("lock:k");
    assert_eq!(first.len(), 1);
    cluster.destroy(&first[0]);
    assert!(cluster.waiting_sessions("lock:k").is_empty());
    queued(&there, &waiter).await;
    let second = cluster.waiting_sessions("lock:k");
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);

    // It is served, and nothing is left of either place.
    let release = Release::new(holder.key, holder.owner);
    here.release(&release).await.unwrap();
    granted(&there, &waiter).await;
    let release = Release::new(waiter.key, waiter.owner);
    there.release(&release).await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// The session of a holder ends, whose process has a next claim for the lock: the release says that
/// it is not held any more, whether others wait or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_after_the_session_ended_says_so_at_once() {
    let cluster = Cluster::start();
    let (here, there) = (
        backend(&cluster.endpoints()).await,
        backend(&cluster.endpoints()).await,
    );
    for others_wait in [false, true] {
        let name = format!("k{others_wait}");
        let holder = claim(&name);
        granted(&here, &holder).await;
        if others_wait {
            queued(&there, &claim(&name).queued()).await;
        }
        let (session, _) = cluster.owner(&format!("lock:{name}")).unwrap();
        cluster.destroy(&session);
        let mut release = Release::new(holder.key, holder.owner);
        release.next = Some(claim(&name).queued());
        let answer = here.release(&release).await.unwrap();
        assert_eq!(answer, Released::NotHeld);
    }
}

/// The session ends that was kept for the next claim: that gets another, and the lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_next_claim_whose_session_ended_gets_another() {
    let cluster = Cluster::start();
    let backend = backend(&cluster.endpoints()).await;
    for others_wait in [false, true] {
        let name = format!("k{others_wait}");
        let holder = claim(&name);
        granted(&backend, &holder).await;
        if others_wait {
            queued(&backend, &claim(&name).queued()).await;
        }
        // Of another ttl, so that its session is not that of the holder.
        let mut next = claim(&name).queued();
        next.ttl = secs(10);
        let mut before = claim("before");
        before.ttl = next.ttl;
        granted(&backend, &before).await;
        let (session, _) = cluster.owner("lock:before").unwrap();
        let release = Release::new(before.key, before.owner);
        backend.release(&release).await.unwrap();
        cluster.destroy(&session);
        let mut release = Release::new(holder.key, holder.owner);
        release.next = Some(next);
        match backend.release(&release).await.unwrap() {
            Released::Released(Some(Acquired::Granted(_))) => assert!(!others_wait),
            Released::Released(Some(Acquired::Queued(_))) => assert!(others_wait),
            other => panic!("{other:?}"),
        }
    }
}
