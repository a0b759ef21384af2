//! E4: a write is done after its client gave it up.

use super::*;

/// A claim that lies in the network, though whoever asked for it has been told that there is no
/// answer: it arrives when the pipe is opened.
async fn claim_on_its_way() -> (Cluster, Pipe, EtcdBackend, Claim) {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let backend = backend(&[pipe.endpoint()]).await;
    let before = claim("k");
    granted(&backend, &before).await;
    released(&backend, &before).await;
    pipe.hold();
    let gone = claim("k");
    {
        let mut asking = Box::pin(backend.acquire(&gone));
        assert!(timeout(ms(1), &mut asking).await.is_err());
        eventually("the claim is on its way", || pipe.held() > 200).await;
        sleep(ms(200)).await;
        pipe.seal();
        assert!(asking.await.is_err());
    }
    (cluster, pipe, backend, gone)
}

/// A claim that was asked for when there was no majority is granted once, when there is one again.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_done_late_is_granted_once_to_who_asks_again() {
    let cluster = Options::default().start(3);
    let backend = backend(&cluster.endpoints()).await;
    // A lease that is used again, so that the claim itself is what is under way.
    let before = claim("k");
    granted(&backend, &before).await;
    released(&backend, &before).await;
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    others.iter().for_each(|member| cluster.pause(*member));
    let wanted = claim("k");
    assert!(backend.acquire(&wanted).await.is_err());
    others.iter().for_each(|member| cluster.resume(*member));
    cluster.leader();
    let asking = async {
        loop {
            if let Ok(Acquired::Granted(_)) = backend.acquire(&wanted).await {
                return;
            }
            sleep(ms(50)).await;
        }
    };
    timeout(DEADLINE, asking).await.unwrap();
    assert_eq!(cluster.claims().len(), 1);
    released(&backend, &wanted).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// A claim lies in the network when it is withdrawn by another way; what arrives then does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_comes_after_its_withdrawal_takes_no_lock() {
    let (cluster, pipe, _backend, gone) = claim_on_its_way().await;
    let lease = cluster.leases();
    assert_eq!(lease.len(), 1, "the lease of the claim");
    // By another process, since all ways of this one lead through the pipe.
    let elsewhere = self::backend(&cluster.endpoints()).await;
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    let before = cluster.answered(0, "Txn");
    pipe.open();
    eventually("the claim arrives", || cluster.answered(0, "Txn") > before).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
    granted(&elsewhere, &claim("k")).await;
}

/// The control of the test before: a key that is only deleted appears when the write arrives.
#[tokio::test(flavor = "multi_thread")]
async fn control_a_deletion_is_overtaken_by_a_write_that_comes_late() {
    let (cluster, pipe, _backend, _) = claim_on_its_way().await;
    cluster.ctl(&["del", "--prefix", "lock:k/"]);
    pipe.open();
    eventually("the claim appears", || cluster.claims().len() == 1).await;
}

/// The control of a withdrawal: one that only deletes the claim is undone by what comes late.
#[cfg(lock_mistakes)]
#[tokio::test(flavor = "multi_thread")]
async fn control_a_withdrawal_by_deletion_alone_is_undone_by_what_comes_late() {
    let (cluster, pipe, _backend, gone) = claim_on_its_way().await;
    let mut settings = settings(&cluster.endpoints());
    settings.mistake = Some(lock_etcd::Mistake::WithdrawsByDeletionAlone);
    let elsewhere = EtcdBackend::connect(settings).await.unwrap();
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    pipe.open();
    eventually("the claim appears", || cluster.claims().len() == 1).await;
}
