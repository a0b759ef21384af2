//! C17: a holder dies, the leader changes and connections break while several wait.

use lock_tests::faults::line::{Line, reconnect};

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
    let mut line = Line::behind(token(&holder.ask("acquire k 3000 20000").await));
    for waiter in 0..WAITERS {
        line.join(runtime(through.clone()).await, secs(20), 4 * DEADLINE);
        waiters(&cluster, "k", waiter + 1).await;
    }
    for waiter in 0..WAITERS {
        if waiter == 0 {
            // By the expiry of a holder that died.
            holder.kill();
        }
        let guard = line.next(DEADLINE).await;
        match waiter {
            1 => {
                cluster.kill(leader);
                assert_ne!(cluster.leader(), leader, "another leads");
            }
            3 => reconnect(&pipes, 2).await,
            _ => {}
        }
        // After a fault the first answer may be lost; then it is asked again.
        let _ = guard.release().await;
    }
}
