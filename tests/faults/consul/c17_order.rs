//! C17: a holder dies, the leader changes and connections break while several wait.

use tokio::sync::mpsc;

use super::*;

/// Waiters of as many runtimes, behind one another. Their agents live on, so their sessions do.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_on_consul_keep_their_order_through_an_expiry_a_new_leader_and_a_reconnect() {
    const WAITERS: usize = 5;
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let others = [1, 2].map(|step| (leader + step) % 3);
    let pipes = others.map(|place| Pipe::to(cluster.port(place)));
    let through: Vec<String> = pipes.iter().map(Pipe::endpoint).collect();
    let url = cluster.endpoint(others[0]).replace("http://", "consul://");
    let mut holder = Process::start(env!("CARGO_BIN_EXE_holder"), &url).await;
    let first = token(&holder.ask("acquire k 3000 20000").await);

    let (granted, mut order) = mpsc::unbounded_channel();
    for waiter in 0..WAITERS {
        let locks = runtime(through.clone()).await;
        let granted = granted.clone();
        tokio::spawn(async move {
            let lock = locks.lock("k").ttl(secs(20)).wait(4 * DEADLINE);
            let guard = lock.acquire().await.unwrap();
            granted.send((waiter, guard)).unwrap();
            // Its runtime lives as long as the guard, which is sent.
            std::future::pending::<()>().await;
        });
        waiters(&cluster, "k", waiter + 1).await;
    }
    let mut last = first;
    for waiter in 0..WAITERS {
        if waiter == 0 {
            // By the expiry of a holder that died.
            holder.kill();
        }
        let next = timeout(DEADLINE, order.recv()).await.unwrap().unwrap();
        let (number, guard) = next;
        assert_eq!(number, waiter, "it went ahead of others");
        let token = u64::from(guard.fencing_token());
        assert!(token > last, "{token} after {last}");
        last = token;
        match waiter {
            1 => {
                cluster.kill(leader);
                assert_ne!(cluster.leader(), leader, "another leads");
            }
            3 => {
                let connections = || pipes.iter().map(Pipe::connections).sum::<u64>();
                let before = connections();
                pipes.iter().for_each(Pipe::cut);
                sleep(ms(100)).await;
                pipes.iter().for_each(Pipe::open);
                eventually("they connect again", || connections() >= before + 2).await;
            }
            _ => {}
        }
        // After a fault the first answer may be lost; then it is asked again.
        let _ = guard.release().await;
    }
}
