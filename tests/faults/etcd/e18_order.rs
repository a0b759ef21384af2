//! E18: a holder dies, the leader changes and connections break while several wait.

use tokio::sync::mpsc;

use super::*;

/// Waiters of as many runtimes, behind one another.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_keep_their_order_through_an_expiry_a_new_leader_and_a_reconnect() {
    const WAITERS: usize = 6;
    let mut cluster = Options::default().start(3);
    let pipes: Vec<Pipe> = (0..3).map(|place| Pipe::to(cluster.port(place))).collect();
    let through: Vec<String> = pipes.iter().map(Pipe::endpoint).collect();
    let mut holder = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&holder.ask("acquire k 3000 20000").await);

    let (granted, mut order) = mpsc::unbounded_channel();
    for waiter in 0..WAITERS {
        let locks = runtime(through.clone()).await;
        let granted = granted.clone();
        tokio::spawn(async move {
            let lock = locks.lock("k").ttl(secs(8)).wait(2 * DEADLINE);
            let guard = lock.acquire().await.unwrap();
            granted.send((waiter, guard)).unwrap();
            // Its runtime lives as long as the guard, which is sent.
            std::future::pending::<()>().await;
        });
        eventually("it waits", || cluster.claims().len() == waiter + 2).await;
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
                let leader = cluster.leader();
                cluster.kill(leader);
                eventually("another leads", || {
                    (0..3).any(|it| it != leader && cluster.leads(it))
                })
                .await;
            }
            3 => {
                let connections = || pipes.iter().map(Pipe::connections).sum::<u64>();
                let before = connections();
                pipes.iter().for_each(Pipe::cut);
                sleep(ms(100)).await;
                pipes.iter().for_each(Pipe::open);
                eventually("they connect again", || {
                    connections() >= before + WAITERS as u64 - 3
                })
                .await;
            }
            _ => {}
        }
        assert!(guard.is_held());
        // After a fault the first answer may be lost; then it is asked again.
        let _ = guard.release().await;
    }
}
