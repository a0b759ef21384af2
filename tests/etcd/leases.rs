//! Leases of etcd that claims share or have left: none is ended by which another claim lives.

use std::time::Duration;

use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released};
use lock_tests::etcd::Cluster;
use lock_tests::etcd_store::{acquire_within, connect};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(60);
/// By when a server that was started again answers.
const DEADLINE: Duration = Duration::from_secs(60);

fn claim(key: &LockKey, owner: &str) -> Claim {
    Claim::new(key.clone(), OwnerToken::new(owner), TTL).queued()
}

#[tokio::test]
async fn a_release_that_is_asked_again_does_not_end_the_lease_of_the_next_claim() {
    let mut cluster = Cluster::start();
    let here = connect(&cluster).await;
    for (name, is_told_again) in [("alone", false), ("together", true)] {
        let key = LockKey::new("lock:", name).unwrap();
        let (holder, next) = (claim(&key, "holder"), claim(&key, "next"));
        acquire_within(DEADLINE, &here, &holder, |it| {
            matches!(it, Acquired::Granted(_))
        })
        .await;
        let (_, lease) = cluster.owner(key.stored()).unwrap();

        // A release that takes the next claim along is lost on its way, with the server.
        cluster.pause(0);
        let release = Release::new(key.clone(), holder.owner.clone());
        let lost = here
            .release(&release.clone().then(Some(next.clone())))
            .await;
        lost.unwrap_err();
        cluster.kill(0);
        cluster.revive(0);
        // So the next claim asks by itself, and waits behind the holder.
        acquire_within(DEADLINE, &here, &next, |it| {
            matches!(it, Acquired::Queued(_))
        })
        .await;
        let contenders = format!("{}/", key.stored());
        let claims = cluster.claims();
        let contend = claims.iter().filter(|it| it.starts_with(&contenders));
        assert_eq!(contend.count(), 2);

        let again = release.then(is_told_again.then(|| next.clone()));
        let released = here.release(&again).await.unwrap();
        assert!(matches!(released, Released::Released(_)), "{released:?}");
        acquire_within(DEADLINE, &here, &next, |it| {
            matches!(it, Acquired::Granted(_))
        })
        .await;
        // It has got the lease of the holder, and keeps it.
        let expected = Some((format!("{}/next", key.stored()), lease));
        for _ in 0..10 {
            assert_eq!(cluster.owner(key.stored()), expected);
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_kept_lease_that_has_ended_is_not_used_for_a_next_claim_twice() {
    let cluster = Cluster::start();
    let here = connect(&cluster).await;
    let [kept, key] = ["kept", "key"].map(|name| LockKey::new("lock:", name).unwrap());
    let (first, next) = (claim(&kept, "first"), claim(&key, "next"));
    let mut holder = claim(&key, "holder");
    // Its lease is too short for the next claim.
    holder.ttl = TTL / 2;
    acquire_within(DEADLINE, &here, &holder, |it| {
        matches!(it, Acquired::Granted(_))
    })
    .await;
    acquire_within(DEADLINE, &here, &first, |it| {
        matches!(it, Acquired::Granted(_))
    })
    .await;
    let (_, lease) = cluster.owner(kept.stored()).unwrap();
    here.release(&Release::new(kept, first.owner))
        .await
        .unwrap();
    cluster.ctl(&["lease", "revoke", &format!("{lease:x}")]);

    let release = Release::new(key, holder.owner).then(Some(next));
    // The control: it was kept, and would be used.
    here.release(&release).await.unwrap_err();
    let released = here.release(&release).await.unwrap();
    let Released::Released(Some(Acquired::Granted(_))) = released else {
        panic!("{released:?}");
    };
}
