//! E19: a holder and a waiter are killed: what it costs the others.

use lock_tests::faults::SLACK;

use super::*;

/// The table of stores: a holder that is killed costs its ttl, rounded up, and what the server
/// takes to look.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_on_etcd_costs_what_the_runtime_says() {
    let cluster = Cluster::start();
    let mut holder = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let locks = runtime(cluster.endpoints()).await;
    let ttl = ms(2_500);
    token(&holder.ask("acquire k 2500 20000").await);
    let killed = Instant::now();
    holder.kill();
    let guard = locks.lock("k").ttl(ttl).wait(DEADLINE).acquire().await;
    let (took, says) = (killed.elapsed(), locks.takeover_after(ttl));
    assert!(guard.unwrap().is_held());
    assert!(says >= secs(3), "{says:?}: whole seconds");
    assert!(took < says + SLACK, "it took {took:?}, and not {says:?}");
}

/// A waiter that is killed costs the others nothing if its lease ends before its turn, and else
/// what is left of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_waiter_on_etcd_costs_nothing_once_its_ttl_is_over() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let ttl = secs(3);
    for is_over in [true, false] {
        let lock = locks.lock("k").ttl(secs(20));
        let guard = lock.wait(DEADLINE).acquire().await.unwrap();
        let mut waiter = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
        waiter.tell("acquire k 3000 60000").await;
        eventually("it waits", || cluster.claims().len() == 2).await;
        let behind = runtime(cluster.endpoints()).await;
        let waiting = tokio::spawn(async move {
            let lock = behind.lock("k").ttl(secs(20)).wait(DEADLINE);
            lock.acquire().await.unwrap().release().await
        });
        eventually("another waits behind it", || cluster.claims().len() == 3).await;
        waiter.kill();
        let killed = Instant::now();
        if is_over {
            eventually("its claim has gone", || cluster.claims().len() == 2).await;
        }
        let released = Instant::now();
        guard.release().await.unwrap();
        timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
        if is_over {
            let took = released.elapsed();
            assert!(took < ttl, "it took {took:?} once the dead had gone");
        } else {
            let (took, says) = (killed.elapsed(), locks.takeover_after(ttl));
            assert!(took < says + SLACK, "it took {took:?}, and not {says:?}");
        }
    }
}
