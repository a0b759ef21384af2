//! S2: the message is lost that hands a key, or a part of it, to the next.

use super::*;

#[tokio::test]
async fn a_hand_over_of_a_part_that_gets_lost_costs_a_heartbeat() {
    let (server, proxy, waiting) = start_patient().await;
    let holding = locks(server.url()).await;
    // A writer before each part, and each part before a writer.
    let turns = Part::ALL.iter().flat_map(|part| {
        let (before, behind) = (format!("before-{part:?}"), format!("behind-{part:?}"));
        [
            (
                holding.lock(&*before),
                part.of(waiting.lock(&*before)),
                before,
            ),
            (
                part.of(holding.lock(&*behind)),
                waiting.lock(&*behind),
                behind,
            ),
        ]
    });
    let (mut held, mut waiters) = (Vec::new(), Vec::new());
    for (holder, waiter, key) in turns {
        // Far beyond the test.
        held.push(holder.ttl(4 * DEADLINE).acquire().await.unwrap());
        waiters.push(tokio::spawn(waiter.acquire()));
        queued(&server, &key, 1).await;
    }
    proxy.fault_times("push", held.len(), Fault::LosePush);
    let released = Instant::now();
    for holder in held {
        holder.release().await.unwrap();
    }
    let mut next = Vec::new();
    for waiter in waiters {
        next.push(waiter.await.unwrap().unwrap());
    }
    let waited = released.elapsed();
    assert_eq!(proxy.faults(), next.len());
    assert!(waited < GRACE + SLACK, "{waited:?}");
    for guard in next {
        guard.release().await.unwrap();
    }
    nothing_left(&server).await;
}
