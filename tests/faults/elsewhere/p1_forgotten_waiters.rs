//! P1: waiters are forgotten under contention.

use super::*;

#[tokio::test]
async fn no_waiter_is_forgotten_under_contention() {
    let server = Server::start();
    let served = contend(&server, &mut Contest::new(LONGEST), async || ()).await;
    assert_eq!(served.len(), PROCESSES * TASKS);
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[tokio::test]
async fn processes_that_share_no_server_are_seen_to_hold_at_once() {
    // Whether their turns meet is chance, on a machine with one core most of all.
    for _ in 0..10 {
        let mut contest = Contest::new(LONGEST);
        contest.order.lasts = ms(500);
        let servers = [(); PROCESSES].map(|()| Server::start());
        for server in &servers {
            contest.join(server).await;
        }
        contest.run(async || ()).await;
        if contest.report().count(Check::DisjointLeases) > 0 {
            return;
        }
    }
    panic!("nobody saw that they held at once");
}
