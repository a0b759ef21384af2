//! N1: partition.

use super::*;

#[tokio::test]
async fn a_partition_ends_no_call_later_than_its_deadline_and_heals_within_a_second() {
    let (server, proxy, locks) = start().await;
    let held = locks.lock("held").ttl(ms(3000)).acquire().await.unwrap();
    proxy.partition(Way::Both);

    let started = Instant::now();
    let error = locks
        .lock("free")
        .wait(ms(700))
        .acquire()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < ms(700) + SLACK);
    assert!(
        owner(&server, "free").is_none(),
        "the partition let it through"
    );

    held.lost().await;
    assert!(started.elapsed() < ms(3000) + SLACK);
    let error = held.release().await.unwrap_err();
    assert!(error.is_lost(), "{error}");

    proxy.heal();
    let healed = Instant::now();
    can_be_had(&locks, "free").await;
    assert!(healed.elapsed() < Duration::from_secs(1) + SLACK);
    nothing_left(&server).await;
}

#[tokio::test]
async fn a_lease_is_lost_before_the_server_gives_it_away() {
    let (server, proxy, locks) = start().await;
    // A machine that stands still in the few milliseconds between the two ends shows nothing.
    for _ in 0..10 {
        let guard = locks.lock("k").ttl(ms(1500)).acquire().await.unwrap();
        proxy.partition(Way::Up);
        let believes = async {
            loop {
                let is_owner = owner(&server, "k").is_some();
                assert!(
                    is_owner || !guard.is_held(),
                    "another could have it while the guard said held"
                );
                sleep(ms(2)).await;
            }
        };
        tokio::select! {
            () = guard.lost() => {}
            () = believes => {}
        }
        let was_owner = owner(&server, "k").is_some();
        assert!(!guard.is_held());
        drop(guard);
        free(&server, "k").await;
        if was_owner {
            return;
        }
        proxy.heal();
    }
    panic!("another could have it before the loss was told");
}

#[tokio::test]
async fn a_partition_shorter_than_the_lease_loses_nothing() {
    let (server, proxy, locks) = start().await;
    let guard = locks.lock("k").ttl(ms(20_000)).acquire().await.unwrap();
    proxy.partition(Way::Both);
    sleep(ms(2500)).await;
    assert!(
        remaining(&server, "k").unwrap() < ms(17_600),
        "it was renewed all the same"
    );
    proxy.heal();

    eventually("the lease is renewed", || {
        remaining(&server, "k").unwrap() > ms(18_500)
    })
    .await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    nothing_left(&server).await;
}
