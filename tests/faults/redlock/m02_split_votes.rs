//! M2: votes are split 2/2/1.

use super::*;

/// Votes that are split before anybody asks are resolved by those who ask, without a ttl running
/// out: each of three claims holds a minority, as the keys of the servers show.
#[tokio::test]
async fn split_votes_are_resolved_long_before_a_ttl() {
    let servers = five();
    for round in 0..20_usize {
        let mut backends = Vec::new();
        for _ in 0..3 {
            backends.push(Arc::new(connect(&servers).await));
        }
        let claims: Vec<_> = (0..3).map(|_| claim(LONG).queued()).collect();
        // 2/2/1, in turns.
        for (node, server) in servers.iter().enumerate() {
            let owner = claims[(node / 2 + round) % 3].owner.to_string();
            server.run::<()>(&["SET", "lock:k", &owner, "PX", "60000"]);
        }
        let started = Instant::now();
        let mut turns = JoinSet::new();
        let all: Vec<_> = servers.iter().collect();
        let mut split = holders(&all);
        split.sort_unstable();
        split.dedup();
        assert_eq!(split.len(), 3, "the votes are not split");
        for (backend, claim) in backends.into_iter().zip(claims) {
            turns.spawn(async move {
                loop {
                    match backend.acquire(&claim).await.unwrap() {
                        Acquired::Granted(grant) => {
                            let release = Release::new(claim.key.clone(), claim.owner.clone());
                            let released = backend.release(&release).await.unwrap();
                            assert_eq!(released, Released::Released(None));
                            return grant.tokens;
                        }
                        Acquired::Queued(holder) => {
                            sleep(holder.remaining.unwrap().min(ms(20))).await;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        let mut tokens = turns.join_all().await;
        assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
        tokens.sort_unstable_by_key(|block| block.first);
        assert!(tokens.windows(2).all(|pair| pair[0].last < pair[1].first));
        comes_true("the end of all votes", async || {
            holders(&all).iter().all(Option::is_none)
        })
        .await;
    }
}
