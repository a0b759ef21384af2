//! M9: three of five are down.

use super::*;

/// Cut off from three servers, a holder keeps its lock until its own deadline, not less, and a
/// claim leaves no vote on the others.
#[tokio::test]
async fn without_a_majority_holders_are_lost_at_their_deadline_and_claims_hold_no_votes() {
    let mut servers = five();
    let locks = runtime(&servers).await;
    let guard = locks.lock("held").ttl(ms(2000)).acquire().await.unwrap();
    for server in &mut servers[..3] {
        server.kill();
    }
    let cut = Instant::now();
    let started = Instant::now();
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(started.elapsed() < DEADLINE);
    let rest: Vec<_> = servers[3..].iter().collect();
    comes_true("the end of the votes", async || {
        holders(&rest).iter().all(Option::is_none)
    })
    .await;
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.lock("k").wait(DEADLINE).acquire().await.map(drop) }
    });
    guard.lost().await;
    // The last renewal before the cut may be up to a tenth of the ttl old, and a quarter more.
    assert!(cut.elapsed() >= ms(1500), "lost after {:?}", cut.elapsed());
    assert!(!waiter.is_finished());
    servers[0].restart();
    waiter.await.unwrap().unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    let _ = locks.shutdown().await;
}

#[tokio::test]
async fn a_renewal_that_a_majority_confirms_is_one() {
    let mut servers = five();
    let backend = connect(&servers).await;
    let holder = claim(LONG);
    granted(&backend, &holder).await;
    let renewal = [Renewal::new(holder.key.clone(), holder.owner.clone(), LONG)];
    for down in 0..4_usize {
        if down > 0 {
            servers[down - 1].kill();
        }
        let answer = backend.renew(&renewal).await.remove(0);
        assert_eq!(answer.is_ok(), down <= 2, "{down} are down: {answer:?}");
    }
}
