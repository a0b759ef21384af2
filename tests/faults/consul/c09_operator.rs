//! C9: the key of the lock is deleted, or overwritten.

use super::*;

/// The locks are advisory: whoever may write the key ends the lock, which its holder is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_deleted_or_overwritten_is_lost_and_tokens_grow() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    for is_deleted in [true, false] {
        let guard = held(&locks, "k", secs(4)).await;
        let first = u64::from(guard.fencing_token());
        let waiting = waits(&other, "k");
        waiters(&cluster, "k", 1).await;
        if is_deleted {
            cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
        } else {
            // The session still has it locked, for nobody.
            cluster.ask("PUT", "/v1/kv/lock:k/.lock", "mine");
            assert!(cluster.owner("lock:k").is_some());
        }
        timeout(DEADLINE, guard.lost()).await.unwrap();
        drop(guard);
        let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(u64::from(next.fencing_token()) > first);
        next.release().await.unwrap();
    }
}

/// What became of a lock is told, as far as Consul knows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_lost_on_consul_is_told_with_the_reason() {
    let cluster = Cluster::start();
    let (here, there) = (
        backend(&cluster.endpoints()).await,
        backend(&cluster.endpoints()).await,
    );
    type Fault = fn(&Cluster, &str);
    let faults: [(&str, Fault, bool, LostReason); 4] = [
        ("deleted", delete, false, LostReason::Deleted),
        ("ended", end_session, false, LostReason::Deleted),
        ("taken", delete, true, LostReason::TakenOver),
        ("overwritten", overwrite, false, LostReason::TakenOver),
    ];
    for (name, fault, is_taken, reason) in faults {
        let holder = claim(name);
        granted(&here, &holder).await;
        fault(&cluster, name);
        if is_taken {
            granted(&there, &claim(name)).await;
        }
        let renewal = Renewal::new(holder.key, holder.owner, holder.ttl);
        let answers = here.renew(&[renewal]).await;
        assert!(
            matches!(&answers[0], Ok(Renewed::Lost(told)) if *told == reason),
            "{name}: {answers:?}"
        );
    }
}

fn delete(cluster: &Cluster, name: &str) {
    cluster.ask("DELETE", &format!("/v1/kv/lock:{name}/.lock"), "");
}

fn overwrite(cluster: &Cluster, name: &str) {
    cluster.ask("PUT", &format!("/v1/kv/lock:{name}/.lock"), "mine");
}

fn end_session(cluster: &Cluster, name: &str) {
    let (session, _) = cluster.owner(&format!("lock:{name}")).unwrap();
    cluster.destroy(&session);
}

/// An operator deletes the key of a waiter: when that waits anew, what says that somebody waits has
/// changed, so that nobody deletes it who has seen nobody wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_key_is_deleted_is_seen_to_wait_anew() {
    let cluster = Cluster::start();
    let backend = backend(&cluster.endpoints()).await;
    granted(&backend, &claim("k")).await;
    let waiter = claim("k").queued();
    queued(&backend, &waiter).await;
    let before = cluster.index("lock:k/.queue");
    assert!(before > 0);
    cluster.ask("DELETE", "/v1/kv/lock:k/.queue/?recurse", "");
    assert!(cluster.waiting_sessions("lock:k").is_empty());
    assert_eq!(cluster.index("lock:k/.queue"), before);
    queued(&backend, &waiter).await;
    assert!(cluster.index("lock:k/.queue") > before);
}
