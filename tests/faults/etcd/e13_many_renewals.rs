//! E13: 10,000 locks are renewed by a member that does not lead.

use super::*;

/// Thousands of leases of a process that asks a member which does not lead.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_locks_are_renewed_by_a_member_that_does_not_lead() {
    let _alone = alone().await;
    const LOCKS: usize = 10_000;
    let cluster = Options::default().start(3);
    let leader = cluster.leader();
    let follower = cluster.endpoints()[(leader + 1) % 3].clone();
    let mut settings = settings(&[follower]);
    settings.command_timeout = secs(20);
    let backend = std::sync::Arc::new(EtcdBackend::connect(settings).await.unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..100 {
        let backend = backend.clone();
        tasks.spawn(async move {
            let mut renewals = Vec::new();
            for lock in 0..LOCKS / 100 {
                let mut claim = claim(&format!("many:{task}:{lock}"));
                claim.ttl = secs(120);
                granted(&backend, &claim).await;
                renewals.push(Renewal::new(claim.key, claim.owner, claim.ttl));
            }
            renewals
        });
    }
    let renewals: Vec<Renewal> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(renewals.len(), LOCKS);
    assert_ne!(cluster.leader(), (leader + 1) % 3, "it does not lead");
    let began = Instant::now();
    let answers = timeout(DEADLINE, backend.renew(&renewals)).await.unwrap();
    println!("{LOCKS} renewals took {:?}", began.elapsed());
    assert!(
        began.elapsed() < secs(120) / 10,
        "they took {:?}",
        began.elapsed()
    );
    for answer in answers {
        assert!(matches!(answer.unwrap(), Renewed::Held(_)));
    }
}
