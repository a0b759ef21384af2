//! P4: a wake-up connection is cut just before the release.

use super::*;

#[tokio::test]
async fn wake_up_connections_that_are_cut_all_the_time_cost_no_waiter_its_turn() {
    let server = Server::start();
    let mut contest = Contest::new(LONGEST);
    contest.order.may_lose = true;
    let (cuts, round) = (AtomicU64::new(0), AtomicU64::new(0));
    let served = contend(&server, &mut contest, async || {
        if round.fetch_add(1, Ordering::SeqCst).is_multiple_of(8) {
            let cut: u64 = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            cuts.fetch_add(cut, Ordering::SeqCst);
        }
    })
    .await;
    assert!(cuts.into_inner() > 0, "nothing was cut");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[tokio::test]
async fn a_wake_up_connection_cut_just_before_the_release_costs_no_ttl() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let (holding, waiting) = (locks(server.url()).await, locks(proxy.url()).await);
    for _ in 0..5 {
        let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        let waiter = tokio::spawn(waiting.lock("k").wait(ms(60_000)).acquire());
        queued(&server, "k", 1).await;
        proxy.cut();
        let cut = Instant::now();
        holder.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        assert!(cut.elapsed() < ms(1500) + SLACK, "{:?}", cut.elapsed());
        guard.release().await.unwrap();
    }
    let connections = proxy.log().iter().map(|command| command.connection).max();
    assert!(connections >= Some(2), "it was not cut");
    nothing_left(&server).await;
}
