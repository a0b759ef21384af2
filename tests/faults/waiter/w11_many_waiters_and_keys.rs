//! W11: 10,000 waiters, many keys.

use super::*;

#[tokio::test]
async fn ten_thousand_waiters_are_served_in_order_and_no_script_takes_long() {
    let _alone = alone().await;
    const CLAIMS: usize = 10_000;
    let server = Server::start();
    let backend = Arc::new(connect(&server).await);
    let inbox = Inbox::of(&backend);
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claims = Vec::new();
    for _ in 0..CLAIMS {
        let mut claim = Claim::new(key.clone(), OwnerToken::unique("w"), ms(600_000)).queued();
        claim.heartbeat = ms(600_000);
        claim.grace = ms(600_000);
        claims.push(claim);
    }
    // The verbs take effect in the order of their first polls.
    for batch in claims.chunks(500) {
        let mut asking = tokio::task::JoinSet::new();
        for claim in batch {
            let (backend, claim) = (Arc::clone(&backend), claim.clone());
            asking.spawn(async move { backend.acquire(&claim).await.unwrap() });
        }
        asking.join_all().await;
    }
    assert_eq!(waiters(&server, "k"), CLAIMS - 1);

    let mut last = None;
    let mut least = f64::INFINITY;
    for (place, pair) in claims[..501].windows(2).enumerate() {
        // A server that stands still in the middle of a script has worked in most of the others.
        if place % 50 == 0 {
            server.run::<()>(&["CONFIG", "RESETSTAT"]);
        }
        let release = Release::new(key.clone(), pair[0].owner.clone());
        let released = backend.release(&release).await.unwrap();
        assert_eq!(released, Released::Released(None));
        let Told::Granted { grant, .. } = timeout(DEADLINE, inbox.changed(&pair[1]))
            .await
            .expect("out of order")
        else {
            panic!("no grant");
        };
        assert!(last < Some(grant.tokens.first));
        last = Some(grant.tokens.last);
        if place % 50 == 49 {
            let micros = statistic(&server, "evalsha", "usec_per_call").unwrap();
            least = micros.min(least);
        }
    }
    assert!(least < 1000.0, "a script takes {least} µs");
}

#[tokio::test]
async fn many_keys_are_held_at_once() {
    let _alone = alone().await;
    let keys: usize = std::env::var("FAULT_KEYS").map_or(5_000, |text| text.parse().unwrap());
    let server = Server::start();
    let locks = builder(server.url())
        .command_timeout(DEADLINE)
        .default_ttl(ms(600_000))
        .build()
        .await
        .unwrap();
    let mut acquiring = tokio::task::JoinSet::new();
    for number in 0..keys {
        acquiring.spawn(locks.lock(format!("k{number}")).wait(ms(60_000)).acquire());
    }
    let guards: Vec<_> = acquiring
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let owners: HashSet<_> = guards
        .iter()
        .map(|guard| guard.owner_token().clone())
        .collect();
    assert_eq!(owners.len(), keys);
    drop(guards);
    eventually("all are free", || {
        server.run::<Vec<String>>(&["KEYS", "lock:*"]).is_empty()
    })
    .await;
}
