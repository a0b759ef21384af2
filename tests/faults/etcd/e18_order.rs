//! E18: a holder dies, the leader changes and connections break while several wait.

use lock_tests::faults::line::{Line, reconnect};

use super::*;

/// Waiters of as many runtimes, behind one another.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_keep_their_order_through_an_expiry_a_new_leader_and_a_reconnect() {
    const WAITERS: usize = 6;
    let mut cluster = Options::default().start(3);
    let pipes: Vec<Pipe> = (0..3).map(|place| Pipe::to(cluster.port(place))).collect();
    let through: Vec<String> = pipes.iter().map(Pipe::endpoint).collect();
    let mut holder = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let mut line = Line::behind(token(&holder.ask("acquire k 3000 20000").await));
    for waiter in 0..WAITERS {
        line.join(runtime(through.clone()).await, secs(8), 2 * DEADLINE);
        eventually("it waits", || cluster.claims().len() == waiter + 2).await;
    }
    for waiter in 0..WAITERS {
        if waiter == 0 {
            // By the expiry of a holder that died.
            holder.kill();
        }
        let guard = line.next(DEADLINE).await;
        match waiter {
            1 => {
                let leader = cluster.leader();
                cluster.kill(leader);
                eventually("another leads", || {
                    (0..3).any(|it| it != leader && cluster.leads(it))
                })
                .await;
            }
            3 => reconnect(&pipes, WAITERS as u64 - 3).await,
            _ => {}
        }
        assert!(guard.is_held());
        // After a fault the first answer may be lost; then it is asked again.
        let _ = guard.release().await;
    }
}
