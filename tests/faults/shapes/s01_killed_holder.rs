//! S1: `kill -9` of a process that has a part of a key.

use super::*;

/// Kills a process that has `part`, beside another that goes on to renew its own. Whoever waits for
/// the dead one has it when its lease ends.
async fn killed(server: &Server, part: Part) {
    let key = part.key();
    let mut process = Process::start(HOLDER, &server.url()).await;
    let acquire = format!("acquire {key} 3000 30000 {}", part.word());
    token(&process.ask(&acquire).await);
    let before = ends(server, &key);
    let (living, waiting) = (locks(server.url()).await, locks(server.url()).await);
    let alive = part.of(living.lock(&*key).renew(ms(100)));
    let alive = alive.acquire().await.unwrap();
    let wanted = match part {
        Part::Reader => waiting.lock(&*key),
        part => part.of(waiting.lock(&*key)),
    };
    let waiter = tokio::spawn(wanted.acquire());
    queued(server, &key, 1).await;
    process.kill();
    let killed = Instant::now();
    let all = ends(server, &key);
    let dead = before.keys().next().expect("it holds a lease");
    let end = all.get(dead).copied().expect("it holds one still");
    let left = Duration::from_millis(end.saturating_sub(clock(server)));
    assert!(all.len() == 2 && !left.is_zero() && !waiter.is_finished());

    // The renewals of the living lengthen nothing of the dead one's.
    let own = |all: &HashMap<String, u64>| {
        let mut own = all.iter().filter(|(lease, _)| *lease != dead);
        own.next().map(|(_, end)| *end)
    };
    eventually("the living is renewed", || {
        own(&ends(server, &key)) > own(&all)
    })
    .await;
    let after = ends(server, &key).get(dead).copied();
    assert!(after.is_none_or(|after| after == end), "{after:?}, {end}");

    let next = if part == Part::Reader {
        // A writer waits for the living as well.
        alive.release().await.unwrap();
        waiter.await.unwrap().unwrap()
    } else {
        let next = waiter.await.unwrap().unwrap();
        assert!(alive.is_held());
        assert!(part != Part::Shard || next.shard() != alive.shard());
        alive.release().await.unwrap();
        next
    };
    let waited = killed.elapsed();
    assert!(waited <= left + SLACK, "{waited:?} of {left:?}");
    assert!(clock(server) >= end, "it was served before the lease ended");
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_killed_holder_of_a_part_costs_what_was_left_of_its_lease() {
    let _alone = alone().await;
    let server = Server::start();
    tokio::join!(
        killed(&server, Part::Reader),
        killed(&server, Part::Permit),
        killed(&server, Part::Shard),
    );
    nothing_left(&server).await;
}
