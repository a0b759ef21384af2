//! M12: a lease is on three servers, and others wait.

use super::*;

/// Who waits for a lease on three servers keeps the votes of the other two from nobody, so that the
/// lease can grow to them.
#[tokio::test]
async fn a_claim_that_waits_for_a_majority_leaves_the_other_servers_to_it() {
    let servers = five();
    let all: Vec<_> = servers.iter().collect();
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    for server in &servers[3..] {
        server.run::<()>(&["SET", "lock:k", "foreign", "PX", "60000"]);
    }
    let (holder, waiter) = (claim(LONG), claim(LONG).queued());
    granted(&here, &holder).await;
    for server in &servers[3..] {
        server.run::<()>(&["DEL", "lock:k"]);
    }
    let owner = Some(holder.owner.to_string());
    for _ in 0..5 {
        match there.acquire(&waiter).await.unwrap() {
            // Not soon again, as after a split.
            Acquired::Queued(held) => assert!(held.remaining.unwrap() > LONG / 2, "{held:?}"),
            other => panic!("{other:?}"),
        }
        comes_true("the end of the waiter's votes", async || {
            holders(&all)[3..].iter().all(Option::is_none)
        })
        .await;
        assert!(holders(&all)[..3].iter().all(|vote| *vote == owner));
    }
    let renewal = [Renewal::new(key(), holder.owner.clone(), LONG)];
    here.renew(&renewal).await.remove(0).unwrap();
    comes_true("the growth of the lease", async || {
        holders(&all).iter().all(|vote| *vote == owner)
    })
    .await;
    let release = Release::new(key(), holder.owner.clone());
    assert_eq!(
        here.release(&release).await.unwrap(),
        Released::Released(None)
    );
    comes_true("the turn of the waiter", async || {
        matches!(there.acquire(&waiter).await.unwrap(), Acquired::Granted(_))
    })
    .await;
}
