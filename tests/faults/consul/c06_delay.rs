//! C6: a lock is asked for within its delay.

use super::*;

/// Whoever asks within the delay is told that the lock is taken; whoever waits has it soon after.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_its_delay_is_taken_and_had_soon_afterwards() {
    let cluster = Cluster::start();
    let (here, there) = (
        backend(&cluster.endpoints()).await,
        backend(&cluster.endpoints()).await,
    );
    let mut holder = claim("k");
    holder.ttl = secs(3);
    granted(&here, &holder).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let destroyed = Instant::now();
    cluster.destroy(&session);
    let answer = there.acquire(&claim("k")).await.unwrap();
    assert!(matches!(answer, Acquired::Taken(_)), "{answer:?}");
    let waiter = claim("k").queued();
    let answer = there.acquire(&waiter).await.unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
    let lost = here
        .renew(&[Renewal::new(holder.key, holder.owner, holder.ttl)])
        .await;
    assert!(matches!(lost[0], Ok(Renewed::Lost(_))), "{lost:?}");

    // The same by news alone, as a runtime waits.
    let locks = LockRuntime::backend(there).heartbeat(10 * DEADLINE);
    let locks = locks.command_timeout(secs(2)).build().await.unwrap();
    here.abandon(&waiter).await.unwrap();
    let waiting = waits(&locks, "k");
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(
        began >= destroyed + secs(3),
        "nobody has it before the delay is over"
    );
    assert!(next.is_held());
}
