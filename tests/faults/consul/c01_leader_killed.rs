//! C1: the leader is killed while a lock is held, and after its holder died.

use super::*;

/// The leader dies. The holder keeps its lock, and nobody else gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_keeps_its_lock_when_the_leader_is_killed() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    // The session must not hang on the node that dies.
    let ttl = secs(20);
    let leader = cluster.leader();
    let elsewhere = cluster.endpoint((leader + 1) % 3);
    let first = runtime(vec![elsewhere, cluster.endpoint((leader + 2) % 3)]).await;
    let guard = held(&first, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    cluster.kill(leader);
    assert_ne!(cluster.leader(), leader, "another leads");
    // Longer than what was believed when it happened.
    let end = Instant::now() + ttl + secs(2);
    while Instant::now() < end {
        assert!(guard.is_held(), "the holder has lost its lock");
        assert!(!waiting.is_finished(), "two hold the lock");
        sleep(ms(10)).await;
    }
    let token = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    // The other's session may have been of the node that died, so it is queued anew.
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > token);
    next.release().await.unwrap();
    drop(locks);
}

/// After the leader died, locks are to be had about as soon as anything else can be written.
#[tokio::test(flavor = "multi_thread")]
async fn locks_are_to_be_had_when_a_bare_client_can_write_again() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let others = [1, 2].map(|step| (leader + step) % 3);
    let locks = runtime(others.map(|place| cluster.endpoint(place)).to_vec()).await;
    held(&locks, "before", secs(4))
        .await
        .release()
        .await
        .unwrap();
    cluster.kill(leader);
    let killed = Instant::now();
    let cluster = Arc::new(cluster);
    let bare = tokio::task::spawn_blocking({
        let cluster = Arc::clone(&cluster);
        move || {
            let written = |place| cluster.ask_of(place, "PUT", "/v1/kv/x", "x");
            while !others
                .iter()
                .any(|place| matches!(written(*place), Ok((200, _))))
            {
                std::thread::sleep(ms(20));
            }
            killed.elapsed()
        }
    });
    held(&locks, "k", secs(4)).await.release().await.unwrap();
    let ours = killed.elapsed();
    let bare = timeout(DEADLINE, bare).await.unwrap().unwrap();
    println!("a bare client writes after {bare:?}, a lock is had and released after {ours:?}");
    // A question that waits for a leader is given up after a second, and asked again after another.
    assert!(
        ours <= bare * 3 / 2 + secs(2),
        "{ours:?}, where {bare:?} would do"
    );
}

/// The leader dies within the life of a dead holder's session: that begins anew, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holder_is_followed_although_the_leader_changes() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let urls = [1, 2].map(|step| cluster.endpoint((leader + step) % 3));
    let url = urls[0].replace("http://", "consul://");
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &url).await;
    let ttl = secs(4);
    let first = token(&process.ask("acquire k 4000 20000").await);
    let locks = runtime(urls.to_vec()).await;
    let waiting = waits(&locks, "k");
    waiters(&cluster, "k", 1).await;
    process.kill();
    let died = Instant::now();
    cluster.kill(leader);
    assert_ne!(cluster.leader(), leader, "another leads");
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(died.elapsed() >= 2 * ttl, "its session and its delay");
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
}
